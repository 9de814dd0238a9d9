//! Where the bytes of stored pages are: a file without a name, addressed by slots of one page. Another process that has its
//! descriptor has the bytes, however this one ends.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::PAGE;

/// Pages of one chunk: 64 MiB.
const CHUNK: u64 = 16 * 1024;
const CHUNK_BYTES: u64 = CHUNK * PAGE;

/// Memory that is there before pages are, for the first process of which some come. Where the kernel (or what is below it) first has to
/// find memory, that takes longer than all else that is done to receive a page.
#[derive(Debug, Default)]
pub struct Reserve(Mutex<Option<File>>);

impl Reserve {
    /// Has the kernel find memory for so many bytes, as far as it gets in that time.
    pub fn of(bytes: u64, within: Duration) -> io::Result<Self> {
        if bytes == 0 {
            return Ok(Self::default());
        }
        let (begun, file) = (Instant::now(), create()?);
        let chunks = bytes.div_ceil(CHUNK_BYTES);
        file.set_len(chunks * CHUNK_BYTES)?;
        for number in (0..chunks).take_while(|_| begun.elapsed() < within) {
            back(&file, number, CHUNK_BYTES.min(bytes - number * CHUNK_BYTES))?;
        }
        Ok(Self(Mutex::new(Some(file))))
    }

    fn take(&self) -> Option<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn create() -> io::Result<File> {
    Ok(memfd_create(c"godwit-pages", MFdFlags::MFD_CLOEXEC)?.into())
}

/// Has the kernel find the memory of the first `bytes` of a part of the file.
fn back(file: &File, number: u64, bytes: u64) -> io::Result<()> {
    let chunk = Chunk::map_for(file, number, libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the range is within the mapping, which nobody else has; what is in it stays what it was.
    let done = unsafe { libc::madvise(chunk.0.as_ptr().cast(), bytes as usize, libc::MADV_POPULATE_WRITE) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // Linux before 5.14: it is found when it is written.
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}

/// Memory that grows; slots that were given up are used again.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// As long as the chunks together, or longer: what was in reserve.
    file: Option<File>,
    reserve: Arc<Reserve>,
    chunks: Vec<Chunk>,
    /// The first slot that was never used.
    next: u64,
    /// Runs of slots that were given up.
    free: Vec<(u64, u64)>,
}

impl Arena {
    /// One that takes what is in reserve, if it is there still.
    pub(crate) fn new(reserve: Arc<Reserve>) -> Self {
        Self { reserve, ..Self::default() }
    }

    /// One that another process has made, to be read.
    pub(crate) fn received(file: File) -> io::Result<Self> {
        let chunks = file.metadata()?.len() / CHUNK_BYTES;
        let chunks: Vec<Chunk> = (0..chunks).map(|n| Chunk::map(&file, n)).collect::<io::Result<_>>()?;
        let next = chunks.len() as u64 * CHUNK;
        Ok(Self { file: Some(file), chunks, next, ..Self::default() })
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
            none => none.insert(self.reserve.take().map_or_else(create, Ok)?),
        };
        let chunks = self.chunks.len() as u64;
        if file.metadata()?.len() < (chunks + 1) * CHUNK_BYTES {
            file.set_len((chunks + 1) * CHUNK_BYTES)?;
        }
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
        Self::map_for(file, number, libc::PROT_READ)
    }

    fn map_for(file: &File, number: u64, access: libc::c_int) -> io::Result<Self> {
        let at = libc::off_t::try_from(number * CHUNK_BYTES).map_err(io::Error::other)?;
        let (len, fd) = (CHUNK_BYTES as usize, file.as_raw_fd());
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, at) };
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
    fn what_is_in_reserve_is_there_and_is_used_once() {
        let reserve = Arc::new(Reserve::of((CHUNK + 5) * PAGE, Duration::MAX).unwrap());
        // In units of 512 bytes.
        let found = |arena: &Arena| {
            std::os::unix::fs::MetadataExt::blocks(&arena.file.as_ref().unwrap().metadata().unwrap()) * 512 / PAGE
        };
        let (mut first, mut second) = (Arena::new(Arc::clone(&reserve)), Arena::new(reserve));
        first.take(1).unwrap();
        assert_eq!(found(&first), CHUNK + 5);
        second.take(1).unwrap();
        assert_eq!(found(&second), 0);
        // Past what was in reserve it grows as ever.
        for _ in 0..3 {
            let (slot, _) = first.take(CHUNK).unwrap();
            first.write(slot, &[3; PAGE as usize]).unwrap();
            assert_eq!(first.bytes(slot, 1), [3; PAGE as usize]);
        }
        assert!(Reserve::of(CHUNK_BYTES, Duration::ZERO).is_ok(), "no time for it");
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
