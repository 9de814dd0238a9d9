//! What went over a link, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts of one direction since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectionStats {
    /// Packets delivered, as they would be on a wire (a large segment counts as its parts).
    pub packets: u64,
    /// Bytes delivered, IP headers included.
    pub bytes: u64,
    /// Packets dropped by the loss probability.
    pub lost: u64,
    /// Packets dropped because a queue was full.
    pub overflowed: u64,
    /// Packets that the device at the far end refused (it was down).
    pub refused: u64,
    /// Packets that left more than half a millisecond late.
    pub late: u64,
    /// The latest that any packet left after its time.
    pub worst_late: Duration,
}

/// Counts of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// From end `a` to end `b`.
    pub a_to_b: DirectionStats,
    /// From end `b` to end `a`.
    pub b_to_a: DirectionStats,
}

const LATE: u64 = 500_000;

#[derive(Default)]
pub(super) struct Counters([Counter; 2]);

#[derive(Default)]
struct Counter {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    worst_late: AtomicU64,
}

impl Counters {
    pub(super) fn delivered(&self, direction: usize, packets: u64, bytes: u64) {
        self.0[direction].packets.fetch_add(packets, Relaxed);
        self.0[direction].bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn lost(&self, direction: usize, packets: u64) {
        self.0[direction].lost.fetch_add(packets, Relaxed);
    }

    pub(super) fn overflowed(&self, direction: usize, packets: u64) {
        self.0[direction].overflowed.fetch_add(packets, Relaxed);
    }

    pub(super) fn refused(&self, direction: usize, packets: u64) {
        self.0[direction].refused.fetch_add(packets, Relaxed);
    }

    pub(super) fn left(&self, direction: usize, late_by: u64) {
        let counter = &self.0[direction];
        if late_by > LATE {
            counter.late.fetch_add(1, Relaxed);
        }
        counter.worst_late.fetch_max(late_by, Relaxed);
    }

    pub(super) fn read(&self) -> LinkStats {
        LinkStats { a_to_b: self.0[0].read(), b_to_a: self.0[1].read() }
    }
}

impl Counter {
    fn read(&self) -> DirectionStats {
        DirectionStats {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            late: self.late.load(Relaxed),
            worst_late: Duration::from_nanos(self.worst_late.load(Relaxed)),
        }
    }
}
