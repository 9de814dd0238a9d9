//! The entries of /proc/PID/pagemap, one a page: what kernels before PAGEMAP_SCAN have, and the only place where soft-dirty
//! marks show. See the kernel's Documentation/admin-guide/mm/pagemap.rst.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;

use crate::range::{self, PageRange};
use crate::sys::{self, Mapping};

const BYTES: usize = size_of::<u64>();
/// Entries read at once.
const ENTRIES: usize = 16 << 10;

const FRAME: u64 = (1 << 55) - 1;
const SOFT_DIRTY: u64 = 1 << 55;
const GUARD: u64 = 1 << 58;
/// Of a file, or of shared anonymous memory.
const FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// Reads entries, into one buffer that is used again and again.
pub(crate) struct Entries {
    buffer: Vec<u8>,
    /// Number of the page of zeros; none where we may not know the numbers of pages.
    zero: Option<u64>,
}

/// Which pages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that a dump would take.
    Populated,
    /// Of those the ones with a soft-dirty mark.
    SoftDirty,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; ENTRIES * BYTES], zero: zero_frame().ok().flatten() }
    }

    /// The pages of one mapping. `file`: leave out those of a file.
    pub(crate) fn pages(
        &mut self,
        pagemap: &File,
        of: PageRange,
        file: bool,
        which: Which,
        sample: &mut Sample,
    ) -> io::Result<Vec<PageRange>> {
        let page = sys::page_size();
        let mut pages = Vec::new();
        let mut at = of.start;
        while at < of.end {
            let want = ((of.end - at) / page).min(ENTRIES as u64) as usize * BYTES;
            let got = pagemap.read_at(&mut self.buffer[..want], at / page * BYTES as u64)? / BYTES;
            if got == 0 {
                // The memory is gone: execve(2), or the end.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for entry in self.buffer[..got * BYTES].chunks_exact(BYTES) {
                let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
                if self.is_dumped(entry, file) {
                    sample.offer(PageRange::new(at, at + page));
                    if which == Which::Populated || entry & SOFT_DIRTY != 0 {
                        range::push(&mut pages, PageRange::new(at, at + page));
                    }
                }
                at += page;
            }
        }
        Ok(pages)
    }

    fn is_dumped(&self, entry: u64, file: bool) -> bool {
        entry & (PRESENT | SWAPPED) != 0
            && entry & GUARD == 0
            && !(file && entry & FILE != 0)
            && !(entry & PRESENT != 0 && self.zero == Some(entry & FRAME))
    }
}

/// A few pages drawn by chance from all that are offered.
#[derive(Debug)]
pub(crate) struct Sample {
    most: usize,
    offered: u64,
    chance: RandomState,
    pub(crate) pages: Vec<PageRange>,
}

impl Sample {
    pub(crate) fn of(most: usize) -> Self {
        Self { most, offered: 0, chance: RandomState::new(), pages: Vec::new() }
    }

    /// Each page that was offered is in the sample with the same probability (reservoir sampling).
    fn offer(&mut self, page: PageRange) {
        self.offered += 1;
        if self.pages.len() < self.most {
            self.pages.push(page);
        } else if self.most > 0 {
            let drawn = (self.chance.hash_one(self.offered) % self.offered) as usize;
            if let Some(place) = self.pages.get_mut(drawn) {
                *place = page;
            }
        }
    }
}

/// The number that every page has which was read and never written.
fn zero_frame() -> io::Result<Option<u64>> {
    let memory = Mapping::new(sys::page_size())?;
    memory.read(0);
    let frame = own_entry(&memory)? & FRAME;
    // Without CAP_SYS_ADMIN the kernel says 0.
    Ok((frame != 0).then_some(frame))
}

fn own_entry(memory: &Mapping) -> io::Result<u64> {
    let mut entry = [0; BYTES];
    let at = memory.range().start / sys::page_size() * BYTES as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
    Ok(u64::from_ne_bytes(entry))
}

/// Whether this kernel marks pages soft-dirty. A page that was just written shows it where there are such marks, with nothing
/// cleared: that would be of our whole memory.
pub(crate) fn soft_dirty_works() -> io::Result<bool> {
    let mut memory = Mapping::new(sys::page_size())?;
    memory.write(0);
    Ok(own_entry(&memory)? & SOFT_DIRTY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_by_the_rules_of_a_dump() {
        let entries = Entries { buffer: Vec::new(), zero: Some(7) };
        let is = |entry, file| entries.is_dumped(entry, file);
        assert!(is(PRESENT | 8, false));
        assert!(is(SWAPPED | 7, true), "the number of a page in swap is none of a frame");
        assert!(!is(PRESENT | 7, false), "the page of zeros");
        assert!(!is(PRESENT | FILE | 8, true) && is(PRESENT | FILE | 8, false));
        assert!(!is(SOFT_DIRTY, false), "nothing is there");
        assert!(!is(SWAPPED | GUARD | SOFT_DIRTY, false));
    }

    #[test]
    fn a_sample_is_drawn_from_all_pages() {
        let mut drawn = [0u32; 20];
        for _ in 0..2000 {
            let mut sample = Sample::of(4);
            (0..20u64).for_each(|nth| sample.offer(PageRange::new(nth * 4096, (nth + 1) * 4096)));
            assert_eq!(sample.pages.len(), 4);
            sample.pages.iter().for_each(|page| drawn[(page.start / 4096) as usize] += 1);
        }
        // 400 each on average; this far off happens less than once in a billion runs.
        assert!(drawn.iter().all(|times| (250..550).contains(times)), "{drawn:?}");
        let mut few = Sample::of(4);
        few.offer(PageRange::new(0, 4096));
        assert_eq!(few.pages, [PageRange::new(0, 4096)]);
    }

    #[test]
    fn entries_say_the_same_as_a_scan() {
        let page = sys::page_size();
        let mut memory = Mapping::new(40 * page).unwrap();
        [3, 4, 9, 39].iter().for_each(|nth| memory.write(nth * page));
        memory.read(20 * page);
        let own = File::open("/proc/self/pagemap").unwrap();
        let found = Entries::new().pages(&own, memory.range(), false, Which::Populated, &mut Sample::of(0)).unwrap();
        let start = memory.range().start;
        let at = |from: u64, to: u64| PageRange::new(start + from * page, start + to * page);
        let written = [at(3, 5), at(9, 10), at(39, 40)];
        let of_root = Entries::new().zero.is_some();
        assert!(!of_root || found == written, "{found:x?}");
        assert!(written.iter().all(|range| found.contains(range)));
    }
}
