//! A library that is loaded into CRIU before its own (LD_PRELOAD), for the time of a dump.
//!
//! In a lazy dump it spares the memory:
//!
//! CRIU asks the kernel which pages of a mapping there are (the ioctl PAGEMAP_SCAN on /proc/PID/pagemap), and then
//! takes every one of them in its hands, also those that will not be in the images: 30 ms for a gigabyte, while the
//! service stands. For the mappings in a table that it shares with us the answer here is: none. They are entered into
//! the images by us, who know them already.
//!
//! In any dump it knows the limits of processes: CRIU asks for them by prlimit, which a kernel answers of another user's
//! process only to somebody with CAP_SYS_RESOURCE. The same is in /proc/PID/limits, for everybody.
//!
//! Built by build.rs for the target; no std, since it lives in another program. What is not found as expected leads
//! to the kernel's own answer, which is always right and only slower.

#![no_std]
#![allow(non_camel_case_types)]

use core::arch::asm;
use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

// The kernel's numbers.
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const READ: isize = 0;
    pub(super) const CLOSE: isize = 3;
    pub(super) const IOCTL: isize = 16;
    pub(super) const OPENAT: isize = 257;
    pub(super) const PRLIMIT64: isize = 302;
}
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod number {
    pub(super) const READ: isize = 63;
    pub(super) const CLOSE: isize = 57;
    pub(super) const IOCTL: isize = 29;
    pub(super) const OPENAT: isize = 56;
    pub(super) const PRLIMIT64: isize = 261;
}
const AT_FDCWD: isize = -100;
const EPERM: isize = 1;
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;

/// Rows of the table, after a row whose first word says that we are here.
const ROWS: usize = 1023;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn unsetenv(name: *const c_char) -> c_int;
    fn mmap(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn readlink(path: *const c_char, room: *mut c_char, len: usize) -> isize;
}

/// One mapping: whose (0: the table ends), from where to where, and whether it was asked for.
#[repr(C)]
struct Row {
    pid: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    asked: AtomicU64,
}

#[repr(C)]
struct Table {
    here: Row,
    rows: [Row; ROWS],
}

/// linux/fs.h, as far as it matters here.
#[repr(C)]
struct pm_scan_arg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
}

/// Present or swapped out: what CRIU asks for when it wants the content, not guard regions or the like.
const HAS_CONTENT: u64 = 1 << 3 | 1 << 4;

static TABLE: AtomicPtr<Table> = AtomicPtr::new(core::ptr::null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    // SAFETY: C strings, and a descriptor that was made for this; checked before it is used.
    unsafe {
        let fd = number(getenv(c"GODWIT_SPARED".as_ptr()));
        unsetenv(c"LD_PRELOAD".as_ptr());
        unsetenv(c"GODWIT_SPARED".as_ptr());
        let Some(fd) = fd else { return };
        let len = size_of::<Table>();
        let map = mmap(core::ptr::null_mut(), len, PROT_READ_WRITE, MAP_SHARED, fd as c_int, 0);
        if map as isize != -1 {
            let table = map.cast::<Table>();
            (*table).here.pid.store(1, Ordering::SeqCst);
            TABLE.store(table, Ordering::SeqCst);
        }
    }
}

/// libc's function, whose third argument is a pointer or a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: the caller passes what the request wants, as to libc's own function.
    unsafe {
        if request as u32 == PAGEMAP_SCAN && is_spared(fd, arg.cast()) {
            let arg = arg.cast::<pm_scan_arg>();
            (*arg).walk_end = (*arg).end;
            return 0;
        }
        answer(kernel(number::IOCTL, [fd as isize, request as isize, arg as isize, 0, 0, 0])) as c_int
    }
}

/// libc's function, which takes as many arguments as the call wants: the others are whatever there is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    // SAFETY: the caller passes what the call wants, as to libc's own function.
    unsafe {
        let args = [a as isize, b as isize, c as isize, d as isize, e as isize, f as isize];
        let result = kernel(number as isize, args);
        let asks = number as isize == number::PRLIMIT64 && c == 0 && d != 0;
        if asks && result == -EPERM && read_limit(a as u32, b as usize, d as *mut [u64; 2]).is_some() {
            return 0;
        }
        answer(result)
    }
}

/// What the kernel says: at least 0, or an error number below 0.
unsafe fn kernel(number: isize, args: [isize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let result;
    // SAFETY: the kernel's own convention; what the arguments mean is the caller's business.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x5") f, options(nostack));
    }
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!("ecall", in("a7") number, inlateout("a0") a => result, in("a1") b, in("a2") c, in("a3") d, in("a4") e,
            in("a5") f, options(nostack));
    }
    result
}

