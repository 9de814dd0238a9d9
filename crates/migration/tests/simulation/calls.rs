//! What the parties are asked.

use godwit_migration::Side;

/// A step of the three traits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    CheckSource,
    StageSource,
    PreCopy,
    Freeze,
    Dump,
    Send,
    Discard,
    DrainSource,
    Thaw,
    CheckTarget,
    StageTarget,
    Received,
    Restore,
    Resume,
    Settle,
    Abort,
    StageTraffic,
    Hold,
    Fence,
    Release(Side),
    DrainTraffic,
}

/// A step of a migration, on its way to a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) step: Step,
}

/// Who carries steps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    Node(usize),
    Gateway,
}

impl Call {
    pub(crate) fn party(&self) -> Party {
        use Step as S;
        match self.step {
            S::CheckSource | S::StageSource | S::PreCopy | S::Freeze | S::Dump | S::Send => Party::Node(self.from),
            S::Discard | S::DrainSource | S::Thaw => Party::Node(self.from),
            S::CheckTarget | S::StageTarget | S::Received | S::Restore => Party::Node(self.to),
            S::Resume | S::Settle | S::Abort => Party::Node(self.to),
            S::StageTraffic | S::Hold | S::Fence | S::Release(_) | S::DrainTraffic => Party::Gateway,
        }
    }
}
