//! What a client saw, when it is over.

use std::fmt;
use std::time::{Duration, Instant};

use godwit_model::{ClientSummary, UserName, WorkloadName};

use crate::{Gap, Verdict};

/// Why a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakCause {
    /// A RST, or the kernel gave up.
    Reset,
    /// The service closed it.
    Closed,
    /// No answer for longer than the client waits.
    Silent,
    /// What came was no answer.
    Garbage,
}

impl fmt::Display for BreakCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Garbage => "garbage",
        })
    }
}

/// A connection that broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    /// When.
    pub at: Instant,
    /// Why.
    pub cause: BreakCause,
}

/// What a client saw.
#[derive(Debug, Clone)]
pub struct ClientReport {
    /// Connections opened.
    pub connections: u64,
    /// Those that broke (the first 1000 of them; [`Self::broken`] counts all).
    pub breaks: Vec<Break>,
    /// How many broke.
    pub broken: u64,
    /// Requests sent.
    pub sent: u64,
    /// Answers received, good or not.
    pub received: u64,
    /// Requests that were never answered.
    pub unanswered: u64,
    /// Bytes of all those answers, headers included.
    pub bytes_missing: u64,
    /// Bytes of received answers that are not what they should be; answers that nobody asked for count whole.
    pub bytes_wrong: u64,
    /// Answers that came after a later one.
    pub reordered: u64,
    /// Answers to what had been answered already, or never been asked.
    pub duplicated: u64,
    /// How often a service with another run's number answered: it was started anew, not moved.
    pub restarts: u64,
    /// How often a counter of the service did not go up: it was restored from an older state than it had answered from.
    pub rewinds: u64,
    /// What the service last said of its memory.
    pub memory: Verdict,
    /// Bad pages that were reported, over all runs of the service.
    pub memory_bad: u64,
    /// The longest silence.
    pub worst_gap: Option<Gap>,
    /// All silences of at least three periods, in order.
    pub gaps: Vec<Gap>,
    /// Those of them that were dropped for want of room.
    pub gaps_dropped: u64,
    /// From a request to its answer, median.
    pub response_median: Option<Duration>,
    /// The same, 95th percentile.
    pub response_p95: Option<Duration>,
    /// The same, longest.
    pub response_max: Option<Duration>,
    /// Requests that were left out because the client itself was late, or had too many unsent ones.
    pub left_out: u64,
    /// The most that the client's own thread was late: a gap of about that size may be its own.
    pub worst_own_delay: Duration,
}

impl ClientReport {
    /// All that was found wrong, each thing counted as its field counts it.
    pub fn harm(&self) -> u64 {
        let Self { broken, bytes_missing, bytes_wrong, reordered, duplicated, restarts, rewinds, memory_bad, .. } =
            self;
        [broken, bytes_missing, bytes_wrong, reordered, duplicated, restarts, rewinds, memory_bad].into_iter().sum()
    }

    /// Bytes of answers that never came or came wrong.
    pub fn bytes_lost(&self) -> u64 {
        self.bytes_missing + self.bytes_wrong
    }

    /// Nothing broke, nothing was lost or out of order, the service is the one that it was and its memory is whole.
    pub fn is_clean(&self) -> bool {
        let Self { broken, reordered, duplicated, restarts, rewinds, memory_bad, .. } = self;
        [self.bytes_lost(), *broken, *reordered, *duplicated, *restarts, *rewinds, *memory_bad] == [0; 7]
    }

    /// What goes into `summary.json`; clean when this is.
    pub fn summary(&self, user: UserName, workload: WorkloadName) -> ClientSummary {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        ClientSummary {
            user,
            workload,
            connections: self.connections,
            broken: self.broken,
            sent: self.sent,
            received: self.received,
            bytes_lost: self.bytes_lost(),
            reordered: self.reordered,
            duplicated: self.duplicated,
            restarts: self.restarts,
            rewinds: self.rewinds,
            memory_bad: self.memory_bad,
            worst_gap_ms: self.worst_gap.map_or(0.0, |gap| ms(gap.len())),
            response_median_ms: self.response_median.map(ms),
        }
    }
}
