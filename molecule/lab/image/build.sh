#!/bin/sh
# build.sh RELEASE ARCHITECTURE <SOURCES >ARCHIVE: builds an archive of a Debian release from apt sources. Needs root.
#
# With mmdebstrap, which takes half the time of debootstrap and installs security updates too.
set -eu
recipe=$(cd "$(dirname "$0")" && pwd)
packages=$(sed -e 's/#.*//' -e '/^ *$/d' "$recipe/packages.txt" | paste -sd,)

# Raspberry Pi OS has /bin in /usr. Debian's own packages do that since bookworm; for bullseye the links must exist first.
# shellcheck disable=SC2016 # the hook expands $1
link_to_usr='for folder in bin sbin lib lib64; do mkdir -p "$1/usr/$folder"; ln -s "usr/$folder" "$1/$folder"; done'
case $1 in
    bullseye) usr=--setup-hook=$link_to_usr ;;
    *) usr=--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr ;;
esac

# Without documentation and translations, which nothing reads here. Temporary files go to the disk, since /tmp may be in
# memory.
TMPDIR=/var/tmp exec mmdebstrap --quiet --mode=root --variant=minbase --architectures="$2" --include="$packages" \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    "$usr" \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt=force-unsafe-io \
    --customize-hook="$recipe/customize.sh" \
    "$1" -
