//! Up to the commit.

use godwit_model::{Bytes, Outcome, Phase, Strategy};

use super::{Ending, Rest, Run};
use crate::journal::{Entry, State};
use crate::parts::PartError;
use crate::request::Cancel;

/// What stopped it, and what the journal says then.
pub(super) struct Stopped {
    error: String,
    journal: Says,
}

/// What the journal is known to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Nothing: it has refused.
    Nothing,
    /// That it has begun (or nothing, where the record failed); no step was taken.
    Untouched,
    /// That it has begun.
    Begun,
    /// That it has begun, or that it is committed: the record failed.
    PerhapsCommitted,
}

impl Run<'_, '_, '_, '_> {
    /// Everything before the commit, and the commit.
    pub(super) fn before_commit(&mut self, cancel: &Cancel) -> Result<Bytes, Stopped> {
        self.begin()?;
        let parts = &mut *self.parts;
        let clock = &mut self.clock;
        let checked = go_on(cancel).and_then(|()| {
            clock.run(Phase::Preflight, |_| {
                parts.source.preflight()?;
                parts.target.preflight()
            })
        });
        let checked = checked.and_then(|()| go_on(cancel));
        checked.map_err(|e| Stopped { error: e.chain(), journal: Says::Untouched })?;
        let bytes = self.prepare(cancel).map_err(|e| Stopped { error: e.chain(), journal: Says::Begun })?;
        self.commit()?;
        Ok(bytes)
    }

    /// From here the journal knows of it. A second migration of the same workload is refused here, before anything is
    /// touched.
    fn begin(&mut self) -> Result<(), Stopped> {
        let entry = Entry { request: self.request.clone(), state: State::Begun, error: None };
        self.parts.journal.record(&entry).map_err(|error| {
            let journal = if error.is_refusal() { Says::Nothing } else { Says::Untouched };
            let error = PartError::caused_by("the start could not be recorded", error);
            Stopped { error: error.chain(), journal }
        })
    }

    fn commit(&mut self) -> Result<(), Stopped> {
        let entry = Entry { request: self.request.clone(), state: State::Committed, error: None };
        let journal = &mut *self.parts.journal;
        let mut surely_not = false;
        let committed = self.clock.run(Phase::Commit, |_| {
            journal.record(&entry).map_err(|error| {
                surely_not = error.is_refusal();
                PartError::caused_by("the commit could not be recorded", error)
            })
        });
        committed.map_err(|error| {
            let journal = if surely_not { Says::Begun } else { Says::PerhapsCommitted };
            Stopped { error: error.chain(), journal }
        })
    }

    /// From the stage to the target that only waits to be let go.
    fn prepare(&mut self, cancel: &Cancel) -> Result<Bytes, PartError> {
        let parts = &mut *self.parts;
        let clock = &mut self.clock;
        clock.run(Phase::Stage, |_| {
            parts.source.stage()?;
            parts.target.stage()?;
            parts.traffic.stage()
        })?;
        go_on(cancel)?;
        if self.request.strategy != Strategy::StopCopy {
            clock.run(Phase::PreCopy, |clock| {
                parts.source.precopy(&mut |told| {
                    clock.told(told);
                    !cancel.is_cancelled()
                })
            })?;
            go_on(cancel)?;
        }
        clock.go_on(|| parts.traffic.close_the_door())?;
        clock.run(Phase::Freeze, |_| {
            parts.traffic.hold()?;
            parts.source.freeze()?;
            parts.traffic.fence()
        })?;
        clock.run(Phase::Dump, |clock| {
            if let Some(round) = parts.source.dump()? {
                clock.copied(round);
            }
            Ok(())
        })?;
        let bytes = clock.run(Phase::Transfer, |clock| {
            let bytes = parts.source.send(&mut |told| {
                clock.told(told);
                !cancel.is_cancelled()
            })?;
            parts.target.received()?;
            Ok(bytes)
        })?;
        go_on(cancel)?;
        clock.run(Phase::Restore, |_| parts.target.restore())?;
        go_on(cancel)?;
        Ok(bytes)
    }

    /// Ends what did not come to its commit.
    pub(super) fn stopped(&mut self, stopped: Stopped) -> Ending {
        match stopped.journal {
            Says::Nothing => {
                Ending { outcome: Outcome::RolledBack, rest: Rest::Unrecorded, errors: vec![stopped.error] }
            }
            Says::Untouched => Ending::over(Outcome::RolledBack, vec![stopped.error]),
            Says::Begun => self.roll_back(stopped.error),
            Says::PerhapsCommitted => self.undo_commit(stopped.error),
        }
    }
}

fn go_on(cancel: &Cancel) -> Result<(), PartError> {
    if cancel.is_cancelled() { Err(PartError::new("cancelled")) } else { Ok(()) }
}
