//! A library that is loaded into CRIU before its own (LD_PRELOAD), for the time of a lazy dump.
//!
//! CRIU asks the kernel which pages of a mapping there are (the ioctl PAGEMAP_SCAN on /proc/PID/pagemap), and then
//! takes every one of them in its hands, also those that will not be in the images: 30 ms for a gigabyte, while the
//! service stands. For the mappings in a table that it shares with us the answer here is: none. They are entered into
//! the images by us, who know them already.
//!
//! Built by build.rs for the target; no std, since it lives in another program. What is not found as expected leads
//! to the kernel's own answer, which is always right and only slower.

#![no_std]
#![allow(non_camel_case_types)]

use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

// The kernel's numbers.
#[cfg(target_arch = "x86_64")]
const SYS_IOCTL: c_long = 16;
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const SYS_IOCTL: c_long = 29;
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;

/// Rows of the table, after a row whose first word says that we are here.
const ROWS: usize = 1023;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
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
        syscall(SYS_IOCTL, fd as c_long, request, arg) as c_int
    }
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
    let mut rest = fd as u32;
    for digit in path[14..24].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // Leading zeroes are no name there: move the digits to the front.
    let first = path[14..24].iter().position(|d| *d != b'0').unwrap_or(9);
    let len = 10 - first;
    let mut at = 0;
    while at < len {
        path[14 + at] = path[14 + first + at];
        at += 1;
    }
    path[14 + len] = 0;
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
