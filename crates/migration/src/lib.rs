//! The live-migration engine: it takes a workload from one node to another and never loses it.
//!
//! The engine knows the order and the commit point; what a phase *does* is behind three traits that a world
//! implements: [`Source`] and [`Target`] (a runtime on either node) and [`Traffic`] (who gets the packets).
//!
//! ```text
//!            Source            Target            Traffic         Journal
//! Preflight  preflight         preflight
//! Stage      stage             stage             stage           begin
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
//! What it guarantees (the tests fail every step in turn and check it):
//! - before the commit is in the journal, every failure ends with the source running and the target gone;
//! - after it the target is the workload: it runs, and what is left to do is tried again and then reported. Only a
//!   target that never came to life is given up, for the source, whose frozen copy is kept until then; that decision,
//!   too, is in the journal before the source runs;
//! - never two that run: the target is resumed only while the source is frozen for good, the source is thawed only
//!   after the target was aborted;
//! - no packet leaves the source between the dump and a roll-back: the peers see one history of each connection;
//! - packets are held from before the freeze until the copy that answers is known.

mod engine;
mod journal;
pub mod parts;

pub use engine::{Cancel, Ended, Parts, Progress, Request, migrate};
pub use journal::{Entry, FileJournal, Journal, JournalError, State};
pub use parts::{PartError, Side, Source, Target, Told, Traffic};
