//! PAGEMAP_SCAN (since Linux 6.7): which pages of a process there are, without an entry for each.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610u32 as libc::Ioctl;

// linux/fs.h
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// A guard page (since Linux 6.15) looks like one that is swapped out.
const PAGE_IS_GUARD: u64 = 1 << 8;

/// Regions that one call may return.
const REGIONS: usize = 4096;

#[repr(C)]
#[derive(Default)]
struct ScanArg {
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

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Whether the kernel has it.
pub(crate) fn works() -> bool {
    File::open("/proc/self/pagemap").is_ok_and(|own| present(own.as_fd(), 0x1_0000..0x1_1000).is_ok())
}

/// The pages of `range` that have content of their own: neither the zero page, nor a file's, nor guards.
pub(crate) fn present(pagemap: BorrowedFd<'_>, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    // A kernel that knows no guard pages refuses to be asked for them.
    match with_mask(pagemap, range.clone(), PAGE_IS_GUARD) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => with_mask(pagemap, range, 0),
        result => result,
    }
}

fn with_mask(pagemap: BorrowedFd<'_>, range: Range<u64>, guard: u64) -> io::Result<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut regions = vec![Region::default(); REGIONS];
    let mut at = range.start;
    while at < range.end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: at,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS as u64,
            category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE | guard,
            category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE | guard,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..ScanArg::default()
        };
        // SAFETY: the kernel writes at most `vec_len` regions to `vec`, which has room for them, and `walk_end`.
        let n = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        for region in &regions[..n as usize] {
            match found.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => found.push(region.start..region.end),
            }
        }
        if arg.walk_end <= at {
            return Err(io::Error::other("PAGEMAP_SCAN does not get on"));
        }
        at = arg.walk_end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_to_is_found_and_nothing_else() {
        if !works() {
            eprintln!("SKIPPED: no PAGEMAP_SCAN");
            return;
        }
        const PAGE: usize = 4096;
        let mut memory = vec![0u8; 64 * PAGE];
        let first = (memory.as_ptr() as usize).next_multiple_of(PAGE);
        let skip = first - memory.as_ptr() as usize;
        for page in [3, 4, 9] {
            memory[skip + page * PAGE] = 1;
        }
        let own = File::open("/proc/self/pagemap").unwrap();
        let first = first as u64;
        let found = present(own.as_fd(), first + 0x2000..first + 0x10000).unwrap();
        assert_eq!(found, [first + 0x3000..first + 0x5000, first + 0x9000..first + 0xa000]);
        drop(memory);
    }
}
