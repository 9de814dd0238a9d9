//! Reads pages of a process while it runs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::error::{Context, Error, Result};
use crate::guest;
use crate::procfs;
use crate::range::{self, PageRange};
use crate::sys::{self, Iovecs};

const BUFFER: usize = 4 << 20;
/// Ranges in one call (UIO_MAXIOV).
const RANGES: usize = 1024;

/// Bytes read, from addresses that lie beside each other.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Address of the first byte.
    pub start: u64,
    /// Whole pages.
    pub bytes: &'a [u8],
}

/// How a read went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// Bytes handed on.
    pub bytes: u64,
    /// Pages that were not there any more, nor anything else in their place. The next round says so too.
    pub vanished: Vec<PageRange>,
}

/// Reads the memory of one process from outside: process_vm_readv(2) in batches, into one buffer that is used again and
/// again; and /proc/PID/mem for what the process itself may not read (PROT_NONE).
///
/// The process runs meanwhile: a page that it writes to may be read half old, half new. The next round reports it.
#[derive(Debug)]
pub struct PageReader {
    pid: i32,
    pidfd: OwnedFd,
    page: u64,
    buffer: Vec<u8>,
    iovecs: Iovecs,
}

impl PageReader {
    /// For a process, with a buffer of 4 MiB.
    pub fn open(pid: i32) -> Result<Self> {
        Self::with_buffer(pid, BUFFER)
    }

    /// With a buffer of `bytes`, a page at least: the largest chunk that it hands on.
    pub fn with_buffer(pid: i32, bytes: usize) -> Result<Self> {
        let pidfd = guest::open(pid)?;
        let page = sys::page_size();
        let pages = (bytes as u64 / page).max(1);
        Ok(Self { pid, pidfd, page, buffer: vec![0; (pages * page) as usize], iovecs: Iovecs::default() })
    }

