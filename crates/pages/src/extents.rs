//! Which pages of a process are known, and in which slots of the arena: ranges, so that a gigabyte in a row is one entry.
//!
//! All numbers are page numbers (addresses divided by the page size).

use std::collections::BTreeMap;
use std::ops::Range;

/// What is known of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its bytes are in a slot; those of the next page are in the next slot.
    Stored(u64),
    /// It is zero.
    Zero,
}

impl Kind {
    /// The kind of the page `pages` further on in the same extent.
    fn after(self, pages: u64) -> Self {
        match self {
            Self::Stored(slot) => Self::Stored(slot + pages),
            Self::Zero => Self::Zero,
        }
    }
}

/// Pages in a row that are known in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub pages: Range<u64>,
    /// Of the first page.
    pub kind: Kind,
}

/// The index of one process.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    // Start to end and kind; neither overlapping nor empty.
    map: BTreeMap<u64, (u64, Kind)>,
}

impl Extents {
    /// What is known from `page` on, in one piece; none if that page is not known.
    pub(crate) fn at(&self, page: u64) -> Option<Extent> {
        let (start, (end, kind)) = self.map.range(..=page).next_back()?;
        (page < *end).then(|| Extent { pages: page..*end, kind: kind.after(page - start) })
    }

    /// The first known page at or after `page`.
    pub(crate) fn next(&self, page: u64) -> Option<u64> {
        if self.at(page).is_some() { Some(page) } else { self.map.range(page..).next().map(|(start, _)| *start) }
    }

    /// Enters pages that are known in one way; none of them may be known yet.
    pub(crate) fn insert(&mut self, pages: Range<u64>, kind: Kind) {
        if pages.is_empty() {
            return;
        }
        let (mut start, mut end, mut kind) = (pages.start, pages.end, kind);
        if let Some((before, (before_end, before_kind))) = self.map.range(..start).next_back() {
            let before = *before;
            if *before_end == start && before_kind.after(start - before) == kind {
                (start, kind) = (before, *before_kind);
            }
        }
        if let Some((after_end, after_kind)) = self.map.get(&end).copied()
            && kind.after(end - start) == after_kind
        {
            self.map.remove(&end);
            end = after_end;
        }
        self.map.insert(start, (end, kind));
    }

    /// Makes pages unknown; returns the runs of slots that they were in.
    pub(crate) fn remove(&mut self, pages: Range<u64>) -> Vec<(u64, u64)> {
        let mut slots = Vec::new();
        if pages.is_empty() {
            return slots;
        }
        let first = self.map.range(..=pages.start).next_back().map_or(pages.start, |(start, _)| *start);
        let touched: Vec<u64> = self.map.range(first..pages.end).map(|(start, _)| *start).collect();
        for start in touched {
            let (end, kind) = self.map[&start];
            let cut = start.max(pages.start)..end.min(pages.end);
            if cut.is_empty() {
                continue;
            }
            self.map.remove(&start);
            if start < cut.start {
                self.map.insert(start, (cut.start, kind));
            }
            if cut.end < end {
                self.map.insert(cut.end, (end, kind.after(cut.end - start)));
            }
            if let Kind::Stored(slot) = kind.after(cut.start - start) {
                slots.push((slot, cut.end - cut.start));
            }
        }
        slots
    }

    /// All extents, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Extent> {
        self.map.iter().map(|(start, (end, kind))| Extent { pages: *start..*end, kind: *kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_address_and_slot_become_one() {
        let mut extents = Extents::default();
        extents.insert(10..12, Kind::Stored(0));
        extents.insert(14..16, Kind::Stored(4));
        extents.insert(12..14, Kind::Stored(2));
        extents.insert(16..20, Kind::Zero);
        extents.insert(20..21, Kind::Stored(6));
        let list: Vec<_> = extents.iter().collect();
        assert_eq!(list[0], Extent { pages: 10..16, kind: Kind::Stored(0) });
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn a_hole_in_the_middle_leaves_both_ends_and_tells_the_slots() {
        let mut extents = Extents::default();
        extents.insert(10..20, Kind::Stored(100));
        assert_eq!(extents.remove(13..15), [(103, 2)]);
        assert_eq!(extents.at(12).unwrap().pages, 12..13);
        assert_eq!(extents.at(13), None);
        assert_eq!(extents.at(16), Some(Extent { pages: 16..20, kind: Kind::Stored(106) }));
        assert_eq!(extents.next(13), Some(15));
        assert_eq!(extents.next(20), None);
    }
}
