//! The service's memory: large, always changing, and able to tell when a restore got it wrong.
//!
//! ```text
//!   page (4 KiB): │ index │ generation │ checksum │ pattern of (seed, index, generation) … │
//!   beside it, in pages of its own: the generation that each page should have
//! ```
//! A page that was lost (zeros), altered, put in another's place, or restored from an older state than the rest is bad.
//! A page is checked before it is written anew, and every page in turn, so that nothing bad is painted over or
//! overlooked. A bad page is counted once and made good.

use crate::digest::{Digest, word};

/// Bytes of a page.
pub const PAGE: usize = 4096;

const WORDS: usize = PAGE / 8;
const HEADER: usize = 3;

/// Page-aligned, so that one page written is one page dirtied.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u64; WORDS]);

/// How a service's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Pages in all.
    pub pages: u64,
    /// Pages checked since the start; every page once each `pages` of them, at least.
    pub checked: u64,
    /// Pages found bad since the start.
    pub bad: u64,
}

/// A region of checkable pages.
pub struct Memory {
    pages: Vec<Page>,
    generations: Vec<u64>,
    seed: u64,
    next_check: usize,
    next_dirty: usize,
    stride: usize,
    checked: u64,
    bad: u64,
}

impl Memory {
    /// As many whole pages as `bytes` has, all filled.
    pub fn new(bytes: u64, seed: u64) -> Self {
        let count = usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX);
        let mut pages = vec![Page([0; WORDS]); count];
        for (index, page) in pages.iter_mut().enumerate() {
            fill(page, seed, index, 0);
        }
        Self {
            pages,
            generations: vec![0; count],
            seed,
            next_check: 0,
            next_dirty: 0,
            stride: spread(count),
            checked: 0,
            bad: 0,
        }
    }

    /// Writes one page anew, after a check; the pages' order jumps over the whole region and takes each once a round.
    pub fn dirty_one(&mut self) {
        let index = self.next_dirty;
        let Some(page) = self.pages.get_mut(index) else { return };
        self.checked += 1;
        if !is_good(page, self.seed, index, self.generations[index]) {
            self.bad += 1;
        }
        self.generations[index] += 1;
        fill(page, self.seed, index, self.generations[index]);
        self.next_dirty = (index + self.stride) % self.pages.len();
    }

    /// Checks the next page, in their order; reads it only, unless it is bad.
    pub fn check_one(&mut self) {
        let index = self.next_check;
        let Some(page) = self.pages.get_mut(index) else { return };
        self.checked += 1;
        if !is_good(page, self.seed, index, self.generations[index]) {
            self.bad += 1;
            fill(page, self.seed, index, self.generations[index]);
        }
        self.next_check = (index + 1) % self.pages.len();
    }

    /// What is known of it.
    pub fn verdict(&self) -> Verdict {
        Verdict { pages: self.pages.len() as u64, checked: self.checked, bad: self.bad }
    }

    /// Alters a bit, as nothing ever should.
    #[cfg(test)]
    pub(crate) fn flip(&mut self, page: usize, bit: usize) {
        self.pages[page].0[bit / 64] ^= 1 << (bit % 64);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("verdict", &self.verdict()).finish_non_exhaustive()
    }
}

fn fill(page: &mut Page, seed: u64, index: usize, generation: u64) {
    let key = word(seed ^ index as u64, generation);
    for (nth, slot) in (0..).zip(&mut page.0[HEADER..]) {
        *slot = word(key, nth);
    }
    page.0[0] = index as u64;
    page.0[1] = generation;
    page.0[2] = checksum(page, seed);
}

fn is_good(page: &Page, seed: u64, index: usize, generation: u64) -> bool {
    page.0[0] == index as u64 && page.0[1] == generation && page.0[2] == checksum(page, seed)
}

fn checksum(page: &Page, seed: u64) -> u64 {
    let mut digest = Digest::new(seed);
    digest.words(&page.0[..2]);
    digest.words(&page.0[HEADER..]);
    digest.finish()
}

/// A step that spreads over `count` and visits each before any again: near the golden section, coprime to `count`.
fn spread(count: usize) -> usize {
    let near = (count as f64 * 0.618_033_988_75) as usize;
    (near.max(1)..).find(|step| gcd(*step, count) == 1).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(pages: usize) -> Memory {
        Memory::new((pages * PAGE) as u64, 42)
    }

    fn check_all(memory: &mut Memory) -> u64 {
        let before = memory.bad;
        for _ in 0..memory.pages.len() {
            memory.check_one();
        }
        memory.bad - before
    }

    #[test]
    fn a_round_of_writing_takes_each_page_once() {
        for pages in [1, 2, 3, 10, 64, 97] {
            let mut memory = memory(pages);
            for _ in 0..pages {
                memory.dirty_one();
            }
            assert!(memory.generations.iter().all(|g| *g == 1), "{pages}");
            assert_eq!(check_all(&mut memory), 0);
            assert_eq!(memory.verdict(), Verdict { pages: pages as u64, checked: 2 * pages as u64, bad: 0 });
        }
    }

    #[test]
    fn no_memory_is_no_trouble() {
        let mut memory = memory(0);
        memory.dirty_one();
        memory.check_one();
        assert_eq!(memory.verdict(), Verdict::default());
    }

    #[test]
    fn a_stale_lost_or_misplaced_page_is_bad_once() {
        let mut memory = memory(8);
        let old = memory.pages[3].clone();
        for _ in 0..8 {
            memory.dirty_one();
        }
        memory.pages[3] = old;
        memory.pages[5] = Page([0; WORDS]);
        memory.pages.swap(0, 1);
        assert_eq!(check_all(&mut memory), 4);
        assert_eq!(check_all(&mut memory), 0);
    }

    #[test]
    fn writing_does_not_paint_over_a_bad_page() {
        let mut memory = memory(4);
        memory.flip(2, 7000);
        for _ in 0..4 {
            memory.dirty_one();
        }
        assert_eq!(memory.verdict().bad, 1);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(page in 0usize..6, bit in 0usize..PAGE * 8, writes in 0usize..20) {
            let mut memory = memory(6);
            for _ in 0..writes {
                memory.dirty_one();
            }
            memory.flip(page, bit);
            prop_assert_eq!(check_all(&mut memory), 1);
        }
    }
}