    /// Reads `ranges` in their order and hands the bytes to `take`, which stops everything by an error.
    pub fn read<E: From<Error>>(
        &mut self,
        ranges: &[PageRange],
        mut take: impl FnMut(Chunk<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<ReadReport, E> {
        let mut report = ReadReport::default();
        let mut memory = None;
        let mut rest = Rest { ranges, done: 0 };
        let mut batch = Vec::new();
        loop {
            rest.batch(self.buffer.len() as u64, &mut batch);
            if batch.is_empty() {
                return Ok(report);
            }
            let asked = range::total_bytes(&batch);
            let got = self.read_batch(&batch)?;
            let mut at = 0;
            for part in &batch {
                let bytes = part.bytes().min(got - at);
                if bytes > 0 {
                    take(Chunk { start: part.start, bytes: &self.buffer[at as usize..(at + bytes) as usize] })?;
                }
                at += bytes;
            }
            report.bytes += got;
            rest.advance(got);
            if got < asked {
                let stuck = rest.first().unwrap_or(PageRange::new(0, 0));
                let skipped = self.read_hard(stuck, &mut memory, &mut report, &mut take)?;
                rest.advance(skipped);
            }
        }
    }

    /// Whole pages read of a batch, in bytes.
    fn read_batch(&mut self, batch: &[PageRange]) -> Result<u64> {
        let bytes = range::total_bytes(batch) as usize;
        let read = sys::process_vm_read(self.pid, batch, &mut self.buffer[..bytes], &mut self.iovecs);
        // Only now is it certain that the number was still this process's.
        if sys::has_ended(self.pidfd.as_fd()) {
            return Err(Error::Ended { pid: self.pid });
        }
        match read {
            Ok(n) => Ok(n as u64 / self.page * self.page),
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(Error::Ended { pid: self.pid }),
            Err(e) => Err(e).context(|| format!("read the memory of process {}", self.pid)),
        }
    }

    /// Reads what the fast way cannot, from the start of `stuck`; how many bytes are dealt with, a page at least.
    fn read_hard<E: From<Error>>(
        &mut self,
        stuck: PageRange,
        memory: &mut Option<File>,
        report: &mut ReadReport,
        take: &mut impl FnMut(Chunk<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<u64, E> {
        let memory = match memory {
            Some(memory) => memory,
            None => memory.insert(procfs::open(self.pid, "mem")?),
        };
        let most = stuck.bytes().min(self.buffer.len() as u64) as usize;
        let n = match memory.read_at(&mut self.buffer[..most], stuck.start) {
            Ok(n) => n as u64 / self.page * self.page,
            Err(e) if e.raw_os_error() == Some(libc::EIO) => 0,
            Err(e) => return Err(Error::Io { what: format!("read /proc/{}/mem", self.pid), source: e }.into()),
        };
        if sys::has_ended(self.pidfd.as_fd()) {
            return Err(Error::Ended { pid: self.pid }.into());
        }
        if n > 0 {
            take(Chunk { start: stuck.start, bytes: &self.buffer[..n as usize] })?;
            report.bytes += n;
            return Ok(n);
        }
        // Where nothing is mapped, all of that is passed over at once; else (a guard page) one page.
        let next = procfs::maps(self.pid)?.into_iter().map(|vma| vma.range).find(|vma| vma.end > stuck.start);
        let end = match next {
            Some(vma) if vma.start <= stuck.start => stuck.start + self.page,
            Some(vma) => vma.start.min(stuck.end),
            None => stuck.end,
        };
        range::push(&mut report.vanished, PageRange::new(stuck.start, end));
        Ok(end - stuck.start)
    }
}

/// What is still to be read.
struct Rest<'a> {
    ranges: &'a [PageRange],
    /// Bytes of the first range that are done.
    done: u64,
}

impl Rest<'_> {
    fn first(&self) -> Option<PageRange> {
        self.ranges.first().map(|r| PageRange::new(r.start + self.done, r.end))
    }

    fn batch(&self, most: u64, batch: &mut Vec<PageRange>) {
        batch.clear();
        let mut room = most;
        let others = self.ranges.iter().skip(1).copied();
        for range in self.first().into_iter().chain(others).filter(|r| !r.is_empty()).take(RANGES) {
            let bytes = range.bytes().min(room);
            if bytes == 0 {
                break;
            }
            batch.push(PageRange::new(range.start, range.start + bytes));
            room -= bytes;
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        while let Some(first) = self.ranges.first().filter(|first| self.done >= first.bytes()) {
            self.done -= first.bytes();
            self.ranges = &self.ranges[1..];
        }
    }
}

/// Whether all bytes are zero. Fast on those that are not: most differ near their start.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Blocks that the compiler turns into wide instructions.
    bytes.chunks(256).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_byte_that_is_set_is_seen(len in 0usize..9000, at in 0usize..9000, bit in 0u8..8) {
            let mut bytes = vec![0; len];
            prop_assert!(is_zero(&bytes));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = 1 << bit;
                prop_assert!(!is_zero(&bytes));
            }
        }

        #[test]
        fn batches_are_all_the_ranges_in_their_order(
            sizes in proptest::collection::vec(0u64..9, 0..30), most in 1u64..12, short in 0u64..3,
        ) {
            let mut at = 0;
            let ranges: Vec<_> = sizes.iter().map(|size| {
                at += 100;
                PageRange::new(at, at + size)
            }).collect();
            let mut rest = Rest { ranges: &ranges, done: 0 };
            let (mut batch, mut all) = (Vec::new(), Vec::new());
            loop {
                rest.batch(most, &mut batch);
                let Some(last) = batch.last_mut() else { break };
                // A read that ends early.
                last.end -= short.min(last.bytes() - 1);
                prop_assert!(range::total_bytes(&batch) <= most);
                rest.advance(range::total_bytes(&batch));
                all.extend(batch.iter().flat_map(|r| r.start..r.end));
            }
            let want: Vec<u64> = ranges.iter().flat_map(|r| r.start..r.end).collect();
            prop_assert_eq!(all, want);
        }
    }
}
