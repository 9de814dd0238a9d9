//! The live-migration engine: it takes a workload from one node to another and never loses it.
//!
//! The engine knows the order and the commit point; what a phase *does* is behind three traits that a world
//! implements: [`Source`] and [`Target`] (a runtime on either node) and [`Traffic`] (who gets the packets).
//!
//! ```text
//!            Source            Target            Traffic         Journal
//! Preflight  preflight         preflight
//! Stage      stage             stage             stage           begin
//! Freeze     freeze                              hold
//! Dump       dump
//! Transfer   ───────────── Images ────────────►
//! Restore                      restore
//! Commit                                                         commit   ◄── the one commit point
//! Switch     discard           resume            release(target)
//! Drain      drain             settle            drain           end
//!
//! any failure above Commit:    abort             release(source) end      and Source::thaw, last
//! ```
//!
//! What it guarantees (the tests fail every step in turn and check it):
//! - before the commit is in the journal, every failure ends with the source running and the target gone;
//! - after it, no failure brings the source back: what is left of the switch is tried again, and then reported;
//! - the source is thawed only after the target was told to abort; the target is resumed only after the source's
//!   copy was discarded: never two that answer;
//! - packets are held from before the freeze until the copy that answers is known.

mod engine;
mod image;
mod journal;
mod parts;

pub use engine::{Cancel, Ended, Progress, Request, migrate};
pub use image::{ImageError, receive_dir, send_dir};
pub use journal::{Entry, FileJournal, Journal, JournalError, State};
pub use parts::{PartError, Side, Source, Target, Traffic};
