#!/usr/bin/env bash
# Makes the node image: the root file system that every edge node of the testbed runs from.
#
#   scripts/setup-node-image.sh            make it if it is missing, print what was done
#   scripts/setup-node-image.sh --print    print the path of its rootfs (made or not)
#
# Result: $GODWIT_CACHE/node-image/<suite>-<hash>/rootfs, and a link "current" beside it. The hash covers
# everything below that decides what is in the image, so a changed list makes a new image and an unchanged
# one costs nothing. Two runs at once wait for each other; a killed run leaves nothing that the next one
# would take for an image (built in a temporary directory, synced, then renamed).
set -euo pipefail

# Forky (Debian 14): CRIU 4.2.1 and runc 1.3.6. Trixie's CRIU 4.1.1 cannot dump a TCP socket on Linux >= 6.16
# ("sockets: Can't get 1:16 opt: Operation not supported"), bookworm's 3.17.1 cannot dump at all on new kernels
# ("Unexpected rt vDSO area bounds"). Sid has the same versions as forky but may be uninstallable on any day;
# forky is kept installable, and will be stable.
SUITE=${GODWIT_NODE_SUITE:-forky}
PACKAGES=(
    criu runc                       # what migrates, and what runs it
    stress-ng                       # load scenarios
    iproute2 iputils-ping nftables ethtool
    iptables                        # plain "runc checkpoint" locks the network with it
    procps util-linux mount kmod ca-certificates
)
RECIPE=1 # raise when the mmdebstrap call below changes what is in the image

say() { printf 'node image: %s\n' "$*"; }
die() { printf 'node image: %s\n' "$*" >&2; exit 1; }

cache=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/node-image
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

say "making $SUITE from the host's own mirror (about half a minute, 0.4 GB)"
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
    "$SUITE" "$tmp/rootfs" \
    "deb [signed-by=$keyring check-valid-until=no] $mirror $SUITE main" >"$tmp/log" 2>&1; then
    cp "$tmp/log" "$cache/failed.log"
    tail -n 5 "$tmp/log" >&2
    die "mmdebstrap failed; its whole output is in $cache/failed.log"
fi
# Mount points that nodes need, and that /run/netns of the host is bound on.
mkdir -p "$tmp/rootfs/run/netns" "$tmp/rootfs/var/lib/godwit"
rm -f "$tmp/rootfs/etc/resolv.conf"
: >"$tmp/rootfs/etc/resolv.conf"

criu=$(chroot "$tmp/rootfs" criu --version | sed -n 's/^Version: //p')
runc=$(chroot "$tmp/rootfs" runc --version | sed -n 's/^runc version //p')
[[ -n $criu && -n $runc ]] || die "criu or runc does not start in the new image"
say "has CRIU $criu, runc $runc"

sync -f "$tmp"
: >"$tmp/complete"
mv -T "$tmp" "$image"
trap - EXIT
point_current
say "ready: $image/rootfs ($(du -sm "$image/rootfs" | cut -f1) MB)"
