//! Where the bytes of stored pages are: anonymous memory in large chunks, addressed by slots of one page.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use crate::PAGE;

/// Pages of one chunk: 64 MiB.
const CHUNK: u64 = 16 * 1024;
/// What the kernel backs with one huge page.
const HUGE: usize = 2 << 20;

/// Memory that grows; slots that were given up are used again.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    /// The first slot that was never used.
    next: u64,
    /// Runs of slots that were given up.
    free: Vec<(u64, u64)>,
}

impl Arena {
    /// At most `pages` slots in a row, at least one: the first and how many.
    pub(crate) fn take(&mut self, pages: u64) -> io::Result<(u64, u64)> {
        if let Some((slot, len)) = self.free.pop() {
            let got = len.min(pages);
            if got < len {
                self.free.push((slot + got, len - got));
            }
            return Ok((slot, got));
        }
        if self.next == self.chunks.len() as u64 * CHUNK {
            self.chunks.push(Chunk::map()?);
        }
        let slot = self.next;
        let got = pages.min(CHUNK - slot % CHUNK);
        self.next += got;
        Ok((slot, got))
    }

    /// Gives slots up.
    pub(crate) fn give_up(&mut self, slot: u64, pages: u64) {
        self.free.push((slot, pages));
    }

    /// The bytes of `pages` slots, or of as many of them as lie in a row.
    pub(crate) fn bytes(&self, slot: u64, pages: u64) -> &[u8] {
        let (chunk, at, len) = Self::place(slot, pages);
        &self.chunks[chunk].bytes()[at..at + len]
    }

    /// Writes whole pages from `slot` on.
    pub(crate) fn write(&mut self, mut slot: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (chunk, at, len) = Self::place(slot, bytes.len() as u64 / PAGE);
            let (now, later) = bytes.split_at(len);
            self.chunks[chunk].bytes_mut()[at..at + len].copy_from_slice(now);
            slot += len as u64 / PAGE;
            bytes = later;
        }
    }

    fn place(slot: u64, pages: u64) -> (usize, usize, usize) {
        let pages = pages.min(CHUNK - slot % CHUNK);
        ((slot / CHUNK) as usize, (slot % CHUNK * PAGE) as usize, (pages * PAGE) as usize)
    }
}

/// One mapping, aligned so that huge pages fit.
#[derive(Debug)]
struct Chunk {
    map: NonNull<u8>,
    map_len: usize,
    /// Where the aligned part begins.
    skip: usize,
}

const CHUNK_BYTES: usize = (CHUNK * PAGE) as usize;

// SAFETY: the mapping is ours alone, and `&`/`&mut self` guard it as they guard a Vec's.
unsafe impl Send for Chunk {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn map() -> io::Result<Self> {
        let map_len = CHUNK_BYTES + HUGE;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping, at an address of the kernel's choice.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), map_len, prot, flags | libc::MAP_NORESERVE, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let chunk = Self { map, map_len, skip: map.align_offset(HUGE) };
        // SAFETY: the range is within the mapping. It is advice: without huge pages it is only slower.
        unsafe { libc::madvise(chunk.start().cast(), CHUNK_BYTES, libc::MADV_HUGEPAGE) };
        // SAFETY: as above. Children (the guard) have no use for it.
        unsafe { libc::madvise(chunk.start().cast(), CHUNK_BYTES, libc::MADV_DONTFORK) };
        Ok(chunk)
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: skip < HUGE, and the mapping is HUGE longer than what is used of it.
        unsafe { self.map.as_ptr().add(self.skip) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, readable, zero or written by us, and unmapped only by drop.
        unsafe { std::slice::from_raw_parts(self.start(), CHUNK_BYTES) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and writable; `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start(), CHUNK_BYTES) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_in_a_row_up_to_the_end_of_a_chunk_and_are_used_again() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(CHUNK - 1).unwrap(), (0, CHUNK - 1));
        assert_eq!(arena.take(5).unwrap(), (CHUNK - 1, 1));
        assert_eq!(arena.take(5).unwrap(), (CHUNK, 5));
        arena.give_up(7, 3);
        assert_eq!(arena.take(2).unwrap(), (7, 2));
        assert_eq!(arena.take(2).unwrap(), (9, 1));
    }

    #[test]
    fn what_is_written_across_chunks_is_read_back_in_pieces() {
        let mut arena = Arena::default();
        arena.take(CHUNK).unwrap();
        arena.take(CHUNK).unwrap();
        let bytes: Vec<u8> = (0..4 * PAGE).map(|n| (n / PAGE + 1) as u8).collect();
        arena.write(CHUNK - 2, &bytes);
        let first = arena.bytes(CHUNK - 2, 4);
        assert_eq!(first, &bytes[..2 * PAGE as usize]);
        assert_eq!(arena.bytes(CHUNK, 2), &bytes[2 * PAGE as usize..]);
    }
}
