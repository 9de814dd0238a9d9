//! The way back: the receiver asks for pages, and they overtake what is pushed.
//!
//! ```text
//!   receiver                                              sender
//!   Pager::want ── asked ──────────── want ────────────►  queued ── Requests::next ── taken
//!     PageSink::answer ◄── answered ◄─ answer ──────────  answered ◄── Requests::answer
//! ```
//! A request is open until its answer came. When the connection is taken up again, the open ones are asked again; the
//! sender takes each up once. An answer waits for one frame of the push at most, and for what the kernel already has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{StreamError, corrupt};
use crate::frame::{self, ALIVE, CANCEL, CHUNK, CONFIRMED, Cursor, WANT};
use crate::sink::PAGE;
use crate::wire::Wire;

/// What may be open at a time, in bytes: it bounds what answers take of the sender's memory.
const MOST_OPEN: u64 = 16 << 20;

/// Pages that the receiver needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub(crate) id: u64,
    /// The process, as the sender calls it.
    pub pid: i32,
    /// Where they begin.
    pub addr: u64,
    /// How many bytes; whole pages, 256 KiB at most.
    pub len: u32,
}

impl Want {
    fn encode(&self) -> Vec<u8> {
        let (id, pid, addr, len) =
            (self.id.to_le_bytes(), self.pid.to_le_bytes(), self.addr.to_le_bytes(), self.len.to_le_bytes());
        frame::encode(WANT, 0, 0, &[&id, &pid, &addr, &len])
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, StreamError> {
        let mut at = Cursor::new(payload);
        let want = Self { id: at.u64()?, pid: at.i32()?, addr: at.u64()?, len: at.u32()? };
        at.end()?;
        want.check().map(|()| want)
    }

    pub(crate) fn check(&self) -> Result<(), StreamError> {
        let (addr, len) = (self.addr, u64::from(self.len));
        let pages = addr.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && addr.checked_add(len).is_some();
        if pages && len > 0 && len <= CHUNK as u64 {
            return Ok(());
        }
        Err(corrupt(format!("{len} bytes at {addr:#x} are not pages that can be asked for")))
    }
}

/// What the receiver says to the sender, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Back(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    wire: Option<Arc<Wire>>,
    /// Whether the sender understands requests; unknown before the first hello.
    understood: Option<bool>,
    open: BTreeMap<u64, Want>,
    open_bytes: u64,
    asked: u64,
    cancelled: Option<String>,
}

impl State {
    fn say(&self, frame: &[u8]) {
        if let Some(wire) = &self.wire
            && wire.write_all(&[frame]).is_err()
        {
            // Whoever reads from it finds out, and sees to the next one.
            wire.shut_down();
        }
    }
}

impl Back {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is up: what is open is asked again.
    pub(crate) fn up(&self, wire: Arc<Wire>, understands: bool) {
        let mut state = self.state();
        state.wire = Some(wire);
        state.understood = Some(understands);
        if understands {
            state.open.values().for_each(|want| state.say(&want.encode()));
        }
    }

    pub(crate) fn down(&self) {
        self.state().wire = None;
    }

    pub(crate) fn confirm(&self, frames: u64) {
        self.state().say(&frame::encode(CONFIRMED, 0, frames, &[]));
    }

    pub(crate) fn alive(&self) {
        self.state().say(&frame::encode(ALIVE, 0, 0, &[]));
    }

    /// Tells the sender that it is over.
    pub(crate) fn give_up(&self, why: &str) {
        let mut state = self.state();
        state.say(&frame::encode(CANCEL, 0, 0, &[&why.as_bytes()[..why.len().min(1000)]]));
        if let Some(wire) = state.wire.take() {
            wire.shut_down();
        }
    }

    pub(crate) fn cancel(&self, why: &str) {
        self.state().cancelled.get_or_insert_with(|| why.to_owned());
        self.give_up(why);
    }

    /// Why it was cancelled on this side, if it was.
    pub(crate) fn cancelled(&self) -> Option<StreamError> {
        self.state().cancelled.clone().map(StreamError::Cancelled)
    }

    /// An answer came: to what?
    pub(crate) fn answered(&self, id: u64) -> Option<Want> {
        let mut state = self.state();
        let want = state.open.remove(&id)?;
        state.open_bytes -= u64::from(want.len);
        Some(want)
    }
}

/// Asks the sender for pages, from any thread. What comes goes to the receiver's [`PageSink`](crate::PageSink).
#[derive(Debug, Clone)]
pub struct Pager(pub(crate) Arc<Back>);

impl Pager {
    /// Asks for pages; does not wait for them. While the connection is away the request is kept, and asked later.
    ///
    /// # Errors
    /// No pages, 16 MiB asked for and not answered yet, a sender that does not understand requests, a cancelled session.
    pub fn want(&self, pid: i32, addr: u64, len: u32) -> Result<(), StreamError> {
        let mut state = self.0.state();
        let want = Want { id: state.asked + 1, pid, addr, len };
        want.check()?;
        if let Some(why) = &state.cancelled {
            return Err(StreamError::Cancelled(why.clone()));
        }
        if state.understood == Some(false) {
            return Err(StreamError::Refused("the sender's release does not answer requests for pages".into()));
        }
        if state.open_bytes + u64::from(len) > MOST_OPEN {
            return Err(StreamError::Refused("too many pages are asked for and not answered: wait for some".into()));
        }
        state.asked += 1;
        state.open_bytes += u64::from(len);
        state.open.insert(want.id, want);
        if state.understood.is_some() {
            state.say(&want.encode());
        }
        Ok(())
    }

    /// How many requests are open.
    pub fn open(&self) -> usize {
        self.0.state().open.len()
    }
}
