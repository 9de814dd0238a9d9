#!/usr/bin/env bash
# Installs what a fresh Debian 12 (or later) lacks to build and run Godwit. Idempotent: when nothing is
# missing it asks no archive and ends at once.
#
#   scripts/setup-system.sh            install what is missing
#   scripts/setup-system.sh --tests    also what only the tests use
#   scripts/setup-system.sh --check    only say what is missing; exit status 1 if anything is
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# command it is looked for by : package that brings it
NEEDED=(
    cc:gcc
    ld:binutils
    make:make
    git:git
    ip:iproute2
    ping:iputils-ping
    nsenter:util-linux
    mount:mount
    mmdebstrap:mmdebstrap
    gpgv:gpgv
    ps:procps
    gzip:gzip
)
TESTS_NEED=(
    groff:groff-base                # lints the man pages
)
# file it is looked for by : package
NEEDED_FILES=(
    /usr/include/stdio.h:libc6-dev
    /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    /etc/ssl/certs/ca-certificates.crt:ca-certificates
)
# Where the makers of Rust offer rustup to systems that do not package it.
RUSTUP_INSTALLER=${GODWIT_RUSTUP_INSTALLER:-https://sh.rustup.rs}

say() { printf 'system: %s\n' "$*"; }
die() { printf 'system: %s\n' "$*" >&2; exit 1; }

# Root's tools may be outside a user's PATH, and rustup's outside everybody's.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

only_check=
for argument; do
    case $argument in
        --check) only_check=yes ;;
        --tests) NEEDED+=("${TESTS_NEED[@]}") ;;
        *) die "unknown argument $argument (only --check and --tests)" ;;
    esac
done

missing_packages() {
    local pair
    for pair in "${NEEDED[@]}"; do
        command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
    done
    for pair in "${NEEDED_FILES[@]}"; do
        [[ -e ${pair%%:*} ]] || printf '%s\n' "${pair##*:}"
    done
}

apt_install() {
    command -v apt-get >/dev/null || die "not a Debian system (no apt-get): install $* by hand"
    [[ $(id -u) == 0 ]] || die "missing: $*. Run this as root, or: apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    # The lists that the host has may do; they are fetched anew only when they do not.
    if ! apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
        say "fetching package lists"
        apt-get update >"$log" 2>&1 || say "apt-get update had errors, trying all the same"
        if ! apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
            tail -n 5 "$log" >&2
            rm -f "$log"
            die "could not install: $*"
        fi
    fi
    rm -f "$log"
}

mapfile -t missing < <(missing_packages)
if ((${#missing[@]})); then
    [[ -n $only_check ]] && die "missing packages: ${missing[*]}"
    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]} == 0)) || die "still missing after installation: ${missing[*]}"
fi
say "packages: complete"

# --- Rust -------------------------------------------------------------------------------------------------
wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$here/Cargo.toml" | head -n 1)
channel=$(sed -n 's/^channel *= *"\([^"]*\)".*/\1/p' "$here/rust-toolchain.toml" | head -n 1)

# True if the first version is at least the second.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# What cargo answers in this directory, where rust-toolchain.toml decides; empty if it answers nothing.
# No automatic installation: a question must not download.
cargo_version() { (cd "$here" && RUSTUP_AUTO_INSTALL=0 cargo --version 2>/dev/null || true) | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }

rust_is_ready() {
    local have
    have=$(cargo_version)
    [[ -n $have ]] && at_least "$have" "$wanted"
}

if ! rust_is_ready; then
    have=$(cargo_version)
    [[ -n $only_check ]] && die "cargo is ${have:-missing}, $wanted is needed"
    if ! command -v rustup >/dev/null; then
        # Debian packages rustup since trixie, not in bookworm.
        if apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
            say "installing rustup from its Debian package"
            apt_install rustup
        else
            say "installing rustup by its own installer"
            command -v curl >/dev/null || apt_install curl
            installer=$(mktemp)
            # Whether it worked is asked below: this may be a host that reaches nothing.
            if curl --proto '=https' --tlsv1.2 --silent --show-error --fail --retry 2 \
                --output "$installer" "$RUSTUP_INSTALLER"; then
                sh "$installer" -y --quiet --no-modify-path --profile minimal --default-toolchain none || true
            fi
            rm -f "$installer"
            hash -r
        fi
    fi
    if command -v rustup >/dev/null; then
        say "installing Rust $channel with rustup"
        # Several rustups accept no toolchain file for "install" without a name: name it.
        (cd "$here" && rustup toolchain install "$channel" --profile minimal \
            --component rustfmt --component clippy >/dev/null 2>&1) || true
    fi
    rust_is_ready || die "cargo is ${have:-missing} and Rust $wanted or newer is needed: install rustup as rust-lang.org says, then 'rustup toolchain install $channel', and run this again"
fi
say "cargo: $(cargo_version)"
