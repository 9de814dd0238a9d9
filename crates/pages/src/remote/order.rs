//! Which page next: an order that keeps faults rare.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::Ranges;
use crate::PAGE;
use crate::pending::Pending;

/// What is likely to be touched after a page that was waited for: more after it than before it.
const BEFORE: u64 = 16 * PAGE;
const AFTER: u64 = 48 * PAGE;
/// Neighbourhoods that are remembered.
const NEIGHBOURHOODS: usize = 64;

/// What is still to be sent, and in which order: the neighbourhoods of what processes have waited for, the latest first;
/// what the caller calls hot, in its order; the rest by address.
#[derive(Debug, Default)]
pub struct Order {
    left: BTreeMap<i32, Pending>,
    around: VecDeque<(i32, Range<u64>)>,
    hot: VecDeque<(i32, Range<u64>)>,
    /// The rest goes on here.
    cursor: u64,
}

impl Order {
    /// All of `missing`, of which `hot` first.
    pub fn new(missing: &Ranges, hot: &Ranges) -> Self {
        let mut left: BTreeMap<i32, Vec<Range<u64>>> = BTreeMap::new();
        for (pid, range) in missing {
            left.entry(*pid).or_default().push(range.clone());
        }
        let left = left.into_iter().map(|(pid, ranges)| (pid, Pending::new(ranges))).collect();
        Self { left, hot: hot.iter().cloned().collect(), ..Self::default() }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left.values().all(Pending::is_empty)
    }

    /// A process waits for this page: whether it is to be sent now (else it is on its way). Its neighbours come next.
    pub fn want(&mut self, pid: i32, addr: u64) -> bool {
        self.around.push_front((pid, addr.saturating_sub(BEFORE)..addr.saturating_add(AFTER)));
        self.around.truncate(NEIGHBOURHOODS);
        let Some(left) = self.left.get_mut(&pid) else { return false };
        let there = left.piece(addr, PAGE).is_some();
        left.remove(addr..addr + PAGE);
        there
    }

    /// Takes out what is next: pages in a row, at most `most` bytes.
    pub fn next(&mut self, most: u64) -> Option<(i32, Range<u64>)> {
        let first = |queue: &mut VecDeque<(i32, Range<u64>)>, left: &BTreeMap<i32, Pending>| {
            while let Some((pid, range)) = queue.front() {
                let next = left.get(pid).and_then(|left| left.next_from(range.start, most));
                match next.filter(|piece| range.contains(&piece.at.start)) {
                    Some(piece) => return Some((*pid, piece.at.start..piece.at.end.min(range.end))),
                    None => queue.pop_front(),
                };
            }
            None
        };
        let queued = first(&mut self.around, &self.left).or_else(|| first(&mut self.hot, &self.left));
        let (pid, range) = match queued {
            Some(found) => found,
            None => {
                let (pid, left) = self.left.iter().find(|(_, left)| !left.is_empty())?;
                let range = left.next_from(self.cursor, most)?.at;
                self.cursor = range.end;
                (*pid, range)
            }
        };
        self.left.get_mut(&pid)?.remove(range.clone());
        Some((pid, range))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_waited_for_comes_first_then_its_neighbours_then_the_hot_then_the_rest() {
        let page = |n: u64| n * PAGE;
        let mut order = Order::new(&vec![(1, 0..page(1000)), (2, 0..page(2))], &vec![(1, page(700)..page(702))]);
        assert!(order.want(1, page(500)));
        assert!(!order.want(1, page(500)), "it is on its way");
        assert!(!order.want(9, page(500)));
        assert_eq!(order.next(PAGE * 8), Some((1, page(484)..page(492))));
        assert_eq!(order.next(PAGE * 8), Some((1, page(492)..page(500))));
        assert_eq!(order.next(PAGE * 64), Some((1, page(501)..page(548))));
        assert_eq!(order.next(PAGE * 64), Some((1, page(700)..page(702))));
        assert_eq!(order.next(PAGE * 64), Some((1, 0..page(64))));
    }

    proptest! {
        #[test]
        fn every_page_is_sent_once(
            starts in prop::collection::btree_set(0u64..60, 1..12), wants in prop::collection::vec((0i32..3, 0u64..300), 0..20),
        ) {
            let missing: Ranges = starts.iter().flat_map(|s| [(1, s * 5 * PAGE..(s * 5 + 3) * PAGE), (2, s * 5 * PAGE..(s * 5 + 1) * PAGE)]).collect();
            let mut order = Order::new(&missing, &vec![(2, 10 * PAGE..100 * PAGE)]);
            let mut sent = Vec::new();
            let mut wants = wants.into_iter();
            loop {
                if let Some((pid, page)) = wants.next() && order.want(pid, page * PAGE) {
                    sent.push((pid, page));
                }
                let Some((pid, range)) = order.next(2 * PAGE) else { break };
                prop_assert!(range.end - range.start <= 2 * PAGE);
                sent.extend((range.start / PAGE..range.end / PAGE).map(|page| (pid, page)));
            }
            prop_assert!(order.is_empty());
            sent.sort_unstable();
            let mut all: Vec<(i32, u64)> = missing.iter().flat_map(|(pid, r)| (r.start / PAGE..r.end / PAGE).map(|p| (*pid, p))).collect();
            all.sort_unstable();
            prop_assert_eq!(sent, all);
        }
    }
}
