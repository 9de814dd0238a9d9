//! Engines, parties and journals that are wrong in one point each: the simulation has to find every one of them.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The commit is said to be recorded, and is not.
    CommitForgotten,
    /// A record of the commit that failed is taken for one that is not there.
    DoubtIsNo,
    /// The target runs as soon as it is restored.
    RunsUncommitted,
    /// A target that does not answer is taken for one that failed.
    SilenceIsFailure,
    /// A target that does not answer is taken for one that was aborted.
    SilenceIsAborted,
    /// The source's copy is ended once its state was sent.
    DiscardsEarly,
    /// Packets are not held.
    NeverHolds,
    /// The source is not fenced in.
    NeverFences,
    /// Packets are never given back.
    NeverReleases,
    /// The target is resumed again after its migration was taken back, because that was not recorded.
    TakesBackSilently,
    /// Nobody recovers.
    NeverRecovers,
    /// A recovery takes what is committed for what has only begun.
    RecoversBackOnly,
    /// A recovery takes what has begun for committed.
    RecoversForwardOnly,
    /// Agents that are started again thaw what they find frozen.
    ThawsAlone,
    /// Parties do not remember which migrations are over: late calls are carried out.
    Forgetful,
    /// Nothing is refused to a second migration of the same workload.
    BeginsTwice,
}

impl Mutant {
    pub(crate) const ALL: [Self; 16] = [
        Self::CommitForgotten,
        Self::DoubtIsNo,
        Self::RunsUncommitted,
        Self::SilenceIsFailure,
        Self::SilenceIsAborted,
        Self::DiscardsEarly,
        Self::NeverHolds,
        Self::NeverFences,
        Self::NeverReleases,
        Self::TakesBackSilently,
        Self::NeverRecovers,
        Self::RecoversBackOnly,
        Self::RecoversForwardOnly,
        Self::ThawsAlone,
        Self::Forgetful,
        Self::BeginsTwice,
    ];
}
