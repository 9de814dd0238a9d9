#!/usr/bin/env bash
# cargo-deny over deny.toml. Licences, bans and sources need nothing but Cargo.lock and the crates themselves.
# Advisories need a database that lives on a git host: where that cannot be reached they are skipped, aloud,
# and the reason goes into the file named by GODWIT_SKIPPED, if that is set.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
deny=$(scripts/setup-tools.sh --print)/cargo-deny
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A skip in deny.toml that nothing needs any more is an error too: exceptions go when they can.
strict=(-D unmatched-skip -D unnecessary-skip)
"$deny" --locked check "${strict[@]}" bans licenses sources

if GIT_TERMINAL_PROMPT=0 timeout 60 "$deny" fetch db >"$log" 2>&1; then
    "$deny" --locked check --disable-fetch advisories
else
    why=$(grep -m 1 '^fatal:' "$log" || grep -m 1 . "$log" || echo "no answer within a minute")
    reason="advisories NOT CHECKED: their database cannot be fetched (${why#fatal: })"
    printf '!!! %s\n' "$reason" >&2
    if [[ -n ${GODWIT_SKIPPED:-} ]]; then printf '%s\n' "$reason" >>"$GODWIT_SKIPPED"; fi
fi