/// The same as libc says it.
unsafe fn answer(result: isize) -> c_long {
    if (-4095..0).contains(&result) {
        // SAFETY: this thread's own.
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result as c_long
}

/// A limit of a process, soft and hard, from /proc/PID/limits: a line each in the order of their numbers, after one of
/// headings; the name in 26 columns.
unsafe fn read_limit(pid: u32, resource: usize, into: *mut [u64; 2]) -> Option<()> {
    let mut path = [0u8; 32];
    path[..6].copy_from_slice(b"/proc/");
    let end = 6 + decimal(pid, &mut path[6..16]);
    path[end..end + 7].copy_from_slice(b"/limits");
    let mut text = [0u8; 4096];
    let mut len = 0;
    // SAFETY: a C string, and room of the length that is told.
    unsafe {
        let fd = kernel(number::OPENAT, [AT_FDCWD, path.as_ptr() as isize, 0, 0, 0, 0]);
        if fd < 0 {
            return None;
        }
        loop {
            let room = &mut text[len..];
            match kernel(number::READ, [fd, room.as_mut_ptr() as isize, room.len() as isize, 0, 0, 0]) {
                n if n > 0 => len += n as usize,
                _ => break,
            }
        }
        kernel(number::CLOSE, [fd, 0, 0, 0, 0, 0]);
    }
    let line = text.get(..len)?.split(|b| *b == b'\n').nth(resource.checked_add(1)?)?;
    let mut values = line.get(26..)?.split(|b| *b == b' ').filter(|word| !word.is_empty()).map(limit);
    let limits = [values.next()??, values.next()??];
    // SAFETY: the caller's struct rlimit64.
    unsafe { *into = limits };
    Some(())
}

fn limit(word: &[u8]) -> Option<u64> {
    if word == b"unlimited" {
        return Some(u64::MAX);
    }
    let mut value = 0u64;
    for digit in word {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// Writes a number, of up to ten digits; how many.
fn decimal(value: u32, into: &mut [u8]) -> usize {
    let (mut digits, mut rest, mut n) = ([0u8; 10], value, 0);
    loop {
        digits[9 - n] = b'0' + (rest % 10) as u8;
        (rest, n) = (rest / 10, n + 1);
        if rest == 0 {
            break;
        }
    }
    into[..n].copy_from_slice(&digits[10 - n..]);
    n
}

unsafe fn is_spared(fd: c_int, arg: *const pm_scan_arg) -> bool {
    let table = TABLE.load(Ordering::SeqCst);
    // SAFETY: arg is PAGEMAP_SCAN's.
    let (start, end, content) = unsafe { ((*arg).start, (*arg).end, (*arg).category_anyof_mask == HAS_CONTENT) };
    if table.is_null() || !content {
        return false;
    }
    // SAFETY: mapped for ever.
    let table = unsafe { &*table };
    let mut pid = None;
    for row in &table.rows {
        let whose = row.pid.load(Ordering::SeqCst);
        if whose == 0 {
            break;
        }
        if row.start.load(Ordering::SeqCst) == start && row.end.load(Ordering::SeqCst) == end {
            // SAFETY: a descriptor of ours.
            let pid = pid.get_or_insert_with(|| unsafe { process_of(fd) });
            if *pid == Some(whose) {
                row.asked.store(1, Ordering::SeqCst);
                return true;
            }
        }
    }
    false
}

/// The pid in `/proc/PID/pagemap`, which the descriptor leads to.
unsafe fn process_of(fd: c_int) -> Option<u64> {
    let mut path = *b"/proc/self/fd/0000000000\0";
    let end = 14 + decimal(fd as u32, &mut path[14..24]);
    path[end] = 0;
    let mut room = [0u8; 64];
    // SAFETY: a C string, and room of the length that is told.
    let n = unsafe { readlink(path.as_ptr().cast(), room.as_mut_ptr().cast(), room.len()) };
    let found = room.get(..usize::try_from(n).ok()?)?.strip_suffix(b"/pagemap")?;
    let digits = found.rsplit(|b| *b == b'/').next()?;
    let mut pid = 0u64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
        pid = pid.checked_mul(10)? + u64::from(digit);
    }
    (!digits.is_empty()).then_some(pid)
}

unsafe fn number(text: *const c_char) -> Option<u32> {
    if text.is_null() {
        return None;
    }
    let (mut at, mut value) = (text.cast::<u8>(), 0u32);
    // SAFETY: a C string; the loop ends at its zero.
    unsafe {
        while *at != 0 {
            let digit = (*at).checked_sub(b'0').filter(|d| *d < 10)?;
            value = value.checked_mul(10)?.checked_add(u32::from(digit))?;
            at = at.add(1);
        }
    }
    Some(value)
}

/// The precompiled core library names it, and never calls it: nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
