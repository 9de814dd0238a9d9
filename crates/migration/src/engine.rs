//! The order of a migration and its one commit point.
//!
//! [`migrate`] does it, [`recover`] ends what another controller has begun.
//!
//! What may be done when something fails depends on what the journal says, and whether that is certain:
//!
//! | the journal says | has the target run? | how it ends |
//! |---|---|---|
//! | nothing: it refused | no: no step was taken | nothing to do |
//! | begun | no: it is resumed only after the commit was recorded | abort, thaw, give the packets back |
//! | begun or committed (the record of the commit failed) | no: it was not resumed | the same, but the source is thawed only when the target is gone for certain, or it is recorded that the commit does not count |
//! | committed | perhaps | resume it; if it is certain that it never ran, record `taken-back` and go there |
//! | taken back | no, for certain | abort until that is certain, then thaw, give the packets back |

mod after;
mod before;
mod clock;

use std::thread;
use std::time::Duration;

use godwit_model::{Bytes, Outcome};

use crate::journal::{Entry, State};
use crate::parts::PartError;
use crate::request::{Cancel, Parts, Progress, Request};

use clock::Clock;
pub use clock::Ended;

/// Moves a workload. Blocks until it is over; `observe` is called between steps and must not block.
pub fn migrate(request: &Request, parts: &mut Parts<'_>, cancel: &Cancel, observe: &mut dyn FnMut(Progress)) -> Ended {
    let mut run = Run { request, parts, clock: Clock::new(observe) };
    let (ending, bytes) = match run.before_commit(cancel) {
        Ok(bytes) => (run.go_on_from_commit(), bytes),
        Err(stopped) => (run.stopped(stopped), Bytes(0)),
    };
    run.ended(ending, bytes)
}

/// Ends a migration that the journal has open, when its controller has died or has [left it open](Ended::open). Blocks
/// until it is over, or until parties have not answered for long: then [`Ended::open`] says that it has to be called again.
///
/// Nobody else may be driving this migration: the journal's lock sees to that.
pub fn recover(entry: &Entry, parts: &mut Parts<'_>, observe: &mut dyn FnMut(Progress)) -> Ended {
    let mut run = Run { request: &entry.request, parts, clock: Clock::new(observe) };
    let ending = match entry.state {
        State::Begun => run.bring_back("its controller ended before the commit".into()),
        State::Committed => run.go_on_from_commit(),
        State::TakenBack => run.take_back("its target could not run".into()),
        State::Ended(outcome) => Ending { outcome, rest: Rest::Unrecorded, errors: Vec::new() },
    };
    run.ended(ending, Bytes(0))
}

/// How it ends, and what failed.
#[derive(Debug)]
struct Ending {
    outcome: Outcome,
    rest: Rest,
    errors: Vec<String>,
}

/// What the journal is told of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// The end.
    Over,
    /// Nothing yet: it cannot be ended now.
    Open,
    /// Nothing: it does not know of the migration.
    Unrecorded,
}

impl Ending {
    fn over(outcome: Outcome, errors: Vec<String>) -> Self {
        Self { outcome, rest: Rest::Over, errors }
    }

    fn open(outcome: Outcome, errors: Vec<String>) -> Self {
        Self { outcome, rest: Rest::Open, errors }
    }
}

/// A migration under way.
struct Run<'r, 'p, 'a, 'o> {
    request: &'r Request,
    parts: &'p mut Parts<'a>,
    clock: Clock<'o>,
}

impl Run<'_, '_, '_, '_> {
    fn record(&mut self, state: State, error: Option<String>) -> Result<(), PartError> {
        let entry = Entry { request: self.request.clone(), state, error };
        self.parts.journal.record(&entry).map_err(|e| PartError::caused_by(format!("{state} could not be recorded"), e))
    }

    /// Records the end, unless it is open.
    fn ended(mut self, mut ending: Ending, bytes: Bytes) -> Ended {
        let error = (!ending.errors.is_empty()).then(|| ending.errors.join("; "));
        if ending.rest == Rest::Over {
            let retries = self.parts.retries;
            let mut recorded = Ok(());
            for attempt in 1..=retries.failing {
                recorded = self.record(State::Ended(ending.outcome), error.clone());
                if recorded.is_ok() {
                    break;
                }
                pause(&retries, attempt);
            }
            if let Err(error) = recorded {
                tracing::warn!(
                    id = self.request.id.0,
                    error = error.chain(),
                    "the migration stays open in the journal"
                );
                ending.rest = Rest::Open;
            }
        }
        let wire_bytes = self.parts.source.wire_bytes();
        Ended { wire_bytes, ..self.clock.ended(ending.outcome, ending.rest == Rest::Open, bytes, error) }
    }
}

/// Whether a step that fails for certain is worth another attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certain {
    Final,
    TriedAgain,
}

/// Tries an end step again and again, while its party does not answer.
fn insist(
    what: &str,
    retries: &crate::Retries,
    certain: Certain,
    mut step: impl FnMut() -> Result<(), PartError>,
) -> Result<(), PartError> {
    let (mut failed, mut unreachable) = (0, 0);
    loop {
        let error = match step() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.is_unreachable() {
            unreachable += 1
        } else {
            failed += 1
        }
        let given_up = if error.is_unreachable() {
            unreachable >= retries.unreachable
        } else {
            error.is_gone() || certain == Certain::Final || failed >= retries.failing
        };
        let attempts = failed + unreachable;
        if given_up {
            return Err(error.within(format!("could not {what} in {attempts} attempt(s)")));
        }
        tracing::warn!(attempts, error = error.chain(), "could not {what}, trying again");
        pause(retries, attempts);
    }
}

fn pause(retries: &crate::Retries, attempt: u32) {
    let pause = retries.pause.saturating_mul(1 << (attempt - 1).min(16)).min(retries.longest_pause);
    if pause > Duration::ZERO {
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests;
