//! What a world provides so that the engine can move a workload in it, and what it promises.
//!
//! # The recovery contract
//!
//! A controller may die at any instruction, and so may the party that it speaks to; calls and answers may be lost, late or
//! doubled on the way. A new controller then has the journal's [`Request`](crate::Request) and nothing else, and ends the
//! migration by the *end steps*: [`Target::abort`], [`Target::resume`], [`Target::settle`], [`Source::thaw`],
//! [`Source::discard`], [`Source::drain`], [`Traffic::release`], [`Traffic::drain`]. For that every party promises:
//!
//! 1. **A step needs no earlier call by the same controller.** What a step needs of earlier ones is kept by the node, in
//!    memory as long as the node's program lives and on its disk beyond that. A step whose ground has gone (a dump that was
//!    never prepared) fails for certain.
//! 2. **End steps are idempotent.** Done already is done well.
//! 3. **Steps concern one migration.** Each carries the migration's number. An end step touches only the copy that *this*
//!    migration froze or made: a late `abort` or `discard` of an old migration does nothing to the workload that runs there now.
//! 4. **What has ended stays ended.** After `abort`, `resume`, `thaw`, `discard` or `release` was carried out, a late step of the
//!    same migration (a `restore`, a `freeze`, a `hold` that was long on its way) is refused for certain, even by a program that
//!    was started again since. The same goes for a migration older than the newest that the node knows of for this workload.
//! 5. **One after the other.** Two calls for one migration are never carried out at once: an end step waits for what is
//!    under way, or breaks it off.
//! 6. **Nobody decides alone.** A frozen source stays frozen and a restored target does not run, whoever dies and is started
//!    again, until a controller says so: only the journal knows.
//! 7. **No answer is not a failure.** [`PartError::unreachable`] says that a step may have been done, may yet be done, or
//!    neither; every other error says that it is not done and will not be.

use godwit_model::{Bytes, CopyRound};

/// What a part's error says of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Unreachable,
    Gone,
}

/// Why a part could not do its step; the text is for a person.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct PartError {
    what: String,
    kind: Kind,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PartError {
    /// A failure that is its own explanation: the step is not done and will not be.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: Kind::Failed, source: None }
    }

    /// `what` failed for certain because of `source`.
    pub fn caused_by(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { what: what.into(), kind: Kind::Failed, source: Some(Box::new(source)) }
    }

    /// The party did not answer: the step may have been done, may yet be done, or neither.
    pub fn unreachable(what: impl Into<String>) -> Self {
        Self { kind: Kind::Unreachable, ..Self::new(what) }
    }

    /// The party did not answer because of `source`.
    pub fn unreachable_because(
        what: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind: Kind::Unreachable, ..Self::caused_by(what, source) }
    }

    /// The target ran and does not run any more, or the frozen source is no more: nothing is left to go on with.
    pub fn gone(what: impl Into<String>) -> Self {
        Self { kind: Kind::Gone, ..Self::new(what) }
    }

    /// The same error, in other words, with this one as its cause.
    pub fn within(self, what: impl Into<String>) -> Self {
        let kind = self.kind;
        Self { kind, ..Self::caused_by(what, self) }
    }

    /// Whether the step may have been done all the same.
    pub fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// Whether the copy that the step was about has ended by itself.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        godwit_model::chain(self)
    }
}

/// What a long step tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Told {
    /// A round of memory was sent.
    Round(CopyRound),
    /// So much of this step is sent.
    Sent {
        /// So far.
        bytes: Bytes,
        /// What the step will send altogether, as far as is known now.
        expected: Bytes,
    },
}

