#!/usr/bin/env bash
# Installs a worker in an emulated arm64 userland with the playbook for real Pis, and checks its health.
#
#   scripts/lab/arm64.sh [bookworm|trixie|bullseye]
#
# It proves that the copied wheels are for this architecture and install and run there without a network. There is no
# systemd and no firewall, since qemu emulates programs, not a machine; systemctl.sh starts the unit's command instead.
# Needs root or sudo, and .venv-ansible.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/lab/archive.sh
. "$LAB_ROOT/scripts/lab/archive.sh"

state=$LAB_ROOT/.cache/lab/arm64
root=$state/root
wheels=$LAB_CACHE/arm64-wheels

# Runs the rest of this script in new process, mount and network namespaces: no mount and no process stays behind, even
# after a failure, and nothing can be downloaded.
alone() {
    as_root unshare --mount --net --pid --fork --kill-child --mount-proc \
        env -i PATH="$LAB_ROOT/.venv-ansible/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root \
        PIBOT_LAB_CACHE="$LAB_CACHE" "${BASH_SOURCE[0]}" --alone
}

install_worker() {
    ip link set lo up
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    cat >"$state/inventory.ini" <<END
[master]
pibot-master ansible_host=127.0.0.2
[workers]
worker-1 ansible_connection=community.general.chroot ansible_host=$root pibot_address=127.0.0.1
[all:vars]
ansible_become=false
pibot_model=rehearsal
pibot_secrets_dir=$state/secrets
pibot_app_cache=$wheels
END
    cd "$LAB_ROOT/ansible"
    ansible-playbook -i "$state/inventory.ini" playbooks/workers.yml --skip-tags firewall
    say "the worker runs on $(chroot "$root" /home/pi/pibot-worker/current/venv/bin/python -c \
        'import platform; print(platform.machine(), "with Python", platform.python_version())')"
    health=$(curl --silent --show-error --fail --max-time 60 http://127.0.0.1:5000/health)
    say "its health: $health"
    [[ $health = *'"healthy"'* ]] || die "the worker is not healthy: see /var/log in $root."
}

if [ "${1:-}" = --alone ]; then
    install_worker
    exit
fi

release=${1:-bookworm}
[[ " ${LAB_RELEASES[*]} " = *" $release "* ]] || die "there is no release '$release': use one of ${LAB_RELEASES[*]}."
[ -x "$LAB_ROOT/.venv-ansible/bin/ansible-playbook" ] ||
    die ".venv-ansible is missing: make it with scripts/bootstrap.sh ansible .venv-ansible"
need_root
for program in mmdebstrap arch-test qemu-aarch64-static; do
    command -v "$program" >/dev/null || missing=yes
done
[ -z "${missing:-}" ] ||
    "$LAB_ROOT/scripts/apt-install.sh" mmdebstrap arch-test debian-archive-keyring qemu-user-static binfmt-support
[ -e /proc/sys/fs/binfmt_misc/register ] || as_root mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || as_root update-binfmts --enable qemu-aarch64 ||
    die "this computer's kernel can't run arm64 programs: it needs binfmt_misc, so load that module or use another computer."

mkdir -p "$LAB_CACHE" "$state"
exec 9>"$LAB_CACHE/arm64.lock"
flock 9
SECONDS=0
find_mirrors
need_archive "$release" arm64
say "unpacking the image ($SECONDS s)"
as_root rm -rf --one-file-system "$root"
mkdir "$root"
as_root tar --extract --numeric-owner --file "$archive" --directory "$root"
as_root install -m 0755 "$LAB_ROOT/scripts/lab/systemctl.sh" "$root/usr/bin/systemctl"

# On this computer, which has a network. Later, without one, the playbook finds the archive in its cache.
target=$(as_root chroot "$root" sh -c "python3 -c 'import platform; print(platform.python_version(), end=\",arm64,\")' &&
    getconf GNU_LIBC_VERSION | cut -d ' ' -f 2")
say "building the wheels for $target ($SECONDS s)"
"$LAB_ROOT/.venv-ansible/bin/python" "$LAB_ROOT/ansible/roles/pibot_app/files/wheelhouse.py" --source="$LAB_ROOT" \
    --lock="$LAB_ROOT/requirements/runtime.txt" --cache="$wheels" "$target" >/dev/null

say "installing a worker, without a network ($SECONDS s)"
started=$SECONDS
alone
as_root rm -rf --one-file-system "$root"
say "arm64 $release: installed and healthy in $((SECONDS - started)) s, $SECONDS s in all"
