//! What a restored process still lacks: ranges of its addresses, each with the address that it had when it was dumped.
//!
//! The two differ once the process has moved a mapping (mremap).

use std::collections::BTreeMap;
use std::ops::Range;

/// A range that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where the process has it now.
    pub at: Range<u64>,
    /// Where its start was in the images.
    pub origin: u64,
}

/// All ranges that are missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    // Start to end and origin.
    map: BTreeMap<u64, (u64, u64)>,
    /// Something is not where it was in the images.
    moved: bool,
}

impl Pending {
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self::of(ranges.into_iter().map(|range| Piece { origin: range.start, at: range }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How much is missing.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.iter().map(|(start, (end, _))| end - start).sum()
    }

    /// Where something is missing.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.map.iter().map(|(start, (end, _))| *start..*end)
    }

    /// What is missing of a range of the images, wherever it is now; nothing twice, for nothing is in two places.
    pub(crate) fn pieces_of(&self, range: &Range<u64>) -> Vec<Piece> {
        let within = |at: Range<u64>, origin: u64| {
            let (from, to) = (origin.max(range.start), (origin + (at.end - at.start)).min(range.end));
            (from < to).then(|| Piece { at: at.start + (from - origin)..at.start + (to - origin), origin: from })
        };
        if self.moved {
            return self.map.iter().filter_map(|(start, (end, origin))| within(*start..*end, *origin)).collect();
        }
        let first = self.map.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.map.range(first..range.end).filter_map(|(start, (end, origin))| within(*start..*end, *origin)).collect()
    }

    /// All that is missing.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = Piece> {
        self.map.iter().map(|(start, (end, origin))| Piece { at: *start..*end, origin: *origin })
    }

    /// The same again, in another process.
    pub(crate) fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut pending = Self::default();
        for piece in pieces {
            pending.moved |= piece.at.start != piece.origin;
            pending.insert(piece);
        }
        pending
    }

    fn insert(&mut self, piece: Piece) {
        if !piece.at.is_empty() {
            self.map.insert(piece.at.start, (piece.at.end, piece.origin));
        }
    }

    /// What is missing from `addr` on, at most `most` bytes; none if that address is not missing.
    pub(crate) fn piece(&self, addr: u64, most: u64) -> Option<Piece> {
        let (start, (end, origin)) = self.map.range(..=addr).next_back()?;
        let end = (*end).min(addr.saturating_add(most));
        (addr < end).then(|| Piece { at: addr..end, origin: origin + (addr - start) })
    }

    /// What is missing at or after `addr`, or from the beginning if there is nothing after it.
    pub(crate) fn next_from(&self, addr: u64, most: u64) -> Option<Piece> {
        self.piece(addr, most).or_else(|| {
            let start = self.map.range(addr..).next().or_else(|| self.map.iter().next()).map(|(start, _)| *start)?;
            self.piece(start, most)
        })
    }

    /// Takes a range out: it is there, or is none of ours any more.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        drop(self.take(range));
    }

    /// The process has moved `from` (of the length `len`) to `to`.
    pub(crate) fn moved(&mut self, from: u64, to: u64, len: u64) {
        let pieces = self.take(from..from.saturating_add(len));
        self.moved |= !pieces.is_empty();
        // What was mapped there is gone.
        self.remove(to..to.saturating_add(len));
        for piece in pieces {
            let start = piece.at.start - from + to;
            self.insert(Piece { at: start..start + (piece.at.end - piece.at.start), origin: piece.origin });
        }
    }

    fn take(&mut self, range: Range<u64>) -> Vec<Piece> {
        let mut taken = Vec::new();
        if range.is_empty() {
            return taken;
        }
        let first = self.map.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let touched: Vec<u64> = self.map.range(first..range.end).map(|(start, _)| *start).collect();
        for start in touched {
            let (end, origin) = self.map[&start];
            let cut = start.max(range.start)..end.min(range.end);
            if cut.is_empty() {
                continue;
            }
            self.map.remove(&start);
            let here = |at: Range<u64>| Piece { origin: origin + (at.start - start), at };
            self.insert(here(start..cut.start));
            self.insert(here(cut.end..end));
            taken.push(here(cut));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_piece_is_at_the_address_or_after_it_or_at_the_beginning() {
        let pending = Pending::new([10..20, 30..40]);
        assert_eq!(pending.next_from(12, 3), Some(Piece { at: 12..15, origin: 12 }));
        assert_eq!(pending.next_from(25, 100), Some(Piece { at: 30..40, origin: 30 }));
        assert_eq!(pending.next_from(40, 5), Some(Piece { at: 10..15, origin: 10 }));
        assert_eq!(pending.piece(20, 5), None);
    }

    proptest! {
        #[test]
        fn it_is_a_map_from_address_to_origin(steps in proptest::collection::vec((0u8..2, 0u64..90, 0u64..90, 0u64..40), 0..20)) {
            let mut pending = Pending::new([0..30, 30..50, 70..90]);
            let mut model: BTreeMap<u64, u64> = (0..50).chain(70..90).map(|a| (a, a)).collect();
            for (what, from, to, len) in steps {
                if what == 0 {
                    pending.remove(from..from + len);
                    model.retain(|a, _| !(from..from + len).contains(a));
                } else {
                    // The kernel refuses to move a mapping onto itself.
                    if from.abs_diff(to) < len { continue; }
                    pending.moved(from, to, len);
                    let moved: Vec<_> = (from..from + len).filter_map(|a| Some((a - from + to, model.remove(&a)?))).collect();
                    model.retain(|a, _| !(to..to + len).contains(a));
                    model.extend(moved);
                }
                prop_assert_eq!(pending.bytes(), model.len() as u64);
            }
            for a in 0..200 {
                prop_assert_eq!(pending.piece(a, 1).map(|p| p.origin), model.get(&a).copied());
                let mut here: Vec<u64> = pending.pieces_of(&(a..a + 3)).iter().flat_map(|p| p.at.clone()).collect();
                here.sort_unstable();
                let expected: Vec<u64> = model.iter().filter(|(_, o)| (a..a + 3).contains(*o)).map(|(at, _)| *at).collect();
                prop_assert_eq!(here, expected);
            }
        }
    }
}
