//! What a world provides so that the engine can move a workload in it.

use godwit_model::{Bytes, CopyRound};

/// Why a part could not do its step; the text is for a person.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct PartError {
    what: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PartError {
    /// A failure that is its own explanation.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// `what` failed because of `source`.
    pub fn caused_by(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { what: what.into(), source: Some(Box::new(source)) }
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

/// The runtime on the node where the workload runs. The engine calls the methods in the order in which they stand here,
/// `thaw` instead of `discard` when it rolls back.
pub trait Source {
    /// Can this workload be moved at all? Touches nothing.
    fn preflight(&mut self) -> Result<(), PartError>;
    /// Starts what can be started while the workload runs.
    fn stage(&mut self) -> Result<(), PartError>;
    /// Pre-copy: sends memory while the workload runs, round by round what it has changed, until a further round would
    /// not be smaller. `told` hears of every round, and says whether to go on.
    fn precopy(&mut self, told: &mut dyn FnMut(CopyRound) -> bool) -> Result<(), PartError>;
    /// Stops the workload; returns when no task of it runs.
    fn freeze(&mut self) -> Result<(), PartError>;
    /// Writes its state; the tasks stay frozen, their sockets silent. After pre-copy the memory that was changed last is
    /// sent now, and its round returned.
    fn dump(&mut self) -> Result<Option<CopyRound>, PartError>;
    /// Sends the state to the target, which is receiving; returns the bytes sent.
    fn send(&mut self) -> Result<Bytes, PartError>;
    /// When the target runs: ends the frozen copy without a packet. Called again when it failed.
    fn discard(&mut self) -> Result<(), PartError>;
    /// After that: removes what is left.
    fn drain(&mut self) -> Result<(), PartError>;
    /// Roll-back: the workload runs on as if nothing had been. Must do all it can whatever happened before.
    fn thaw(&mut self) -> Result<(), PartError>;
}

/// The runtime on the node to which the workload goes.
pub trait Target {
    /// Can this node take it? Touches nothing.
    fn preflight(&mut self) -> Result<(), PartError>;
    /// Makes everything ready that does not need the state; starts to receive.
    fn stage(&mut self) -> Result<(), PartError>;
    /// Waits until the state is there.
    fn received(&mut self) -> Result<(), PartError>;
    /// Takes the state up; no task runs and no packet leaves yet.
    fn restore(&mut self) -> Result<(), PartError>;
    /// After the commit: the tasks run. Where it fails, nothing of them may run, now or later.
    fn resume(&mut self) -> Result<(), PartError>;
    /// After the switch: makes it an ordinary workload of that node.
    fn settle(&mut self) -> Result<(), PartError>;
    /// Roll-back: removes whatever there is of it. May be called twice.
    fn abort(&mut self) -> Result<(), PartError>;
}

/// Which copy gets the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was frozen.
    Source,
    /// The one that was restored.
    Target,
}

/// Who gets the packets to the service address.
pub trait Traffic {
    /// Makes the hold ready; packets flow as before.
    fn stage(&mut self) -> Result<(), PartError>;
    /// From here every packet to the service address is kept; none reaches the workload, nothing is answered.
    fn hold(&mut self) -> Result<(), PartError>;
    /// The tasks stand: from here no packet leaves the source any more. Its kernel goes on with retransmissions and
    /// window probes, whose TCP timestamps would be newer than those with which the target begins, and make the peer
    /// discard what the target sends (PAWS, RFC 7323).
    fn fence(&mut self) -> Result<(), PartError>;
    /// Points the address at a side and replays what was kept, in order; for the source the fence goes first. Called again
    /// when it failed.
    fn release(&mut self, to: Side) -> Result<(), PartError>;
    /// Removes what the hold needed.
    fn drain(&mut self) -> Result<(), PartError>;
}
