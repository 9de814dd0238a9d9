# How a Debian root file system is made from a list of packages and kept outside the checkout; sourced by the scripts that
# make one, after they have set:
#
#   NAME        folder of the cache
#   WHAT        what it is called in messages
#   SUITE, PACKAGES
#   RECIPE      raised when the way it is made changes what is in it
#
# Then:
#   image_begin "$@"               answers --print, ends if it is there, else gets ready to make it in $tmp
#   image_make [OPTION...]         mmdebstrap into $tmp/rootfs, with these options besides
#   image_end                      puts it into its place, $image
#
# The hash covers what decides what is in the image, so a changed list makes a new image and an unchanged one costs nothing. Two runs
# at once wait for each other; a killed run leaves nothing that the next one would take for an image (built in a temporary
# directory, synced, then renamed).

say() { printf '%s: %s\n' "$WHAT" "$*"; }
die() { printf '%s: %s\n' "$WHAT" "$*" >&2; exit 1; }

point_current() {
    [[ $(readlink "$cache/current" 2>/dev/null) == "$SUITE-$hash" ]] && return
    ln -sfn "$SUITE-$hash" "$cache/.current.$$"
    mv -T "$cache/.current.$$" "$cache/current"
}

exit_if_ready() {
    [[ -e $image/complete ]] || return 0
    point_current
    say "ready: $image/rootfs"
    exit 0
}

image_begin() {
    cache=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/$NAME
    hash=$(printf '%s\n' "$RECIPE" "$SUITE" "${PACKAGES[@]}" | sha256sum | cut -c1-12)
    image=$cache/$SUITE-$hash

    case "${1:-}" in
        --print) printf '%s\n' "$image/rootfs"; exit 0 ;;
        '') ;;
        *) die "unknown argument $1 (only --print)" ;;
    esac

    exit_if_ready

    [[ $(id -u) == 0 ]] || die "root is needed to make it (device nodes, file owners): run as root"
    command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: run scripts/setup-system.sh first"

    mkdir -p "$cache"
    exec 9>"$cache/lock"
    if ! flock -n 9; then
        say "another run is at work, waiting for it"
        flock 9
    fi
    exit_if_ready
    # Whoever left these is dead: the lock is ours.
    rm -rf --one-file-system "$cache"/.tmp.* "$image"

    # The mirror that this host itself uses for Debian's main archive.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' | head -n 1)
    [[ -n $mirror ]] || die "this host's apt knows no Debian archive (apt-get indextargets names none): run apt-get update, or add one to /etc/apt/sources.list.d"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [[ -e $keyring ]] || die "$keyring is missing: apt-get install debian-archive-keyring"

    tmp=$cache/.tmp.$$
    mkdir "$tmp"
    trap 'rm -rf --one-file-system "$tmp"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

image_make() {
    # check-valid-until=no: the release files of suites that still move expire within a week, and a mirror that lags is no
    # reason to fail. They are verified by signature all the same.
    # A mount namespace of its own: whatever mmdebstrap mounts is gone with it, however it ends. It keeps the lock's
    # descriptor: if this script is killed, the next run waits until mmdebstrap too has ended.
    own_mounts=(unshare --mount --propagation private)
    "${own_mounts[@]}" true 2>/dev/null || own_mounts=() # in a plain chroot it cannot be had
    if ! "${own_mounts[@]}" mmdebstrap --mode=root --variant=essential --format=directory --quiet \
        --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")" \
        --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$@" "$SUITE" "$tmp/rootfs" \
        "deb [signed-by=$keyring check-valid-until=no] $mirror $SUITE main" >"$tmp/log" 2>&1; then
        cp "$tmp/log" "$cache/failed.log"
        tail -n 5 "$tmp/log" >&2
        die "mmdebstrap failed; its whole output is in $cache/failed.log"
    fi
}

image_end() {
    sync -f "$tmp"
    : >"$tmp/complete"
    mv -T "$tmp" "$image"
    trap - EXIT
    point_current
}
