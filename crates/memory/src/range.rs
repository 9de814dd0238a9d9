//! Runs of pages, and the arithmetic of sorted lists of them.

/// Pages that lie beside each other: addresses in bytes, `end` exclusive, both multiples of the page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// Address of the first byte.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
}

impl PageRange {
    /// From `start` up to `end`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Its size in bytes.
    pub fn bytes(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }
}

/// The bytes of all of them.
pub fn total_bytes(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|r| r.bytes()).sum()
}

/// Appends `range`, joined to the last one where they touch. The list stays sorted if it was and `range` comes after it.
pub(crate) fn push(list: &mut Vec<PageRange>, range: PageRange) {
    match list.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

/// What is in one or the other; both sorted.
pub(crate) fn union(mut one: Vec<PageRange>, other: Vec<PageRange>) -> Vec<PageRange> {
    if other.is_empty() {
        return one;
    }
    one.extend(other);
    one.sort_unstable();
    let mut all: Vec<PageRange> = Vec::with_capacity(one.len());
    for range in one {
        match all.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => push(&mut all, range),
        }
    }
    all
}

/// What is in `from` and not in `other`; both sorted, neither overlapping itself.
pub(crate) fn subtract(from: &[PageRange], other: &[PageRange]) -> Vec<PageRange> {
    let mut rest = Vec::new();
    let mut first = 0;
    for range in from {
        let mut start = range.start;
        while other.get(first).is_some_and(|o| o.end <= start) {
            first += 1;
        }
        for hole in other[first..].iter().take_while(|o| o.start < range.end) {
            push(&mut rest, PageRange::new(start, hole.start.max(start)));
            start = start.max(hole.end);
        }
        push(&mut rest, PageRange::new(start.min(range.end), range.end));
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(pages: &[bool]) -> Vec<PageRange> {
        let mut list = Vec::new();
        for (page, _) in (0..).zip(pages).filter(|(_, set)| **set) {
            push(&mut list, PageRange::new(page * 4096, (page + 1) * 4096));
        }
        list
    }

    #[test]
    fn what_touches_is_joined_and_nothing_is_dropped() {
        assert_eq!(list(&[true, true, false, true]), [PageRange::new(0, 8192), PageRange::new(12288, 16384)]);
        assert_eq!(total_bytes(&list(&[true, true, false, true])), 3 * 4096);
    }

    proptest! {
        #[test]
        fn subtracting_is_as_of_sets(pairs in proptest::collection::vec(any::<(bool, bool)>(), 0..40)) {
            let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().copied().unzip();
            let want: Vec<bool> = pairs.iter().map(|(a, b)| *a && !*b).collect();
            prop_assert_eq!(subtract(&list(&a), &list(&b)), list(&want));
        }

        #[test]
        fn a_union_is_as_of_sets(pairs in proptest::collection::vec(any::<(bool, bool)>(), 0..40)) {
            let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().copied().unzip();
            let want: Vec<bool> = pairs.iter().map(|(a, b)| *a || *b).collect();
            prop_assert_eq!(union(list(&a), list(&b)), list(&want));
        }
    }
}
