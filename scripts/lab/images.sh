#!/usr/bin/env bash
# Builds the lab's images, one for each Debian release, and loads them into podman as localhost/pibot-lab:RELEASE.
#
# An archive is kept in the cache folder under the hash of its recipe, and built again only when the recipe
# changes. The recipe is the folder molecule/lab/image and the Debian mirrors of this computer.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

recipe=$LAB_ROOT/molecule/lab/image
architecture=$(dpkg --print-architecture)

# Prints the address of an archive ("Debian" or "Debian-Security") as this computer's own apt sources name it.
mirror_of() {
    # shellcheck disable=SC2016 # the $(…) are apt's own
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# Prints a release's apt sources. Where this computer has no Debian mirror (Ubuntu), that is mmdebstrap's default.
sources_of() {
    [ -z "$main_mirror" ] || printf 'deb %s %s main\n' "$main_mirror" "$1" "$main_mirror" "$1-updates"
    [ -z "$security_mirror" ] || printf 'deb %s %s-security main\n' "$security_mirror" "$1"
}

recipe_hash() {
    { cat "$recipe"/*; echo "$1 $architecture"; sources_of "$1"; } | sha256sum | cut -c1-16
}

# Builds the archive of a release ($1) at $2. It appears under its name only when it is whole.
build() {
    sources_of "$1" | as_root "$recipe/build.sh" "$1" "$architecture" >"$2.new" && mv "$2.new" "$2"
}

# Makes the image of one release: from podman if it is there, else from the cache folder, else from Debian.
image() {
    local release=$1 hash archive image
    hash=$(recipe_hash "$release")
    archive=$LAB_CACHE/$release-$hash.tar
    image=$LAB_IMAGE:$release
    if [ "$(as_root podman image inspect --format '{{index .Labels "pibot.lab.recipe"}}' "$image" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    if [ ! -e "$archive" ]; then
        say "building the $release image (about a minute)"
        if ! build "$release" "$archive" 2>"$LAB_CACHE/$release.log"; then
            tail -n 20 "$LAB_CACHE/$release.log" >&2
            die "the $release image could not be built; the whole log is $LAB_CACHE/$release.log."
        fi
        find "$LAB_CACHE" -maxdepth 1 -name "$release-*.tar*" ! -name "$release-$hash.tar" -delete
    fi
    say "loading the $release image"
    as_root podman import --quiet --change "LABEL pibot.lab.recipe=$hash" --change 'CMD ["/sbin/init"]' \
        "$archive" "$image" >/dev/null
}

mkdir -p "$LAB_CACHE"
exec 9>"$LAB_CACHE/lock"
flock 9

main_mirror=$(mirror_of Debian)
if [ -z "$main_mirror" ] && grep -qsi '^ID=debian' /etc/os-release; then
    as_root apt-get update -qq # the lists were deleted, as in many container images
    main_mirror=$(mirror_of Debian)
fi
security_mirror=$(mirror_of Debian-Security)

jobs=()
for release in "${LAB_RELEASES[@]}"; do
    image "$release" </dev/null &
    jobs+=($!)
done
for job in "${jobs[@]}"; do
    wait "$job" || failed=yes
done
[ -z "${failed:-}" ] || exit 1
as_root podman image prune --force --filter 'label=pibot.lab.recipe' >/dev/null
say "the images are ready"
