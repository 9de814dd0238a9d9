#!/usr/bin/env bash
# Runs the tests of crates `net` and `memory` in a guest (QEMU without KVM) that has what the host's kernel may lack: Debian's own
# kernel with netem and soft-dirty marks, and without asynchronous write protection where it is older than Linux 6.7.
#
#   scripts/test-in-guest.sh              both crates
#   scripts/test-in-guest.sh memory       one
#
# Needs: qemu-system-x86 busybox-static kmod cpio (apt-get install them). The kernel is cached outside the checkout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"
crates=("$@")
(( $# )) || crates=(net memory)
# How long all of it may take, in seconds: the guest's processors are interpreted.
LIMIT=${GODWIT_GUEST_LIMIT:-1500}

say() { printf 'guest: %s\n' "$*"; }
die() { printf 'guest: %s\n' "$*" >&2; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static depmod:kmod cpio:cpio tc:iproute2; do
    command -v "${pair%%:*}" >/dev/null || die "${pair%%:*} is missing: apt-get install ${pair##*:}"
done

cache=${GODWIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/godwit}/guest
mkdir -p "$cache"
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends/ { print $2; exit }')
[[ -n $package ]] || die "this host's apt knows no linux-image-cloud-amd64: run apt-get update"
kernel=$cache/$package
if [[ ! -e $kernel/boot ]]; then
    say "fetching $package"
    tmp=$(mktemp -d "$cache/.tmp.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    (cd "$tmp" && apt-get download -q "$package" >/dev/null && dpkg-deb -x "$package"_*.deb root)
    mv -T "$tmp/root" "$kernel"
fi
version=$(basename "$kernel"/boot/vmlinuz-*)
version=${version#vmlinuz-}

work=$(mktemp -d "${TMPDIR:-/tmp}/godwit-guest.XXXXXX")
trap 'rm -rf "$work" ${tmp:+"$tmp"}' EXIT
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,run,tmp,tests,lib/modules}

# A program at the path that it has here, with the libraries that it asks for.
install_program() {
    mkdir -p "$root$(dirname "$1")"
    cp -L "$1" "$root$1"
    ldd "$1" 2>/dev/null | { grep -o '/[^ ]*' || true; } | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L --update "$library" "$root$library"
    done
}

packages=()
for crate in "${crates[@]}"; do packages+=(--package "godwit-$crate"); done
built=$(cargo test --locked "${packages[@]}" --no-run --message-format=json) || die "the tests do not build"
mapfile -t programs < <(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | sort -u)
(( ${#programs[@]} )) || die "cargo built no tests"
for program in "${programs[@]}"; do
    install_program "$program"
    case $program in */deps/*) ln -s "$program" "$root/tests/" ;; esac
done
for program in tc ip unshare kill strace sleep true; do
    found=$(type -P "$program") || continue
    install_program "$found"
done
cp "$(type -P busybox)" "$root/bin/busybox"

modules=$root/lib/modules/$version/kernel
mkdir -p "$modules/drivers" "$modules/net"
cp -r "$kernel/lib/modules/$version/kernel/drivers/net" "$modules/drivers/"
for part in sched bridge 802 llc netfilter ipv4 ipv6; do
    [[ ! -d $kernel/lib/modules/$version/kernel/net/$part ]] || cp -r "$kernel/lib/modules/$version/kernel/net/$part" "$modules/net/"
done
depmod -b "$root" "$version"

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run; mount -t tmpfs none /tmp
mkdir -p /sys/fs/cgroup/freezer; mount -t tmpfs none /sys/fs/cgroup; mkdir /sys/fs/cgroup/freezer
mount -t cgroup -o freezer none /sys/fs/cgroup/freezer
# A huge page has one soft-dirty mark: tests that count pages want small ones.
echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
for module in tun veth bridge sch_netem sch_htb cls_u32; do modprobe $module 2>/dev/null || echo "no $module"; done
ip link set lo up
uname -r
failed=0
for test in /tests/*; do
    case $test in */netem-*) show=--nocapture ;; *) show= ;; esac
    echo "--- $test"
    $test --test-threads 2 $show 2>&1 || { failed=$((failed + 1)); echo "FAILED: $test"; }
done
echo "left behind: $(ls /run/netns 2>/dev/null | wc -l) namespaces"
echo "guest: $failed test binaries failed"
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs.gz"
say "$package, $(du -sh "$work/initramfs.gz" | cut -f1) of tests"
timeout "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nodefaults -display none -no-reboot \
    -serial stdio -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1" </dev/null | tee "$work/log" || die "the guest did not end within $LIMIT s"
grep -q 'guest: 0 test binaries failed' "$work/log" || die "some tests failed (above)"
say "all passed in $SECONDS s"
