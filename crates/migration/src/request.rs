//! What is to be moved, by whom, and what is told meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use godwit_model::{Bytes, CopyRound, MigrationId, NodeName, Phase, PhaseTime, Strategy, WorkloadName};

use crate::journal::Journal;
use crate::parts::{Source, Target, Traffic};

/// What is to be moved: all that a recovery has to go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number in the journal; later migrations have greater ones.
    pub id: MigrationId,
    /// Which workload.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// How.
    pub strategy: Strategy,
}

/// Who takes part in a migration.
pub struct Parts<'a> {
    /// The runtime where the workload runs.
    pub source: &'a mut dyn Source,
    /// The runtime to which it goes.
    pub target: &'a mut dyn Target,
    /// Who gets the packets.
    pub traffic: &'a mut dyn Traffic,
    /// Where the commit point is recorded.
    pub journal: &'a mut dyn Journal,
    /// How stubborn it is.
    pub retries: Retries,
}

/// How often an end step is tried before the migration is left open for a later recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// When it fails for certain.
    pub failing: u32,
    /// When the party does not answer; what the call's own time-out takes comes on top.
    pub unreachable: u32,
    /// The pause before the second attempt; each further one is twice as long, up to the longest.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { failing: 5, unreachable: 25, pause: Duration::from_millis(100), longest_pause: Duration::from_secs(2) }
    }
}

/// Asks a migration to stop; heeded before the commit, between phases and while memory or state is sent.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happens while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// A phase begins.
    Entered(Phase),
    /// A phase ended well.
    Left(PhaseTime),
    /// A round of memory was sent.
    Copied(CopyRound),
    /// So much of the migration is sent.
    Sent {
        /// So far.
        bytes: Bytes,
        /// Altogether, as far as is known now; it grows when the workload changes more than was thought.
        expected: Bytes,
    },
    /// Something failed; the source is being brought back.
    RollingBack,
}
