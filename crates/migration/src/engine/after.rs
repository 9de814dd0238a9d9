//! From the commit to the end, and the ways back.

use godwit_model::{Outcome, Phase, Strategy};

use super::{Certain, Ending, Rest, Run, insist};
use crate::journal::State;
use crate::parts::Side;

impl Run<'_, '_, '_, '_> {
    /// The commit stands: the target is resumed, unless it is certain that it never ran.
    pub(super) fn go_on_from_commit(&mut self) -> Ending {
        let retries = self.parts.retries;
        let target = &mut *self.parts.target;
        let resumed = self
            .clock
            .run(Phase::Switch, |_| insist("let the target run", &retries, Certain::Final, || target.resume()));
        match resumed {
            Ok(()) => self.on_the_target(),
            Err(error) if error.is_unreachable() => {
                let open = "whether it runs is not known: its source stays frozen until it answers";
                Ending::open(Outcome::Lost, vec![format!("{}; {open}", error.chain())])
            }
            // What its clients have seen of it is not in the source's copy: that one must not run again.
            Err(error) if error.is_gone() => {
                let mut ending = self.on_the_target();
                ending.outcome = Outcome::Lost;
                ending.errors.insert(0, error.chain());
                ending
            }
            Err(error) => self.take_back(error.chain()),
        }
    }

    /// The target runs: the address follows, the source's frozen copy ends.
    fn on_the_target(&mut self) -> Ending {
        let retries = self.parts.retries;
        let traffic = &mut *self.parts.traffic;
        let released = self
            .clock
            .go_on(|| insist("switch the address", &retries, Certain::TriedAgain, || traffic.release(Side::Target)));
        self.clock.resumed();
        // Without the address nobody reaches it, so whoever recovers it tries that again.
        let mut ending = match released {
            Ok(()) => Ending::over(Outcome::Done, Vec::new()),
            Err(error) => Ending::open(Outcome::Done, vec![error.chain()]),
        };
        let (parts, strategy) = (&mut *self.parts, self.request.strategy);
        let drained = self.clock.run(Phase::Drain, |_| {
            // The target first: as long as it has not all its memory in place, the source's is not thrown away.
            let settled =
                insist("make it an ordinary workload", &retries, Certain::TriedAgain, || parts.target.settle());
            if let Err(error) = settled {
                // Where it lacks pages that only the source has, neither may go before the target is known to have ended.
                if error.is_unreachable() || (needs_source_until_settled(strategy) && !error.is_gone()) {
                    return Err(error);
                }
                // It ran, and has ended: whatever its clients have seen of it, the source's copy does not have.
                if error.is_gone() {
                    ending.outcome = Outcome::Lost;
                }
                ending.errors.push(error.chain());
            }
            insist("end the source's frozen copy", &retries, Certain::TriedAgain, || parts.source.discard())?;
            let cleaned =
                insist("remove what is left on the source", &retries, Certain::TriedAgain, || parts.source.drain());
            // The fence goes last: a frozen copy's kernel must not speak beside the one that runs.
            insist("remove the hold", &retries, Certain::TriedAgain, || parts.traffic.drain())?;
            match cleaned {
                Err(error) if !error.is_unreachable() => ending.errors.push(error.chain()),
                other => return other,
            }
            Ok(())
        });
        // A frozen copy or a fence that stays would be in the way of the workload when it comes back: that is tried again later.
        if let Err(error) = drained {
            ending.errors.push(error.chain());
            ending.rest = Rest::Open;
        }
        ending
    }

    /// The commit stands and the target never ran. Its copy has never run and the source's is still whole, so the source is
    /// taken back, after that was recorded and the target is gone for certain.
    pub(super) fn take_back(&mut self, error: String) -> Ending {
        let retries = self.parts.retries;
        let recorded = insist("record it", &retries, Certain::TriedAgain, || self.record(State::TakenBack, None));
        if let Err(record) = recorded {
            return Ending::open(Outcome::Lost, vec![error, record.chain()]);
        }
        let target = &mut *self.parts.target;
        match insist("remove the target's copy", &retries, Certain::TriedAgain, || target.abort()) {
            Ok(()) => self.source_again(error, true),
            Err(abort) => Ending::open(Outcome::Lost, vec![error, abort.chain()]),
        }
    }

