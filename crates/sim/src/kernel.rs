//! The event kernel: what happens next?
//!
//! The order is total: by time, and among events of one instant by the order in which they were scheduled. So a run
//! is the same on every machine, whatever the heap does inside.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use godwit_model::Time;

/// A queue of events in virtual time.
#[derive(Debug)]
pub struct Kernel<E> {
    now: Time,
    scheduled: u64,
    heap: BinaryHeap<Entry<E>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Time,
    sequence: u64,
    event: E,
}

impl<E> Ord for Entry<E> {
    /// The heap gives the greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> Default for Kernel<E> {
    fn default() -> Self {
        Self { now: Time::ZERO, scheduled: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Kernel<E> {
    /// An empty queue at the start of a run.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time of the event that happened last.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets an event happen; one in the past happens now, after what is scheduled for now already.
    pub fn schedule(&mut self, at: Time, event: E) {
        self.heap.push(Entry { at: at.max(self.now), sequence: self.scheduled, event });
        self.scheduled += 1;
    }

    /// Goes on to the next event.
    pub fn next_event(&mut self) -> Option<(Time, E)> {
        let Entry { at, event, .. } = self.heap.pop()?;
        self.now = at;
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_scheduled_for_the_past_happens_now_and_last() {
        let mut kernel = Kernel::new();
        kernel.schedule(Time::from_secs(2.0), "first");
        kernel.schedule(Time::from_secs(2.0), "second");
        assert_eq!(kernel.next_event(), Some((Time::from_secs(2.0), "first")));
        kernel.schedule(Time::from_secs(1.0), "late");
        assert_eq!(kernel.next_event(), Some((Time::from_secs(2.0), "second")));
        assert_eq!(kernel.next_event(), Some((Time::from_secs(2.0), "late")));
        assert_eq!(kernel.next_event(), None);
        assert_eq!(kernel.now(), Time::from_secs(2.0));
    }

    proptest! {
        #[test]
        fn events_happen_by_time_and_then_as_scheduled(times in prop::collection::vec(0u64..20, 0..200)) {
            let mut kernel = Kernel::new();
            for (sequence, micros) in times.iter().enumerate() {
                kernel.schedule(Time::from_micros(*micros), sequence);
            }
            let happened: Vec<_> = std::iter::from_fn(|| kernel.next_event()).collect();
            let mut expected: Vec<_> =
                times.iter().enumerate().map(|(sequence, t)| (Time::from_micros(*t), sequence)).collect();
            expected.sort();
            prop_assert_eq!(happened, expected);
        }
    }
}
