#!/usr/bin/env bash
# Installs the development tools that `make test` needs beside cargo, outside the checkout and outside ~/.cargo.
# Idempotent: when the right versions are there it asks nobody and ends at once.
#
#   scripts/setup-tools.sh            install what is missing or of another version
#   scripts/setup-tools.sh --print    print the folder of their programs
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# crate : program : version
TOOLS=(
    cargo-deny:cargo-deny:0.20.2
)

say() { printf 'tools: %s\n' "$*"; }
die() { printf 'tools: %s\n' "$*" >&2; exit 1; }

PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
root=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/tools

case "${1:-}" in
    --print) printf '%s\n' "$root/bin"; exit 0 ;;
    '') ;;
    *) die "unknown argument $1 (only --print)" ;;
esac

command -v cargo >/dev/null || die "cargo is missing: run scripts/setup-system.sh first"
mkdir -p "$root"
exec 9>"$root/lock"
flock 9

for tool in "${TOOLS[@]}"; do
    IFS=: read -r crate program version <<<"$tool"
    # "cargo-deny 0.20.2"
    have=$("$root/bin/$program" --version 2>/dev/null | sed -n '1s/^[^ ]* //p' || true)
    if [[ $have != "$version" ]]; then
        say "building $crate $version (a few minutes)"
        log=$root/$crate.log
        # With this checkout's toolchain, which is the one that setup-system.sh made sure of; not in its target folder.
        if ! (cd "$here" && CARGO_TARGET_DIR=$root/build cargo install --quiet --locked --force --root "$root" \
            --version "=$version" "$crate" >"$log" 2>&1 9>&-); then
            tail -n 10 "$log" >&2
            die "could not install $crate $version; cargo's whole output is in $log"
        fi
        rm -rf "$root/build"
    fi
    say "$crate $version"
done