    /// Nothing is committed, for certain.
    pub(super) fn roll_back(&mut self, error: String) -> Ending {
        let release = self.clock.was_frozen();
        self.not_committed(error, release)
    }

    /// The same by a controller that does not know how far it came.
    pub(super) fn bring_back(&mut self, error: String) -> Ending {
        self.not_committed(error, true)
    }

    /// The target first: while there is anything of it the source does not run, if that can be helped. If it cannot (its
    /// node has died), the source runs all the same: nobody has resumed the target, and nobody will.
    fn not_committed(&mut self, error: String, release: bool) -> Ending {
        self.clock.rolling_back();
        let first = self.parts.target.abort();
        let mut ending = self.source_again(error, release);
        if let Err(first) = first {
            tracing::warn!(error = first.chain(), "the target could not be aborted, trying again");
            let (retries, target) = (self.parts.retries, &mut *self.parts.target);
            if let Err(error) = insist("remove the target's copy", &retries, Certain::TriedAgain, || target.abort()) {
                // Its node clears it away before it takes the workload again.
                ending.errors.push(error.chain());
            }
        }
        ending
    }

    /// The commit may have been recorded although the journal says that it failed. A recovery that found it would resume the
    /// target: so either there is nothing to resume any more, or it is recorded that the commit does not count.
    pub(super) fn undo_commit(&mut self, error: String) -> Ending {
        self.clock.rolling_back();
        let retries = self.parts.retries;
        let mut gone = false;
        let undone = insist("undo the commit", &retries, Certain::TriedAgain, || match self.parts.target.abort() {
            Ok(()) => {
                gone = true;
                Ok(())
            }
            Err(_) => self.record(State::TakenBack, None),
        });
        if let Err(undone) = undone {
            return Ending::open(Outcome::Lost, vec![error, undone.chain()]);
        }
        let mut ending = self.source_again(error, true);
        if !gone {
            let target = &mut *self.parts.target;
            let aborted = insist("remove the target's copy", &retries, Certain::TriedAgain, || target.abort());
            ending.errors.extend(aborted.err().map(|e| e.chain()));
        }
        ending
    }

    /// The source runs on, and gets its packets back.
    fn source_again(&mut self, error: String, release: bool) -> Ending {
        let retries = self.parts.retries;
        let parts = &mut *self.parts;
        let mut errors = vec![error];
        let mut outcome = Outcome::RolledBack;
        match insist("thaw the source", &retries, Certain::TriedAgain, || parts.source.thaw()) {
            Ok(()) => {}
            // It has ended in its sleep; its address is tidied up all the same.
            Err(error) if error.is_gone() => {
                outcome = Outcome::Lost;
                errors.push(format!("roll-back: {}", error.chain()));
            }
            Err(error) => {
                errors.push(format!("roll-back: {}", error.chain()));
                return Ending::open(Outcome::Lost, errors);
            }
        }
        if release {
            let released = insist("give the packets back to the source", &retries, Certain::TriedAgain, || {
                parts.traffic.release(Side::Source)
            });
            if let Err(error) = released {
                errors.push(format!("roll-back: {}", error.chain()));
                return Ending::open(Outcome::Lost, errors);
            }
        }
        self.clock.resumed();
        if let Err(error) = insist("remove the hold", &retries, Certain::TriedAgain, || parts.traffic.drain()) {
            tracing::warn!(error = error.chain(), "the hold could not be removed");
        }
        Ending::over(outcome, errors)
    }
}

/// Whether the source's pages are the only copy of some until the target has settled.
fn needs_source_until_settled(strategy: Strategy) -> bool {
    match strategy {
        Strategy::StopCopy | Strategy::PreCopy => false,
        Strategy::PostCopy => true,
    }
}
