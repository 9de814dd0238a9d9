#!/usr/bin/env bash
# Makes the node image: the root file system that every edge node of the testbed runs from.
#
#   scripts/setup-node-image.sh            make it if it is missing, print what was done
#   scripts/setup-node-image.sh --print    print the path of its rootfs (made or not)
#
# Result: $GODWIT_CACHE/node-image/<suite>-<hash>/rootfs, and a link "current" beside it. How it is
# made and kept: scripts/image.sh.
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
NAME=node-image
WHAT='node image'
. "$(dirname "${BASH_SOURCE[0]}")/image.sh"

image_begin "$@"
say "making $SUITE from the host's own mirror (about half a minute, 0.4 GB)"
image_make

# Mount points that nodes need, and that /run/netns of the host is bound on.
mkdir -p "$tmp/rootfs/run/netns" "$tmp/rootfs/var/lib/godwit"
rm -f "$tmp/rootfs/etc/resolv.conf"
: >"$tmp/rootfs/etc/resolv.conf"

criu=$(chroot "$tmp/rootfs" criu --version | sed -n 's/^Version: //p')
runc=$(chroot "$tmp/rootfs" runc --version | sed -n 's/^runc version //p')
[[ -n $criu && -n $runc ]] || die "criu or runc does not start in the new image"
say "has CRIU $criu, runc $runc"

image_end
say "ready: $image/rootfs ($(du -sm "$image/rootfs" | cut -f1) MB)"
