//! userfaultfd(2): the system calls, for a descriptor that somebody else has made and registered.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::PAGE;

// linux/userfaultfd.h
const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02u32 as libc::Ioctl;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04u32 as libc::Ioctl;
const UFFDIO_POISON: libc::Ioctl = 0xc020_aa08u32 as libc::Ioctl;

const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_FORK: u8 = 0x13;
const EVENT_REMAP: u8 = 0x14;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

/// Messages that one read may bring.
const MESSAGES: usize = 16;
const MESSAGE: usize = 32;

/// Nothing is mapped below (vm.mmap_min_addr is less).
const LOWEST: u64 = 1 << 20;

/// What a process has done.
#[derive(Debug)]
pub(crate) enum Event {
    /// It waits for the page at this address.
    Fault(u64),
    /// It has forked; the child's memory is behind this descriptor.
    Fork(Uffd),
    /// It has moved a mapping.
    Remap { from: u64, to: u64, len: u64 },
    /// What was in this range is gone: dropped (reads as zero) or unmapped.
    Gone { start: u64, end: u64 },
}

/// How a range was filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes from its start on.
    Bytes(u64),
    /// Its first page is there already.
    There,
    /// The process changes its mappings at this moment: events come first.
    Changing,
    /// Nothing is registered at its start, or it does not lie within one mapping.
    NotMapped,
    /// The process is gone.
    Gone,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    filled: i64,
}

/// The memory of one process.
#[derive(Debug)]
pub(crate) struct Uffd(File);

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Uffd {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

impl Uffd {
    /// Takes over a descriptor that the kernel has just made for us, with a message that brought it.
    pub(crate) fn received(fd: RawFd) -> Self {
        // SAFETY: the callers pass what they have found in such a message, once.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    /// Puts `bytes`, whole pages, at `addr`, and wakes who waits for them.
    pub(crate) fn copy(&self, addr: u64, bytes: &[u8]) -> io::Result<Filled> {
        let mut arg = Copy { dst: addr, src: bytes.as_ptr() as u64, len: bytes.len() as u64, mode: 0, copied: 0 };
        // SAFETY: the kernel reads `len` bytes from `src`, which `bytes` covers, and writes the count into `arg`; the
        // memory that it changes is another process's.
        let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, &raw mut arg) };
        outcome(ret, arg.copied, bytes.len() as u64)
    }

    /// Makes a range zero, and wakes who waits for it.
    pub(crate) fn zero(&self, addr: u64, len: u64) -> io::Result<Filled> {
        let mut arg = Fill { range: Range { start: addr, len }, mode: 0, filled: 0 };
        // SAFETY: the kernel only writes the count into `arg`; the memory that it changes is another process's.
        let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut arg) };
        outcome(ret, arg.filled, len)
    }

    /// Makes a page such that touching it ends the process with SIGBUS (since Linux 6.6).
    pub(crate) fn poison(&self, addr: u64) -> io::Result<Filled> {
        let mut arg = Fill { range: Range { start: addr, len: PAGE }, mode: 0, filled: 0 };
        // SAFETY: as in `zero`.
        let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_POISON, &raw mut arg) };
        outcome(ret, arg.filled, PAGE)
    }

    /// Wakes who waits for a page that is there.
    pub(crate) fn wake(&self, addr: u64) {
        let arg = Range { start: addr, len: PAGE };
        // SAFETY: the kernel only reads `arg`. It fails only for a bad range, for which nobody can wait.
        unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WAKE, &raw const arg) };
    }

    /// Wakes all that wait. Their faults are told again, to whoever reads them next.
    pub(crate) fn wake_all(&self) {
        // The kernel takes no range that the process cannot have: the longest that it takes.
        for bits in [56, 52, 48, 47, 42, 39, 38, 36] {
            let arg = Range { start: LOWEST, len: (1 << bits) - 2 * LOWEST };
            // SAFETY: the kernel only reads `arg`.
            if unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_WAKE, &raw const arg) } == 0 {
                return;
            }
        }
    }

    /// What has happened since the last call; empty when nothing has.
    pub(crate) fn events(&self) -> io::Result<Vec<Event>> {
        let mut room = [0u8; MESSAGES * MESSAGE];
        let n = match (&self.0).read(&mut room) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(e) => return Err(e),
        };
        room[..n].chunks_exact(MESSAGE).map(parse).collect()
    }
}

fn outcome(ret: i32, done: i64, asked: u64) -> io::Result<Filled> {
    if ret == 0 {
        return Ok(Filled::Bytes(asked));
    }
    let error = io::Error::last_os_error();
    if done > 0 {
        return Ok(Filled::Bytes(done as u64));
    }
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(Filled::There),
        Some(libc::EAGAIN) => Ok(Filled::Changing),
        Some(libc::ENOENT) => Ok(Filled::NotMapped),
        Some(libc::ESRCH | libc::ENOSPC) => Ok(Filled::Gone),
        _ => Err(error),
    }
}

fn parse(message: &[u8]) -> io::Result<Event> {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[8 + at..16 + at]);
        u64::from_ne_bytes(bytes)
    };
    Ok(match message[0] {
        EVENT_PAGEFAULT => Event::Fault(number(8) / PAGE * PAGE),
        EVENT_FORK => {
            let mut fd = [0; 4];
            fd.copy_from_slice(&message[8..12]);
            Event::Fork(Uffd::received(RawFd::from_ne_bytes(fd)))
        }
        EVENT_REMAP => Event::Remap { from: number(0), to: number(8), len: number(16) },
        EVENT_REMOVE | EVENT_UNMAP => Event::Gone { start: number(0), end: number(8) },
        other => return Err(io::Error::other(format!("unknown event {other:#x} of a userfaultfd"))),
    })
}
