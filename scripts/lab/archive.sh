# shellcheck shell=bash
# Builds archives of Debian releases and keeps them in the cache folder. A name contains the hash of the recipe (the folder
# molecule/lab/image and this computer's Debian mirrors), so an archive is rebuilt only when the recipe changes. Sourced
# after lib.sh, never run.

recipe=$LAB_ROOT/molecule/lab/image
own_architecture=$(dpkg --print-architecture)

# Prints the URL of a mirror ($1: Debian or Debian-Security) from this computer's own apt sources.
mirror_of() {
    # shellcheck disable=SC2016 # apt expands these $(…)
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# Sets main_mirror and security_mirror.
find_mirrors() {
    main_mirror=$(mirror_of Debian)
    if [ -z "$main_mirror" ] && grep -qsi '^ID=debian' /etc/os-release; then
        as_root apt-get update -qq # many container images come without package lists
        main_mirror=$(mirror_of Debian)
    fi
    security_mirror=$(mirror_of Debian-Security)
}

# Prints a release's apt sources; nothing if this computer has no Debian mirror (Ubuntu), so mmdebstrap uses its default.
sources_of() {
    [ -z "$main_mirror" ] || printf 'deb %s %s main\n' "$main_mirror" "$1" "$main_mirror" "$1-updates"
    [ -z "$security_mirror" ] || printf 'deb %s %s-security main\n' "$security_mirror" "$1"
}

recipe_hash() { # RELEASE ARCHITECTURE
    { cat "$recipe"/*; echo "$1 $2"; sources_of "$1"; } | sha256sum | cut -c1-16
}

# Builds the archive of a release ($1) for an architecture ($2) at $3. The file appears only when it is complete.
build() {
    sources_of "$1" | as_root "$recipe/build.sh" "$1" "$2" >"$3.new" && mv "$3.new" "$3"
}

# Sets archive to the path of a release ($1) for an architecture ($2), and builds it if the cache lacks it.
need_archive() {
    local name=$1 hash
    [ "$2" = "$own_architecture" ] || name=$2-$1
    hash=$(recipe_hash "$1" "$2")
    archive=$LAB_CACHE/$name-$hash.tar
    if [ ! -e "$archive" ]; then
        say "building the $name image (about a minute, five if emulated)"
        if ! build "$1" "$2" "$archive" 2>"$LAB_CACHE/$name.log"; then
            tail -n 20 "$LAB_CACHE/$name.log" >&2
            die "the $name image could not be built: see the lines above, and the whole log in $LAB_CACHE/$name.log."
        fi
        find "$LAB_CACHE" -maxdepth 1 -name "$name-*.tar*" ! -name "$name-$hash.tar" -delete
    fi
}
