//! The sender's end of a session: numbered frames, kept until they are confirmed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Real};
use crate::choose::LinkSpeed;
use crate::error::{StreamError, io_error};
use crate::frame::{self, ALIVE, BYE, CANCEL};
use crate::options::Options;
use crate::progress::Progress;
use crate::requests::Want;
use crate::wire::Wire;

/// Small frames are gathered up to that.
const GATHER: usize = 64 << 10;
/// A smaller window than that would wait for confirmations that the receiver gives by the mebibyte.
const LEAST_WINDOW: usize = 4 << 20;

/// Frames that are confirmed lend their memory to the next ones: so many, and none shorter than that.
const LENT: usize = 32;
const WORTH_LENDING: usize = 64 << 10;

/// When a frame goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Together with others.
    Gathered,
    /// At once, with what was gathered before it.
    Now,
    /// At once, and before all that waits to be pushed.
    First,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: Options,
    pub(super) progress: Arc<Progress>,
    state: Mutex<State>,
    changed: Condvar,
    /// The right to write. It is taken before the state, never the other way round.
    writer: Mutex<Writer>,
    bucket: Option<Mutex<Bucket<Real>>>,
    /// Bytes written, as they go over the wire but for TLS's own; who sees it unchanged knows that the line is idle.
    written: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    confirmed: u64,
    kept: VecDeque<Arc<Vec<u8>>>,
    kept_bytes: usize,
    lent: Vec<Vec<u8>>,
    wants: VecDeque<Want>,
    last_want: u64,
    /// How many wait to write before the others.
    first: usize,
    wire: Option<Arc<Wire>>,
    failed: Option<StreamError>,
    closing: bool,
}

#[derive(Debug)]
struct Writer {
    wire: Option<Arc<Wire>>,
    next: u64,
    gathered: Vec<Arc<Vec<u8>>>,
    gathered_bytes: usize,
    speed: LinkSpeed,
    last: Instant,
}

impl State {
    /// The memory of a frame that nobody sends any more.
    fn lend(&mut self, frame: Arc<Vec<u8>>) {
        if frame.capacity() >= WORTH_LENDING
            && self.lent.len() < LENT
            && let Ok(frame) = Arc::try_unwrap(frame)
        {
            self.lent.push(frame);
        }
    }
}

