//! The live-migration engine: it takes a workload from one node to another and never loses it.
//!
//! The engine knows the order and the commit point; what a phase *does* is behind three traits that a world
//! implements: [`Source`] and [`Target`] (a runtime on either node) and [`Traffic`] (who gets the packets).
//!
//! ```text
//!            Source            Target            Traffic         Journal
//!                                                                begin
//! Preflight  preflight         preflight
//! Stage      stage             stage             stage
//! PreCopy    precopy ─────── pages ─────────►                             (that strategy only; the workload runs)
//! Freeze     freeze                              hold, then fence
//! Dump       dump
//! Transfer   send ─────────── images ───────►
//! Restore                      restore
//! Commit                                                         commit   ◄── the one commit point
//! Switch                       resume            release(target)
//! Drain      discard, drain    settle (first)    drain           end
//!
//! any failure above Commit:    abort             release(source) end      and Source::thaw
//! ```
//!
//! The journal ([`SqliteJournal`]) survives the process, and [`recover`] ends what it has open: [`engine`] says how, and
//! [`parts`] what the parties promise for it.
//!
//! What it guarantees (the tests fail every step in turn, and a simulation with ten thousand seeds of crashes, partitions and
//! lost, late and doubled calls checks it after every step):
//! - before the commit is in the journal, every failure ends with the source running;
//! - after it the target is the workload: it runs, and what is left to do is tried again, now and by [`recover`]. Only a
//!   target that certainly never came to life is given up, for the source, whose frozen copy is kept until then; that decision,
//!   too, is in the journal before the source runs;
//! - never two that run: the target is resumed only after the commit was recorded and while the source is frozen for good; the
//!   source is thawed only when nobody can resume the target any more;
//! - a party that does not answer is not taken for one that failed: the migration stays open until it answers;
//! - no packet leaves the source between the dump and a roll-back: the peers see one history of each connection;
//! - packets are held from before the freeze until the copy that answers is known.

pub mod engine;
mod journal;
pub mod parts;
mod request;

pub use engine::{Ended, migrate, recover};
pub use journal::{Entry, History, Journal, JournalError, SqliteJournal, State};
pub use parts::{PartError, Side, Source, Target, Told, Traffic};
pub use request::{Cancel, Parts, Progress, Request, Retries};
