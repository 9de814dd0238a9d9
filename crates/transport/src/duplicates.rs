//! Pages that the other side has already.
//!
//! Both sides keep the last pages that went over, at the same places: the sender puts a page where the receiver will put
//! it when it has come so far. A page of the same bytes is then only named by its place. The sender compares the bytes
//! themselves: two pages of one hash are no duplicates.

use std::collections::HashMap;

use twox_hash::XxHash3_64;

use crate::error::{StreamError, corrupt};
use crate::sink::PAGE;

/// How many pages are kept: 16 MiB.
pub(crate) const SLOTS: u32 = 4096;
const SIZE: usize = PAGE as usize;

/// The pages, at the same places on both sides.
#[derive(Debug)]
pub(crate) struct Kept {
    pages: Vec<u8>,
    slots: u32,
    next: u32,
}

impl Kept {
    pub(crate) fn new(slots: u32) -> Self {
        Self { pages: Vec::new(), slots: slots.min(SLOTS), next: 0 }
    }

    /// Keeps a page in place of the oldest one; says where.
    pub(crate) fn put(&mut self, page: &[u8]) -> Option<u32> {
        if self.slots == 0 {
            return None;
        }
        let slot = self.next;
        let at = slot as usize * SIZE;
        if at == self.pages.len() {
            self.pages.extend_from_slice(page);
        } else {
            self.pages[at..at + SIZE].copy_from_slice(page);
        }
        self.next = (slot + 1) % self.slots;
        Some(slot)
    }

    pub(crate) fn get(&self, slot: u32) -> Result<&[u8], StreamError> {
        let at = (slot as usize).saturating_mul(SIZE);
        self.pages.get(at..at.saturating_add(SIZE)).ok_or_else(|| corrupt("a duplicate of a page that never came"))
    }
}

/// The sender's side: finds a page by its bytes.
#[derive(Debug)]
pub(crate) struct Known {
    kept: Kept,
    by_hash: HashMap<u64, u32>,
    hashes: Vec<u64>,
}

impl Known {
    pub(crate) fn new(slots: u32) -> Self {
        Self { kept: Kept::new(slots), by_hash: HashMap::new(), hashes: Vec::new() }
    }

    /// Where the receiver has these bytes, or will have when it has come so far; otherwise it will keep them.
    pub(crate) fn find_or_keep(&mut self, page: &[u8]) -> Option<u32> {
        self.find_or_keep_by(XxHash3_64::oneshot(page), page)
    }

    fn find_or_keep_by(&mut self, hash: u64, page: &[u8]) -> Option<u32> {
        if let Some(slot) = self.by_hash.get(&hash)
            && self.kept.get(*slot).is_ok_and(|kept| kept == page)
        {
            return Some(*slot);
        }
        if let Some(slot) = self.kept.put(page) {
            match self.hashes.get_mut(slot as usize) {
                Some(gone) => {
                    if self.by_hash.get(gone) == Some(&slot) {
                        self.by_hash.remove(gone);
                    }
                    *gone = hash;
                }
                None => self.hashes.push(hash),
            }
            self.by_hash.insert(hash, slot);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(byte: u8, other: u8) -> Vec<u8> {
        let mut page = vec![byte; SIZE];
        page[SIZE / 2] = other;
        page
    }

    #[test]
    fn two_pages_of_one_hash_are_two_pages() {
        let mut known = Known::new(8);
        assert_eq!(known.find_or_keep_by(7, &page(1, 1)), None);
        assert_eq!(known.find_or_keep_by(7, &page(2, 2)), None, "the same hash, other bytes");
        assert_eq!(known.find_or_keep_by(7, &page(2, 2)), Some(1));
    }

    #[test]
    fn without_slots_nothing_is_kept() {
        let mut known = Known::new(0);
        assert_eq!((known.find_or_keep(&page(1, 1)), known.find_or_keep(&page(1, 1))), (None, None));
    }

    proptest! {
        #[test]
        fn both_sides_keep_the_same(pages in prop::collection::vec((0u8..4, 0u8..4), 0..200), slots in 1u32..9) {
            let (mut known, mut kept) = (Known::new(slots), Kept::new(slots));
            for (a, b) in pages {
                let page = page(a, b);
                match known.find_or_keep(&page) {
                    Some(slot) => prop_assert_eq!(kept.get(slot).unwrap(), &page[..]),
                    None => _ = kept.put(&page),
                }
            }
            prop_assert!(known.by_hash.len() <= slots as usize);
            prop_assert!(kept.pages.len() <= slots as usize * SIZE);
            prop_assert!(kept.get(slots).is_err());
        }
    }
}