impl Link {
    pub(super) fn new(wire: Arc<Wire>, options: Options, progress: Arc<Progress>) -> Self {
        let writer = Writer {
            wire: Some(Arc::clone(&wire)),
            next: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            speed: LinkSpeed::default(),
            last: Instant::now(),
        };
        let state = State { wire: Some(wire), ..State::default() };
        let bucket = options.cap.map(|cap| Mutex::new(Bucket::new(cap, Real)));
        let (changed, written) = (Condvar::new(), AtomicU64::new(0));
        Self { options, progress, state: Mutex::new(state), changed, writer: Mutex::new(writer), bucket, written }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells whoever waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    /// How much fits into a frame: less where the bandwidth is capped, so that nothing waits long for a frame.
    pub(super) fn grain(&self) -> usize {
        let page = crate::sink::PAGE as usize;
        let grain = self
            .bucket
            .as_ref()
            .map_or(frame::CHUNK, |bucket| bucket.lock().unwrap_or_else(PoisonError::into_inner).grain());
        (grain / page * page).clamp(page, frame::CHUNK)
    }

    /// Bytes a second that go through, as far as it is known.
    pub(super) fn speed(&self) -> Option<f64> {
        let cap = self.options.cap.map(|cap| cap as f64);
        let measured = self.writer().speed.estimate();
        cap.map_or(measured, |cap| Some(measured.map_or(cap, |measured| measured.min(cap))))
    }

    /// Sends a frame, or keeps it until the connection is back. Its number.
    pub(super) fn put(&self, kind: u8, flags: u8, parts: &[&[u8]], when: When) -> Result<u64, StreamError> {
        if when == When::First {
            self.state().first += 1;
        } else {
            self.make_room()?;
        }
        let mut writer = self.writer();
        let number = writer.next;
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let lent = if length >= WORTH_LENDING { self.state().lent.pop() } else { None };
        let frame = Arc::new(frame::encode_into(lent.unwrap_or_default(), kind, flags, number, parts));
        let kept = self.change(|state| {
            if when == When::First {
                state.first -= 1;
            }
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            state.kept_bytes += frame.len();
            state.kept.push_back(Arc::clone(&frame));
            Ok(())
        });
        kept?;
        writer.next += 1;
        if let Some(bucket) = &self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).take(frame.len());
        }
        writer.gathered_bytes += frame.len();
        writer.gathered.push(frame);
        if when != When::Gathered || writer.gathered_bytes >= GATHER {
            self.flush(&mut writer);
        }
        Ok(number)
    }

    fn flush(&self, writer: &mut Writer) {
        let frames = std::mem::take(&mut writer.gathered);
        writer.gathered_bytes = 0;
        // Without a connection they are kept all the same, and go out when it is back.
        let Some(wire) = writer.wire.clone() else { return };
        if frames.is_empty() {
            return;
        }
        let parts: Vec<&[u8]> = frames.iter().map(|frame| frame.as_slice()).collect();
        let start = Instant::now();
        let done = wire.write_all(&parts);
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let (waiting, busy) = (start.elapsed().as_secs_f64(), (start - writer.last).as_secs_f64());
        writer.speed.add(bytes, waiting, busy);
        writer.last = Instant::now();
        self.written.fetch_add(bytes as u64, Relaxed);
        if let Err(error) = done {
            tracing::debug!(%error, "a connection broke while it was written to");
            // The keeper reads the end of it, and sees to the next one.
            wire.shut_down();
            writer.wire = None;
        }
    }

    /// Waits until the cap, the window, and those who go first let another frame pass.
    fn make_room(&self) -> Result<(), StreamError> {
        let window = self.options.window.max(LEAST_WINDOW);
        let mut flushed = false;
        let mut state = self.state();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            let debt = self.bucket.as_ref().map(|bucket| bucket.lock().unwrap_or_else(PoisonError::into_inner).debt());
            let full = state.kept_bytes >= window;
            if full && !flushed {
                drop(state);
                self.flush(&mut self.writer());
                flushed = true;
                state = self.state();
            } else if full || state.first > 0 {
                state = self.wait(state);
            } else if let Some(debt) = debt.filter(|debt| !debt.is_zero()) {
                state = self.changed.wait_timeout(state, debt).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                return Ok(());
            }
        }
    }

    /// Waits until the receiver has taken in that frame.
    pub(super) fn confirmed(&self, number: u64) -> Result<(), StreamError> {
        let mut state = self.state();
        while state.confirmed <= number {
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            state = self.wait(state);
        }
        Ok(())
    }

    /// The next request, if one comes in time.
    pub(super) fn want(&self, within: Duration) -> Result<Option<Want>, StreamError> {
        let deadline = Instant::now() + within;
        let mut state = self.state();
        loop {
            if let Some(want) = state.wants.pop_front() {
                return Ok(Some(want));
            }
            if let Some(error) = &state.failed {
                return Err(error.again());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closing {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The session is over, well.
    pub(super) fn close(&self) {
        self.change(|state| state.closing = true);
        self.say(&frame::encode(BYE, 0, 0, &[]));
        // The keeper listens until the receiver hangs up: closing with something unread would take back what was said.
        if let Some(wire) = &self.state().wire {
            wire.shut_out();
        }
    }

    /// The session is over, by will. The receiver is told if the line is free.
    pub(super) fn cancel(&self, why: &str) {
        let wire = self.change(|state| {
            if state.closing {
                return None;
            }
            state.closing = true;
            state.failed.get_or_insert_with(|| StreamError::Cancelled(why.to_owned()));
            state.wire.take()
        });
        if let Some(wire) = wire {
            let Ok(writer) = self.writer.try_lock() else { return wire.shut_down() };
            drop(writer);
            self.say(&frame::encode(CANCEL, 0, 0, &[&why.as_bytes()[..why.len().min(1000)]]));
            wire.shut_out();
        }
    }

    fn say(&self, frame: &[u8]) {
        let writer = self.writer();
        if let Some(wire) = &writer.wire
            && wire.write_all(&[frame]).is_err()
        {
            wire.shut_down();
        }
    }

    // What follows is the keeper's.

    pub(super) fn closing(&self) -> bool {
        self.state().closing
    }

    /// Says that this side lives, if it said nothing since `seen`. What was gathered goes out with it.
    pub(super) fn beat(&self, seen: &mut u64) {
        let written = self.written.load(Relaxed);
        if std::mem::replace(seen, written) != written {
            return;
        }
        // Whoever holds it is writing.
        let Ok(mut writer) = self.writer.try_lock() else { return };
        self.flush(&mut writer);
        if let Some(wire) = &writer.wire
            && wire.write_all(&[&frame::encode(ALIVE, 0, 0, &[])]).is_err()
        {
            wire.shut_down();
        }
    }

    /// The receiver has taken in so many frames.
    pub(super) fn confirm(&self, frames: u64) -> Result<(), StreamError> {
        self.change(|state| {
            let known = state.confirmed + state.kept.len() as u64;
            if frames > known {
                return Err(crate::error::corrupt(format!("{frames} frames are confirmed, {known} were sent")));
            }
            while state.confirmed < frames {
                if let Some(frame) = state.kept.pop_front() {
                    state.kept_bytes -= frame.len();
                    state.lend(frame);
                }
                state.confirmed += 1;
            }
            Ok(())
        })
    }

    /// The receiver asks. What it asked before the connection broke, it may ask again.
    pub(super) fn wanted(&self, want: Want) {
        self.change(|state| {
            if want.id > state.last_want {
                state.last_want = want.id;
                state.wants.push_back(want);
            }
        });
    }

    /// Nothing can be sent any more.
    pub(super) fn fail(&self, error: StreamError) {
        let wire = self.change(|state| {
            state.failed.get_or_insert(error);
            state.wire.take()
        });
        if let Some(wire) = wire {
            wire.shut_down();
        }
    }

    /// Waits before a further try to connect; whether there should be one.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        if state.closing {
            return false;
        }
        let (state, _) = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
        !state.closing
    }

    pub(super) fn down(&self) {
        let wire = self.state().wire.take();
        if let Some(wire) = wire {
            // Also lets go whoever is writing to it.
            wire.shut_down();
        }
        self.writer().wire = None;
    }

    /// There is a connection again, whose receiver has taken in `received` frames: those after them are sent once more.
    pub(super) fn up(&self, wire: Arc<Wire>, received: u64) -> Result<(), StreamError> {
        let mut writer = self.writer();
        self.confirm(received)?;
        let frames: Vec<_> = self.change(|state| {
            if state.closing {
                wire.shut_down();
            }
            state.wire = Some(Arc::clone(&wire));
            state.kept.iter().cloned().collect()
        });
        (writer.gathered, writer.gathered_bytes) = (Vec::new(), 0);
        writer.last = Instant::now();
        for frames in frames.chunks(16) {
            let parts: Vec<&[u8]> = frames.iter().map(|frame| frame.as_slice()).collect();
            wire.write_all(&parts).map_err(io_error("the connection broke again"))?;
        }
        writer.wire = Some(wire);
        self.progress.resumed.fetch_add(1, Relaxed);
        Ok(())
    }
}
