//! The system calls of tracking and reading: userfaultfd(2), ioctl_pagemap_scan(2), pidfd_getfd(2), process_vm_readv(2),
//! kcmp(2). Numbers and layouts are those of linux/userfaultfd.h and linux/fs.h.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::range::PageRange;

/// A page that has not been write-protected, or was written since.
pub(crate) const PAGE_IS_WRITTEN: u64 = 1 << 1;
/// A page of a file: not (yet) a private copy.
pub(crate) const PAGE_IS_FILE: u64 = 1 << 2;
pub(crate) const PAGE_IS_PRESENT: u64 = 1 << 3;
pub(crate) const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The shared page of zeros.
pub(crate) const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// A page of a guard region (MADV_GUARD_INSTALL); known to Linux 6.15 and newer, EINVAL before.
pub(crate) const PAGE_IS_GUARD: u64 = 1 << 8;

/// Write-protect what matches, in the same step as it is reported.
pub(crate) const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
/// Fail with EPERM where a mapping is not registered.
pub(crate) const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// The fault handler works in user mode only, which an unprivileged process may ask for.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
/// Flags of the userfaultfd that is made in the tracked process.
pub(crate) const UFFD_FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

const IOC_WRITE: u64 = 1;
const IOC_READ: u64 = 2;

const fn ioc<T>(direction: u64, kind: u8, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | (kind as u64) << 8 | number
}

const UFFDIO_API: u64 = ioc::<UffdioApi>(IOC_READ | IOC_WRITE, 0xaa, 0x3f);
const UFFDIO_REGISTER: u64 = ioc::<UffdioRegister>(IOC_READ | IOC_WRITE, 0xaa, 0x00);
const UFFDIO_UNREGISTER: u64 = ioc::<UffdioRange>(IOC_READ, 0xaa, 0x01);
const UFFDIO_WRITEPROTECT: u64 = ioc::<UffdioWriteprotect>(IOC_READ | IOC_WRITE, 0xaa, 0x06);
const PAGEMAP_SCAN: u64 = ioc::<PmScanArg>(IOC_READ | IOC_WRITE, b'f', 16);

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioWriteprotect {
    range: UffdioRange,
    mode: u64,
}

/// struct pm_scan_arg
#[repr(C)]
struct PmScanArg {
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
    return_mask: u64,
}

/// struct page_region
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageRegion {
    pub start: u64,
    pub end: u64,
    pub categories: u64,
}

/// Which pages a scan is for, and what it does to them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanRequest {
    pub flags: u64,
    /// Categories that a page must not have.
    pub none_of: u64,
    /// Categories that it must have, all of them.
    pub all_of: u64,
    /// Categories of which it must have one.
    pub any_of: u64,
}

fn cvt(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just handed us this descriptor and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the request's number says how large its argument is (`ioc` takes it from T), and that is all that the
    // kernel touches, apart from PAGEMAP_SCAN's vector, whose owner passes its true length.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(arg)) }.into())
}

fn uffdio_range(range: PageRange) -> UffdioRange {
    UffdioRange { start: range.start, len: range.bytes() }
}

/// Bytes of a page of this machine.
pub(crate) fn page_size() -> u64 {
    // SAFETY: takes an integer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// userfaultfd(2) for ourselves.
pub(crate) fn userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: takes an integer.
    cvt(unsafe { libc::syscall(libc::SYS_userfaultfd, UFFD_FLAGS) }).map(owned)
}

/// UFFDIO_API: agrees on asynchronous write protection. EINVAL where the kernel does not know it.
pub(crate) fn uffd_agree(uffd: BorrowedFd<'_>) -> io::Result<()> {
    let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
    ioctl(uffd, UFFDIO_API, &mut UffdioApi { api: UFFD_API, features, ioctls: 0 }).map(|_| ())
}

/// UFFDIO_REGISTER for write protection.
pub(crate) fn uffd_register(uffd: BorrowedFd<'_>, range: PageRange) -> io::Result<()> {
    let mut arg = UffdioRegister { range: uffdio_range(range), mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
    ioctl(uffd, UFFDIO_REGISTER, &mut arg).map(|_| ())
}

/// UFFDIO_UNREGISTER: ends the protection of its pages too.
pub(crate) fn uffd_unregister(uffd: BorrowedFd<'_>, range: PageRange) -> io::Result<()> {
    ioctl(uffd, UFFDIO_UNREGISTER, &mut uffdio_range(range)).map(|_| ())
}

/// UFFDIO_WRITEPROTECT with no mode: takes the protection away, all of the pages are as if written.
pub(crate) fn uffd_unprotect(uffd: BorrowedFd<'_>, range: PageRange) -> io::Result<()> {
    ioctl(uffd, UFFDIO_WRITEPROTECT, &mut UffdioWriteprotect { range: uffdio_range(range), mode: 0 }).map(|_| ())
}

/// PAGEMAP_SCAN: fills `regions` from the front; how many, and the address at which the scan stopped.
pub(crate) fn pagemap_scan(
    pagemap: &File,
    range: PageRange,
    request: ScanRequest,
    regions: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let mut arg = PmScanArg {
        size: size_of::<PmScanArg>() as u64,
        flags: request.flags,
        start: range.start,
        end: range.end,
        walk_end: 0,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: request.none_of,
        category_mask: request.all_of | request.none_of,
        category_anyof_mask: request.any_of,
        // What every page found has alike, so that neighbours come as one region.
        return_mask: (request.all_of | request.none_of) & (PAGE_IS_WRITTEN | PAGE_IS_PFNZERO),
    };
    let found = ioctl(pagemap.as_fd(), PAGEMAP_SCAN, &mut arg)?;
    Ok((found as usize, arg.walk_end))
}

/// pidfd_open(2): readable when the process has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(owned)
}

