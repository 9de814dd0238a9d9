//! Where the bytes of stored pages are: a file without a name, addressed by slots of one page. Another process that has its
//! descriptor has the bytes, however this one ends.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::PAGE;

/// Pages of one chunk: 64 MiB.
const CHUNK: u64 = 16 * 1024;
const CHUNK_BYTES: u64 = CHUNK * PAGE;

/// Memory that grows; slots that were given up are used again.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// As long as the chunks together.
    file: Option<File>,
    chunks: Vec<Chunk>,
    /// The first slot that was never used.
    next: u64,
    /// Runs of slots that were given up.
    free: Vec<(u64, u64)>,
}

impl Arena {
    /// One that another process has made, to be read.
    pub(crate) fn received(file: File) -> io::Result<Self> {
        let chunks = file.metadata()?.len() / CHUNK_BYTES;
        let chunks: Vec<Chunk> = (0..chunks).map(|n| Chunk::map(&file, n)).collect::<io::Result<_>>()?;
        let next = chunks.len() as u64 * CHUNK;
        Ok(Self { file: Some(file), chunks, next, free: Vec::new() })
    }

    /// By which another process has it; none while nothing is in it.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.file.as_ref().map(AsRawFd::as_raw_fd)
    }

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
            self.grow()?;
        }
        let slot = self.next;
        let got = pages.min(CHUNK - slot % CHUNK);
        self.next += got;
        Ok((slot, got))
    }

    fn grow(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(memfd_create(c"godwit-pages", MFdFlags::MFD_CLOEXEC)?.into()),
        };
        let chunks = self.chunks.len() as u64;
        file.set_len((chunks + 1) * CHUNK_BYTES)?;
        self.chunks.push(Chunk::map(file, chunks)?);
        Ok(())
    }

    /// Gives slots up.
    pub(crate) fn give_up(&mut self, slot: u64, pages: u64) {
        self.free.push((slot, pages));
    }

    /// The bytes of `pages` slots, or of as many of them as lie in a row.
    pub(crate) fn bytes(&self, slot: u64, pages: u64) -> &[u8] {
        let pages = pages.min(CHUNK - slot % CHUNK);
        let (at, len) = ((slot % CHUNK * PAGE) as usize, (pages * PAGE) as usize);
        &self.chunks[(slot / CHUNK) as usize].bytes()[at..at + len]
    }

    /// Writes whole pages from `slot` on. (A call writes them without first making them zero, which a mapping would.)
    pub(crate) fn write(&mut self, slot: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, slot * PAGE)
    }
}

/// A part of the file, mapped to be read.
#[derive(Debug)]
struct Chunk(NonNull<u8>);

// SAFETY: the mapping is read only, and lives as long as this does.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn map(file: &File, number: u64) -> io::Result<Self> {
        let at = libc::off_t::try_from(number * CHUNK_BYTES).map_err(io::Error::other)?;
        let (len, fd) = (CHUNK_BYTES as usize, file.as_raw_fd());
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, at) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and within the file, which never gets shorter. `Arena::write` needs the arena for itself alone, so
        // nothing is written while this is borrowed; a process that has received it only reads.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), CHUNK_BYTES as usize) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), CHUNK_BYTES as usize) };
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
        arena.write(CHUNK - 2, &bytes).unwrap();
        let first = arena.bytes(CHUNK - 2, 4);
        assert_eq!(first, &bytes[..2 * PAGE as usize]);
        assert_eq!(arena.bytes(CHUNK, 2), &bytes[2 * PAGE as usize..]);
    }

    #[test]
    fn who_has_its_descriptor_has_its_bytes() {
        let mut arena = Arena::default();
        assert_eq!(arena.descriptor(), None);
        let (slot, _) = arena.take(2).unwrap();
        arena.write(slot, &[7; 2 * PAGE as usize]).unwrap();
        let other = Arena::received(arena.file.as_ref().unwrap().try_clone().unwrap()).unwrap();
        drop(arena);
        assert_eq!(other.bytes(slot, 2), [7; 2 * PAGE as usize]);
    }
}
