//! The delay line as data: packets in with a time, packets out when they are due. No I/O, no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Nanoseconds on the monotonic clock.
pub(crate) type Nanos = u64;

/// Which of the queues a packet stands in: one for each direction and peer.
pub(crate) type Class = usize;

/// Packets on their way. Within a class they leave in the order in which they came, whatever their delays.
#[derive(Default)]
pub(crate) struct DelayQueue<P> {
    classes: Vec<Line<P>>,
    /// The head of every class that is not empty, by due time, then by class.
    heads: BinaryHeap<Reverse<(Nanos, Class)>>,
}

struct Line<P> {
    packets: VecDeque<(Nanos, P)>,
    last_due: Nanos,
}

impl<P> DelayQueue<P> {
    pub(crate) fn new() -> Self {
        Self { classes: Vec::new(), heads: BinaryHeap::new() }
    }

    /// Puts a packet in, to leave at `due`, or with its predecessor if that leaves later.
    pub(crate) fn push(&mut self, class: Class, due: Nanos, packet: P) {
        while self.classes.len() <= class {
            self.classes.push(Line { packets: VecDeque::new(), last_due: 0 });
        }
        let line = &mut self.classes[class];
        let due = due.max(line.last_due);
        line.last_due = due;
        if line.packets.is_empty() {
            self.heads.push(Reverse((due, class)));
        }
        line.packets.push_back((due, packet));
    }

    /// Whether a packet of this class may overtake nothing if it left now.
    pub(crate) fn is_empty(&self, class: Class) -> bool {
        self.classes.get(class).is_none_or(|l| l.packets.is_empty())
    }

    /// When the next packet is due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.heads.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next packet that is due at `now`.
    pub(crate) fn pop(&mut self, now: Nanos) -> Option<(Class, Nanos, P)> {
        let Reverse((due, class)) = *self.heads.peek()?;
        if due > now {
            return None;
        }
        self.heads.pop();
        let line = &mut self.classes[class];
        let (due, packet) = line.packets.pop_front()?;
        if let Some((next, _)) = line.packets.front() {
            self.heads.push(Reverse((*next, class)));
        }
        Some((class, due, packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Never early, in order within a class, and nothing lost or made up.
        #[test]
        fn never_early_never_out_of_order(
            arrivals in proptest::collection::vec((0usize..4, 0u64..1000, 0u64..100), 1..200),
        ) {
            let mut queue = DelayQueue::new();
            let mut now = 0;
            let mut sent = vec![Vec::new(); 4];
            let mut earliest = Vec::new();
            let mut got = vec![Vec::new(); 4];
            for (id, (class, delay, pause)) in arrivals.iter().enumerate() {
                queue.push(*class, now + delay, id);
                sent[*class].push(id);
                earliest.push(now + delay);
                now += pause;
                while let Some((class, due, id)) = queue.pop(now) {
                    prop_assert!(due <= now && due >= earliest[id]);
                    got[class].push(id);
                }
                prop_assert!(queue.next_due().is_none_or(|due| due > now));
            }
            while let Some((class, _, id)) = queue.pop(u64::MAX) {
                got[class].push(id);
            }
            prop_assert_eq!(sent, got);
            prop_assert!((0..4).all(|c| queue.is_empty(c)));
        }

        /// Over all classes packets leave by due time.
        #[test]
        fn leaves_by_due_time(arrivals in proptest::collection::vec((0usize..4, 0u64..1000), 1..100)) {
            let mut queue = DelayQueue::new();
            for (class, due) in arrivals {
                queue.push(class, due, ());
            }
            let mut last = 0;
            while let Some((_, due, ())) = queue.pop(u64::MAX) {
                prop_assert!(due >= last);
                last = due;
            }
        }
    }

    #[test]
    fn a_shorter_delay_does_not_overtake() {
        let mut queue = DelayQueue::new();
        queue.push(0, 60, "old");
        queue.push(0, 5, "new");
        queue.push(1, 5, "other peer");
        assert_eq!(queue.pop(5), Some((1, 5, "other peer")));
        assert_eq!(queue.pop(59), None);
        assert_eq!(queue.pop(60), Some((0, 60, "old")));
        assert_eq!(queue.pop(60), Some((0, 60, "new")));
    }
}
