#!/bin/sh
# build.sh RELEASE ARCHITECTURE <SOURCES >ARCHIVE: builds a Debian release from apt sources, as root.
#
# mmdebstrap does what debootstrap does in half the time, takes the security updates along, and writes an archive.
set -eu
recipe=$(cd "$(dirname "$0")" && pwd)
packages=$(sed -e 's/#.*//' -e '/^ *$/d' "$recipe/packages.txt" | paste -sd,)

# Raspberry Pi OS keeps /bin in /usr, as Debian's own packages do since bookworm; before, the links must be there first.
# shellcheck disable=SC2016 # $1 is the hook's
link_to_usr='for folder in bin sbin lib lib64; do mkdir -p "$1/usr/$folder"; ln -s "usr/$folder" "$1/$folder"; done'
case $1 in
    bullseye) usr=--setup-hook=$link_to_usr ;;
    *) usr=--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr ;;
esac

# Documentation and translations are left out: nothing reads them here. Temporary files go to the disk, since /tmp may
# be memory.
TMPDIR=/var/tmp exec mmdebstrap --quiet --mode=root --variant=minbase --architectures="$2" --include="$packages" \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    "$usr" \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt=force-unsafe-io \
    --customize-hook="$recipe/customize.sh" \
    "$1" -