/// The runtime on the node where the workload runs. The engine calls the methods in the order in which they stand here,
/// `thaw` instead of `discard` when it rolls back.
pub trait Source {
    /// Can this workload be moved at all? Touches nothing.
    fn preflight(&mut self) -> Result<(), PartError>;
    /// Starts what can be started while the workload runs.
    fn stage(&mut self) -> Result<(), PartError>;
    /// Pre-copy: sends memory while the workload runs, round by round what it has changed, until a further round would
    /// not be smaller. `told` hears of every round, and of bytes several times a second, and says whether to go on.
    fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError>;
    /// Stops the workload; returns when no task of it runs.
    fn freeze(&mut self) -> Result<(), PartError>;
    /// Writes its state; the tasks stay frozen, their sockets silent. After pre-copy the memory that was changed last is
    /// sent now, and its round returned.
    fn dump(&mut self) -> Result<Option<CopyRound>, PartError>;
    /// Sends the state to the target, which is receiving; returns the bytes sent. `told` hears of bytes several times a
    /// second; where it says no, the step fails.
    fn send(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<Bytes, PartError>;
    /// After that: how much went over the wire for it and for all that was sent before; none where it is not counted.
    fn wire_bytes(&self) -> Option<Bytes> {
        None
    }
    /// When the target runs: ends the frozen copy without a packet. An end step: done well if there is none.
    fn discard(&mut self) -> Result<(), PartError>;
    /// After that: removes what is left. An end step: done well if nothing is.
    fn drain(&mut self) -> Result<(), PartError>;
    /// Roll-back: the workload runs on as if nothing had been. An end step: done well if it runs. Must do all it can
    /// whatever happened before; where the workload has ended in its sleep, the error [is gone](PartError::gone).
    fn thaw(&mut self) -> Result<(), PartError>;
}

/// The runtime on the node to which the workload goes.
pub trait Target {
    /// Can this node take it? Touches nothing.
    fn preflight(&mut self) -> Result<(), PartError>;
    /// Makes everything ready that does not need the state; starts to receive. What is left of an older migration of this
    /// workload, which never ran, is removed first.
    fn stage(&mut self) -> Result<(), PartError>;
    /// Waits until the state is there.
    fn received(&mut self) -> Result<(), PartError>;
    /// Takes the state up; no task runs and no packet leaves yet.
    fn restore(&mut self) -> Result<(), PartError>;
    /// After the commit: the tasks run. An end step: done well if they run already. Before the first instruction the node
    /// notes on its disk that they are about to.
    ///
    /// Where it fails for certain (nothing to resume among it), nothing of them has run or may run, now or later: the source is
    /// taken back then. Where they have run and ended since, the error [is gone](PartError::gone).
    fn resume(&mut self) -> Result<(), PartError>;
    /// After the switch: all memory is in place, and it is an ordinary workload of that node. An end step. After it nothing
    /// of the source is needed any more.
    fn settle(&mut self) -> Result<(), PartError>;
    /// Roll-back: removes whatever there is of a copy that never ran. An end step: done well if nothing is there.
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
    /// Who asks for a new connection waits from here on, and those who asked before are let in; all other packets flow. A
    /// connection that is half made, or that the workload has not accepted yet, is none that could be carried: the fewer
    /// there are at the freeze the better. Takes no longer than a connection takes to be made, or is given up.
    fn close_the_door(&mut self) -> Result<(), PartError> {
        Ok(())
    }
    /// From here every packet to the service address is kept; none reaches the workload, nothing is answered.
    fn hold(&mut self) -> Result<(), PartError>;
    /// The tasks stand: from here no packet leaves the source any more. Its kernel goes on with retransmissions and
    /// window probes, whose TCP timestamps would be newer than those with which the target begins, and make the peer
    /// discard what the target sends (PAWS, RFC 7323).
    fn fence(&mut self) -> Result<(), PartError>;
    /// Points the address at a side and replays what was kept, in order; for the source the fence goes first. An end step:
    /// done well if nothing is kept and the address is there.
    fn release(&mut self, to: Side) -> Result<(), PartError>;
    /// Removes what the hold needed. An end step.
    fn drain(&mut self) -> Result<(), PartError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_other_words_an_error_says_the_same_of_the_step() {
        let error = PartError::unreachable_because("resume it", std::io::Error::other("timed out")).within("insisted");
        assert!(error.is_unreachable() && !error.is_gone());
        assert_eq!(error.chain(), "insisted: resume it: timed out");
        assert!(PartError::gone("its processes have ended").within("thaw it").is_gone());
        let certain = PartError::new("there is nothing to resume").within("resume it");
        assert!(!certain.is_unreachable() && !certain.is_gone());
    }
}
