#!/usr/bin/env bash
# Makes the image of the conformance tests: a root file system with real servers and their load generators.
#
#   scripts/setup-conformance.sh            make it if it is missing, print what was done
#   scripts/setup-conformance.sh --print    print the path of its rootfs (made or not)
#
# Result: $GODWIT_CACHE/conformance/<suite>-<hash>/rootfs, and a link "current" beside it, made in the way of
# scripts/setup-node-image.sh. Only tests use it: where it cannot be made, they are skipped, and say so.
set -euo pipefail

SUITE=${GODWIT_NODE_SUITE:-forky}
PACKAGES=(
    redis-server redis-tools        # redis-benchmark
    nginx-light wrk
    postgresql                      # with pgbench and pg_amcheck
    python3-minimal libpython3-stdlib
    nodejs
    sip-tester                      # sipp: the service and its callers
    iproute2 procps                 # for whoever looks into it
)
RECIPE=1 # raise when the mmdebstrap call below changes what is in the image

say() { printf 'conformance image: %s\n' "$*"; }
die() { printf 'conformance image: %s\n' "$*" >&2; exit 1; }

cache=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/conformance
hash=$(printf '%s\n' "$RECIPE" "$SUITE" "${PACKAGES[@]}" | sha256sum | cut -c1-12)
image=$cache/$SUITE-$hash

case "${1:-}" in
    --print) printf '%s\n' "$image/rootfs"; exit 0 ;;
    '') ;;
    *) die "unknown argument $1 (only --print)" ;;
esac

point_current() {
    [[ $(readlink "$cache/current" 2>/dev/null) == "$SUITE-$hash" ]] && return
    ln -sfn "$SUITE-$hash" "$cache/.current.$$"
    mv -T "$cache/.current.$$" "$cache/current"
}

if [[ -e $image/complete ]]; then
    point_current
    say "ready: $image/rootfs"
    exit 0
fi

[[ $(id -u) == 0 ]] || die "root is needed to make it (device nodes, file owners): run as root"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: run scripts/setup-system.sh first"

mkdir -p "$cache"
exec 9>"$cache/lock"
if ! flock -n 9; then
    say "another run is at work, waiting for it"
    flock 9
fi
if [[ -e $image/complete ]]; then
    point_current
    say "ready: $image/rootfs"
    exit 0
fi
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

SECONDS=0
say "making it from $SUITE and the host's own mirror (about a minute, 0.7 GB)"
# A mount namespace of its own: whatever mmdebstrap mounts is gone with it, however it ends.
own_mounts=(unshare --mount --propagation private)
"${own_mounts[@]}" true 2>/dev/null || own_mounts=() # in a plain chroot it cannot be had
# No package may start anything; PostgreSQL's makes no cluster, which the tests make for themselves.
if ! "${own_mounts[@]}" mmdebstrap --mode=root --variant=essential --format=directory --quiet \
    --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
    "$SUITE" "$tmp/rootfs" \
    "deb [signed-by=$keyring check-valid-until=no] $mirror $SUITE main" >"$tmp/log" 2>&1; then
    cp "$tmp/log" "$cache/failed.log"
    tail -n 5 "$tmp/log" >&2
    die "mmdebstrap failed; its whole output is in $cache/failed.log"
fi
# One path, whichever version it is.
ln -s "$(basename "$tmp"/rootfs/usr/lib/postgresql/*)" "$tmp/rootfs/usr/lib/postgresql/current"

for program in redis-server redis-benchmark nginx wrk python3 node sipp /usr/lib/postgresql/current/bin/pgbench; do
    chroot "$tmp/rootfs" sh -c "command -v $program" >/dev/null || die "$program is not in the new image"
done

sync -f "$tmp"
: >"$tmp/complete"
mv -T "$tmp" "$image"
trap - EXIT
point_current
say "ready after $SECONDS s: $image/rootfs ($(du -sm "$image/rootfs" | cut -f1) MB)"
