//! Silences between answers; pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A silence between two consecutive answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When the last answer before it came (for the first one: when the first request went).
    pub start: Instant,
    /// When the next answer came; for an open gap, the moment it was looked at.
    pub end: Instant,
    /// No answer has ended it yet.
    pub is_open: bool,
    /// The most that the client's own thread was late meanwhile: so much of the gap may be the client's, not the service's.
    pub own_delay: Duration,
}

impl Gap {
    /// How long.
    pub fn len(&self) -> Duration {
        self.end.saturating_duration_since(self.start)
    }

    /// Whether it took no time at all.
    pub fn is_empty(&self) -> bool {
        self.len().is_zero()
    }

    fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.start < to && self.end > from
    }
}

/// Every silence of the last minutes, and of the long ones all.
///
/// Bounded: 32768 of both (160 s of answers each 5 ms; 1.3 MB each). A long one that is dropped for want of room is counted.
#[derive(Debug)]
pub(crate) struct Gaps {
    long_from: Duration,
    silent_since: Option<Instant>,
    own_delay: Duration,
    worst: Option<Gap>,
    recent: VecDeque<Gap>,
    long: VecDeque<Gap>,
    dropped: u64,
}

const KEPT: usize = 32 << 10;

impl Gaps {
    /// A gap is long from `long_from` on.
    pub(crate) fn new(long_from: Duration) -> Self {
        Self {
            long_from,
            silent_since: None,
            own_delay: Duration::ZERO,
            worst: None,
            recent: VecDeque::new(),
            long: VecDeque::new(),
            dropped: 0,
        }
    }

    /// The first request went: from now on silence counts. Later calls change nothing.
    pub(crate) fn begin(&mut self, at: Instant) {
        self.silent_since.get_or_insert(at);
    }

    /// The client itself was late.
    pub(crate) fn own_delay(&mut self, late: Duration) {
        self.own_delay = self.own_delay.max(late);
    }

    /// An answer came.
    pub(crate) fn answer(&mut self, at: Instant) {
        if let Some(gap) = self.open(at) {
            self.keep(Gap { is_open: false, ..gap });
        }
        self.silent_since = Some(at);
        self.own_delay = Duration::ZERO;
    }

    /// Nothing more will come, although it should have.
    pub(crate) fn end(&mut self, at: Instant) {
        if let Some(gap) = self.open(at) {
            self.keep(gap);
        }
        self.silent_since = None;
    }

    fn keep(&mut self, gap: Gap) {
        if self.worst.is_none_or(|worst| gap.len() > worst.len()) {
            self.worst = Some(gap);
        }
        push(&mut self.recent, gap);
        if gap.len() >= self.long_from {
            self.dropped += u64::from(push(&mut self.long, gap));
        }
    }

    /// The silence that lasts.
    pub(crate) fn open(&self, now: Instant) -> Option<Gap> {
        self.silent_since.map(|start| Gap { start, end: now.max(start), is_open: true, own_delay: self.own_delay })
    }

    /// The longest of all, an open one included.
    pub(crate) fn worst(&self, now: Instant) -> Option<Gap> {
        self.worst.into_iter().chain(self.open(now)).max_by_key(Gap::len)
    }

    /// The longest that is over.
    pub(crate) fn worst_closed(&self) -> Option<Gap> {
        self.worst
    }

    /// The longest that overlaps `from..to`, in its whole length.
    pub(crate) fn worst_between(&self, from: Instant, to: Instant, now: Instant) -> Option<Gap> {
        let newest_first = |gaps: &VecDeque<Gap>| {
            let old_enough = gaps.partition_point(|gap| gap.end <= from);
            gaps.range(old_enough..).filter(|gap| gap.overlaps(from, to)).copied().max_by_key(Gap::len)
        };
        let open = self.open(now).filter(|gap| gap.overlaps(from, to));
        [newest_first(&self.long), newest_first(&self.recent), open].into_iter().flatten().max_by_key(Gap::len)
    }

    /// Answers that came after `from`.
    pub(crate) fn answers_since(&self, from: Instant) -> usize {
        self.recent.len() - self.recent.partition_point(|gap| gap.end <= from)
    }

    /// The long ones, in order, and how many were dropped.
    pub(crate) fn into_long(self) -> (Vec<Gap>, u64) {
        (self.long.into(), self.dropped)
    }
}

fn push(ring: &mut VecDeque<Gap>, gap: Gap) -> bool {
    let is_full = ring.len() == KEPT;
    if is_full {
        ring.pop_front();
    }
    ring.push_back(gap);
    is_full
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn silence_counts_from_the_first_request_and_while_it_lasts() {
        let t0 = Instant::now();
        let mut gaps = Gaps::new(10 * MS);
        assert_eq!(gaps.worst(t0), None);
        gaps.begin(t0);
        gaps.begin(t0 + MS);
        gaps.answer(t0 + 3 * MS);
        assert_eq!(gaps.worst(t0 + 4 * MS).map(|g| (g.len(), g.is_open)), Some((3 * MS, false)));
        gaps.own_delay(2 * MS);
        assert_eq!(
            gaps.worst(t0 + 43 * MS),
            Some(Gap { start: t0 + 3 * MS, end: t0 + 43 * MS, is_open: true, own_delay: 2 * MS })
        );
        gaps.answer(t0 + 53 * MS);
        gaps.answer(t0 + 54 * MS);
        assert_eq!(gaps.worst(t0 + 54 * MS).unwrap().own_delay, 2 * MS);
        assert_eq!(gaps.open(t0 + 54 * MS).unwrap().own_delay, Duration::ZERO);
    }

    proptest! {
        /// Against the plain definition: all pairs of consecutive answers, the longest that overlaps.
        #[test]
        fn the_worst_gap_of_any_window_is_the_longest_that_overlaps_it(
            steps in proptest::collection::vec(0u32..100, 1..200), a in 0u32..12_000, b in 0u32..12_000,
        ) {
            let t0 = Instant::now();
            let mut gaps = Gaps::new(50 * MS);
            gaps.begin(t0);
            let mut times = vec![t0];
            for step in &steps {
                times.push(*times.last().unwrap() + *step * MS);
                gaps.answer(*times.last().unwrap());
            }
            let now = *times.last().unwrap() + 40 * MS;
            times.push(now);
            let (from, to) = (t0 + a.min(b) * MS, t0 + a.max(b) * MS);
            let expected = times.windows(2).filter(|w| w[0] < to && w[1] > from).map(|w| w[1] - w[0]).max();
            prop_assert_eq!(gaps.worst_between(from, to, now).map(|g| g.len()), expected);
            prop_assert_eq!(gaps.worst(now).map(|g| g.len()), times.windows(2).map(|w| w[1] - w[0]).max());
            prop_assert_eq!(gaps.answers_since(from), times[1..times.len() - 1].iter().filter(|t| **t > from).count());
        }
    }
}
