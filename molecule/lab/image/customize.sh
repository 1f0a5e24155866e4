#!/bin/sh
# Changes a bare Debian to match a Raspberry Pi after its first boot. mmdebstrap runs this with the new root as $1.
set -eu
root=$1

# The user that Raspberry Pi OS makes: user id 1000, sudo without a password; here its own password is locked.
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash --groups adm,sudo,users,video pi
echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/010_pi-nopasswd"
chmod 0440 "$root/etc/sudoers.d/010_pi-nopasswd"
install -d -m 0700 -o 1000 -g 1000 "$root/home/pi/.ssh"

# As Raspberry Pi Imager sets it up, the first boot makes the host's SSH key, which an image must not contain, and installs
# the owner's public key for pi. That key comes in PID 1's environment.
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/usr/local/sbin/first-boot" <<'SCRIPT'
#!/bin/sh
set -eu
tr '\0' '\n' </proc/1/environ | sed -n 's/^OWNERS_KEY=//p' >/home/pi/.ssh/authorized_keys
chown pi:pi /home/pi/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
SCRIPT
chmod 0755 "$root/usr/local/sbin/first-boot"
cat >"$root/etc/systemd/system/first-boot.service" <<'UNIT'
[Unit]
Description=Keys of this machine and of its owner
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/first-boot

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable first-boot.service

# A background run of apt would hold dpkg's lock at a random moment.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer

echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
