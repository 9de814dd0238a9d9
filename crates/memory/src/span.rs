//! What is registered in one step.
//!
//! Registration splits a mapping where the range given ends, and a program may notice: mremap(2) fails with EFAULT on
//! addresses of two mappings, even when one mmap(2) had given them. The list of mappings that we go by is always a
//! little old, so a range that ends where a mapping *ended* may cut through one that is there now. Ranges therefore
//! reach over all neighbours, and the holes between them, up to a mapping that is not to be registered: a library's
//! text, say, whose place does not change.
//!
//! ```text
//!   text │  heap      ·anonymous· ·anonymous··anonymous·   │ text │data│ …
//!        └──────────────────── one span ───────────────────┘
//! ```

use crate::range::PageRange;

/// The spans of all mappings of a process, given by address: whether each is to be registered.
pub(crate) fn spans(mappings: impl IntoIterator<Item = (PageRange, bool)>) -> Vec<PageRange> {
    let mut spans: Vec<PageRange> = Vec::new();
    // Where the span under way began, and the end of the last mapping that is in none.
    let (mut open, mut barrier) = (None, None);
    let mut end = 0;
    for (range, registered) in mappings {
        if registered {
            open.get_or_insert(barrier.unwrap_or(range.start));
        } else {
            spans.extend(open.take().map(|start| PageRange::new(start, range.start)));
            barrier = Some(range.end);
        }
        end = range.end;
    }
    spans.extend(open.map(|start| PageRange::new(start, end)));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_reach_up_to_what_is_not_registered() {
        let map = |at: u64, registered| (PageRange::new(at, at + 10), registered);
        let of = |mappings: &[(PageRange, bool)]| spans(mappings.iter().copied());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[map(0, false)]), []);
        assert_eq!(of(&[map(20, true), map(50, true)]), [PageRange::new(20, 60)]);
        let mixed = [map(0, false), map(20, true), map(50, true), map(80, false), map(90, false), map(100, true)];
        assert_eq!(of(&mixed), [PageRange::new(10, 80), PageRange::new(100, 110)]);
    }

    proptest! {
        #[test]
        fn each_mapping_is_in_a_span_or_touches_none(gaps in proptest::collection::vec((0u64..3, 1u64..4, any::<bool>()), 0..20)) {
            let mut at = 0;
            let mappings: Vec<_> = gaps.iter().map(|(gap, size, registered)| {
                let start = at + gap;
                at = start + size;
                (PageRange::new(start, at), *registered)
            }).collect();
            let spans = spans(mappings.iter().copied());
            prop_assert!(spans.windows(2).all(|two| two[0].end < two[1].start));
            for (range, registered) in mappings {
                let overlap: u64 = spans.iter().map(|s| s.end.min(range.end).saturating_sub(s.start.max(range.start))).sum();
                prop_assert_eq!(overlap, if registered { range.bytes() } else { 0 });
            }
        }
    }
}
