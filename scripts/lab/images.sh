#!/usr/bin/env bash
# Builds the lab's images, one for each Debian release, and loads them into podman as localhost/pibot-lab:RELEASE.
set -euo pipefail
# shellcheck source=scripts/lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/lab/archive.sh
. "$LAB_ROOT/scripts/lab/archive.sh"

# Makes sure that podman has the image of one release ($1), from the cache folder or else from Debian's packages.
image() {
    local release=$1 hash archive image
    hash=$(recipe_hash "$release" "$own_architecture")
    image=$LAB_IMAGE:$release
    if [ "$(as_root podman image inspect --format '{{index .Labels "pibot.lab.recipe"}}' "$image" 2>/dev/null)" = "$hash" ]; then
        return
    fi
    need_archive "$release" "$own_architecture"
    say "loading the $release image"
    as_root podman import --quiet --change "LABEL pibot.lab.recipe=$hash" --change 'CMD ["/sbin/init"]' \
        "$archive" "$image" >/dev/null
}

mkdir -p "$LAB_CACHE"
exec 9>"$LAB_CACHE/lock"
flock 9

find_mirrors

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
