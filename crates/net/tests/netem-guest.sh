#!/bin/sh
# Runs this crate's tests in a guest (QEMU, TCG) whose kernel has netem: Debian's cloud kernel.
# usage: tests/netem-guest.sh [SCRATCH-DIR]     needs: qemu-system-x86 busybox-static kmod cpio iproute2
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-${TMPDIR:-/tmp}/godwit-net-guest}
mkdir -p "$work" && cd "$work"

if ! ls kernel/boot/vmlinuz-* >/dev/null 2>&1; then
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends/ { print $2; exit }')
    apt-get download -q "$package"
    dpkg-deb -x "$package"_*.deb kernel
fi
version=$(basename kernel/boot/vmlinuz-*) && version=${version#vmlinuz-}

cd "$here"
binaries=$(cargo test --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p')
[ -n "$binaries" ] || { echo "the tests do not build: run cargo test --no-run" >&2; exit 1; }
cd "$work"

rm -rf root && mkdir -p root/bin root/tests root/proc root/sys root/dev root/run root/tmp root/lib/modules
cp /bin/busybox root/bin/
for program in tc ip; do cp "$(command -v $program)" root/bin/; done
for binary in $binaries; do cp "$binary" root/tests/; done
for file in root/bin/tc root/bin/ip root/tests/*; do
    ldd "$file" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "root$(dirname "$library")" && cp -L "$library" "root$library"
    done
done
modules=root/lib/modules/$version/kernel
mkdir -p "$modules/drivers" "$modules/net"
cp -r "kernel/lib/modules/$version/kernel/drivers/net" "$modules/drivers/"
for part in sched bridge 802 llc; do cp -r "kernel/lib/modules/$version/kernel/net/$part" "$modules/net/"; done
depmod -b root "$version"

cat > root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin RUST_BACKTRACE=0
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run
for module in tun veth bridge sch_netem sch_htb cls_u32; do modprobe $module || echo "no $module"; done
ip link set lo up
failed=0
for test in /tests/*; do
    case $test in */netem-*) show=--nocapture ;; *) show= ;; esac
    $test --test-threads 2 $show || { failed=$((failed + 1)); echo "FAILED: $test"; }
done
echo "left behind: $(ls /run/netns | wc -l) namespaces"
echo "guest: $failed test binaries failed"
poweroff -f
INIT
chmod +x root/init
(cd root && find . | cpio -o -H newc --quiet | gzip -1) > initramfs.gz
timeout 600 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 -nodefaults -display none -no-reboot \
    -serial stdio -kernel kernel/boot/vmlinuz-* -initrd initramfs.gz \
    -append "console=ttyS0 quiet panic=-1" | tee guest.log
grep -q "guest: 0 test binaries failed" guest.log
