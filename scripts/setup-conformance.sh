#!/usr/bin/env bash
# Makes the image of the conformance tests: a root file system with real servers and their load generators.
#
#   scripts/setup-conformance.sh            make it if it is missing, print what was done
#   scripts/setup-conformance.sh --print    print the path of its rootfs (made or not)
#
# Result: $GODWIT_CACHE/conformance/<suite>-<hash>/rootfs, and a link "current" beside it, made and
# kept as scripts/image.sh says. Only tests use it: where it cannot be made, they are skipped, and say so.
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
NAME=conformance
WHAT='conformance image'
. "$(dirname "${BASH_SOURCE[0]}")/image.sh"

image_begin "$@"
SECONDS=0
say "making it from $SUITE and the host's own mirror (about a minute, 0.7 GB)"
# No package may start anything; PostgreSQL's makes no cluster, which the tests make for themselves.
image_make --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"'
# One path, whichever version it is.
ln -s "$(basename "$tmp"/rootfs/usr/lib/postgresql/*)" "$tmp/rootfs/usr/lib/postgresql/current"

for program in redis-server redis-benchmark nginx wrk python3 node sipp /usr/lib/postgresql/current/bin/pgbench; do
    chroot "$tmp/rootfs" sh -c "command -v $program" >/dev/null || die "$program is not in the new image"
done

image_end
say "ready after $SECONDS s: $image/rootfs ($(du -sm "$image/rootfs" | cut -f1) MB)"