/// pidfd_getfd(2): a duplicate of descriptor `fd` of the process, close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) }).map(owned)
}

/// Whether the process behind a pidfd has ended.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd of ours, and the count says one.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// kcmp(2) with KCMP_VM: whether two processes live in the same memory.
pub(crate) fn same_memory(a: i32, b: i32) -> bool {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0 }
}

/// The type of the file system that `path` is on (statfs(2), its magic number).
pub(crate) fn filesystem(path: &str) -> io::Result<i64> {
    let path = CString::new(path)?;
    // SAFETY: all-zero is a value of this struct of integers.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated string and a struct of ours, both outliving the call.
    cvt(unsafe { libc::statfs(path.as_ptr(), &raw mut stat) }.into())?;
    #[allow(clippy::unnecessary_cast)] // its type differs between architectures
    Ok(stat.f_type as i64)
}

/// Room for the kernel's vectors.
#[derive(Debug, Default)]
pub(crate) struct Iovecs(Vec<libc::iovec>);

// SAFETY: the addresses in it are another process's, written before each call and read by the kernel in it only.
unsafe impl Send for Iovecs {}
// SAFETY: as above.
unsafe impl Sync for Iovecs {}

/// process_vm_readv(2): reads `ranges` one after the other into `buffer`; how many bytes, stopping at what cannot be
/// read. `iovecs` is scratch space.
pub(crate) fn process_vm_read(
    pid: i32,
    ranges: &[PageRange],
    buffer: &mut [u8],
    iovecs: &mut Iovecs,
) -> io::Result<usize> {
    let iovecs = &mut iovecs.0;
    iovecs.clear();
    iovecs.extend(
        ranges.iter().map(|r| libc::iovec { iov_base: r.start as *mut libc::c_void, iov_len: r.bytes() as usize }),
    );
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the local vector is our buffer with its true length; the remote addresses are another process's and only
    // read, by the kernel, which checks them.
    let n =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, iovecs.as_ptr(), iovecs.len() as libc::c_ulong, 0) };
    cvt(n as libc::c_long).map(|n| n as usize)
}

/// A private anonymous mapping of our own, to probe the kernel with.
#[derive(Debug)]
pub(crate) struct Mapping(PageRange);

impl Mapping {
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping wherever the kernel likes; nothing of ours is replaced.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(PageRange::new(at as u64, at as u64 + bytes)))
    }

    pub(crate) fn range(&self) -> PageRange {
        self.0
    }

    /// Moves it to other addresses (mremap(2)).
    pub(crate) fn relocate(&mut self) -> io::Result<()> {
        let there = Self::new(self.0.bytes())?;
        let bytes = self.0.bytes() as usize;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, to) = (self.0.start as *mut libc::c_void, there.0.start as *mut libc::c_void);
        // SAFETY: both are mappings of ours of that size, to which no reference exists; the second is replaced.
        if unsafe { libc::mremap(from, bytes, bytes, flags, to) } == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // One mapping now, and one owner.
        self.0 = there.0;
        std::mem::forget(there);
        Ok(())
    }

    /// Reads a byte.
    pub(crate) fn read(&self, offset: u64) {
        assert!(offset < self.0.bytes(), "inside the mapping");
        // SAFETY: inside the mapping, which is ours, readable and lives as long as self.
        unsafe { ((self.0.start + offset) as *const u8).read_volatile() };
    }

    /// Writes a byte.
    pub(crate) fn write(&mut self, offset: u64) {
        assert!(offset < self.0.bytes(), "inside the mapping");
        // SAFETY: inside the mapping, which is ours, writable and lives as long as self.
        unsafe { ((self.0.start + offset) as *mut u8).write_volatile(1) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference exists.
        unsafe { libc::munmap(self.0.start as *mut libc::c_void, self.0.bytes() as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(UFFDIO_API, 0xc018_aa3f);
        assert_eq!(UFFDIO_REGISTER, 0xc020_aa00);
        assert_eq!(UFFDIO_UNREGISTER, 0x8010_aa01);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xc018_aa06);
        assert_eq!(PAGEMAP_SCAN, 0xc060_6610);
    }
}
