//! All containers of a workload on their way in: made side by side, and let run together or taken away as one. The states are
//! those of one container ([`godwit_criu::PreparedRestore`] and what follows), which is the usual case.

use std::path::Path;

use godwit_criu::{
    HeldRestore, ImagesDir, Limit, Member, PreparedRestore, RestoreOptions, RestorePlan, RestoredContainer, Runc,
};
use godwit_migration::PartError;

use crate::STAGE_LIMIT;
use crate::source::part;
use crate::together::{Fence, all_of, side_by_side};
use crate::unit::Units;

/// Ready for the images, and fenced from each other.
pub struct Prepared {
    restores: Vec<PreparedRestore>,
    fence: Fence,
}

/// Made; none runs.
pub struct Held {
    restores: Vec<HeldRestore>,
    fence: Fence,
}

/// They run.
pub struct Running(Vec<RestoredContainer>);

/// They could not be let run.
pub struct NotResumed {
    /// Why.
    pub error: PartError,
    /// None of them has run.
    pub never_ran: bool,
}

impl Prepared {
    /// Their images will come into `images`, those of several into directories by their names; `options` are those for a bundle.
    pub fn new(
        units: &Units,
        images: &Path,
        plans: &[RestorePlan],
        options: impl Fn(&Path) -> RestoreOptions,
        limit: &Limit,
    ) -> Result<Self, PartError> {
        if plans.len() != units.list.len() {
            let (there, here) = (plans.len(), units.list.len());
            return Err(PartError::new(format!("it has {there} containers on its source, and {here} on this node")));
        }
        let mut restores = Vec::new();
        for (unit, plan) in units.list.iter().zip(plans) {
            let images = ImagesDir::create(unit.images(images)).map_err(part("make room for the images"))?;
            let restore = PreparedRestore::new(&units.env, &unit.id, images, plan, options(&unit.bundle), limit);
            restores.push(restore.map_err(part("prepare the restore"))?);
        }
        Ok(Self { restores, fence: Fence::put_up(units)? })
    }

    /// Makes all of them, or none.
    pub fn restore(self, limit: &Limit) -> Result<Held, PartError> {
        let Self { restores, fence } = self;
        let (mut held, mut failed) = (Vec::new(), None);
        for restored in side_by_side(restores, |restore| restore.restore(limit)) {
            match restored {
                Ok(restore) => held.push(restore),
                // It has cleaned up behind itself.
                Err(error) => failed = failed.or(Some(part("restore it")(error))),
            }
        }
        let held = Held { restores: held, fence };
        let Some(error) = failed else { return Ok(held) };
        Err(match held.abort() {
            Ok(()) => error,
            Err(also) => error.within(also.chain()),
        })
    }

    /// Gives up: the node is as before.
    pub fn cancel(self) -> Result<(), PartError> {
        let Self { restores, fence } = self;
        let cancelled = all_of(restores.into_iter().map(PreparedRestore::cancel));
        cancelled.map_err(part("take the target's container away")).and(fence.take_down())
    }
}

impl Held {
    /// The processes of each, with the pids of its images.
    pub fn members(&self) -> godwit_criu::Result<Vec<Vec<Member>>> {
        self.restores.iter().map(HeldRestore::members).collect()
    }

    /// Lets them run.
    pub fn resume(self, units: &Units, limit: &Limit) -> Result<Running, NotResumed> {
        let Self { restores, fence } = self;
        // All sockets are there: what one says to another is heard.
        if let Err(error) = fence.take_down() {
            let aborted = all_of(restores.into_iter().map(HeldRestore::abort));
            aborted.unwrap_or_else(|also| tracing::error!(%also, "a copy that never ran is left behind"));
            return Err(NotResumed { error, never_ran: true });
        }
        let (mut running, mut failed) = (Vec::new(), None);
        for resumed in side_by_side(restores, |restore| restore.resume(limit)) {
            match resumed {
                Ok(container) => running.push(container),
                Err(error) => failed = failed.or(Some(part("let it run")(error))),
            }
        }
        let Some(error) = failed else { return Ok(Running(running)) };
        let never_ran = running.is_empty();
        if let Err(also) = Running(running).end(units) {
            tracing::error!(error = also.chain(), "a part of it runs on");
        }
        Err(NotResumed { error, never_ran })
    }

    /// Ends them without a packet; the node is as before.
    pub fn abort(self) -> Result<(), PartError> {
        let Self { restores, fence } = self;
        let aborted = all_of(restores.into_iter().map(HeldRestore::abort));
        aborted.map_err(part("end the target's copy")).and(fence.take_down())
    }
}

impl Running {
    /// Makes them ordinary containers.
    pub fn finish(self, limit: &Limit) -> Result<(), PartError> {
        let finished = all_of(self.0.into_iter().map(|container| container.finish(limit).map(drop)));
        finished.map_err(part("make it an ordinary container"))
    }

    /// Ends them: what runs must not run on.
    pub fn end(self, units: &Units) -> Result<(), PartError> {
        drop(self);
        let (runc, limit) = (Runc::new(&units.env), Limit::within(STAGE_LIMIT));
        let ended = all_of(units.ids().map(|id| runc.delete(id, true, &limit)));
        ended.map_err(part("end the incomplete copy"))
    }
}
