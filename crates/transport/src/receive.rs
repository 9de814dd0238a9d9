//! The receiving side.

mod meeting;
mod taking;

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use godwit_model::Bytes;

use crate::connect::{Incoming, Once};
use crate::error::{Broken, StreamError, corrupt, io_error};
use crate::frame::{self, ALIVE, BYE, Buffered, CANCEL, HEAD};
use crate::hello::Features;
use crate::options::{Options, Peer};
use crate::progress::Progress;
use crate::requests::{Back, Pager};
use crate::sink::PageSink;
use crate::v1;
use crate::wire::{Stream, Wire};
use meeting::{Door, Met};
use taking::{After, Session};

/// What was taken in is confirmed each so many bytes.
const CONFIRM: usize = 1 << 20;

/// Receives what a [`Sender`](crate::Sender) sends; see the crate.
pub struct Receiver {
    incoming: Box<dyn Incoming>,
    resumable: bool,
    peer: Peer,
    options: Options,
    dir: PathBuf,
    back: Arc<Back>,
    progress: Arc<Progress>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("dir", &self.dir).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Receiver {
    /// From a connection that is there, in the clear, once: for tests within a process. Files go into `dir`, which must
    /// exist and have none of their names yet.
    pub fn new(stream: TcpStream, dir: impl Into<PathBuf>) -> Self {
        let receiver = Self::listen(Once(Some(stream)), Peer::Plain, Options::default(), dir);
        Self { resumable: false, ..receiver }
    }

    /// From whoever calls and is that peer. Files go into `dir`, which must exist and have none of their names yet.
    pub fn listen(incoming: impl Incoming, peer: Peer, options: Options, dir: impl Into<PathBuf>) -> Self {
        let (back, progress) = (Arc::default(), Arc::default());
        Self { incoming: Box::new(incoming), resumable: true, peer, options, dir: dir.into(), back, progress }
    }

    /// To ask the sender for pages, from any thread.
    pub fn pager(&self) -> Pager {
        Pager(Arc::clone(&self.back))
    }

    /// Ends the session from any thread, also while nobody has called yet.
    pub fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.back))
    }

    /// Counters, for any thread.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Receives everything; returns the bytes of its contents.
    ///
    /// # Errors
    /// Nobody called; the connection did not come back; either side gave up; something came that was not sent.
    pub fn run(mut self, sink: &mut dyn PageSink) -> Result<Bytes, StreamError> {
        let (back, progress) = (Arc::clone(&self.back), Arc::clone(&self.progress));
        let door = Door { peer: &self.peer, options: &self.options, progress: &progress, back: &back };
        let (wire, call) = match door.meet(&mut *self.incoming, None, self.options.connect)? {
            Met::First(wire) => return v1::Receiver::new(&mut Stream(wire), &self.dir).run(sink),
            Met::Second(wire, call) => (wire, call),
        };
        let mut session = Session::new(call.session, call.features, call.slots, self.dir.clone())?;
        let received = receive(&door, &mut *self.incoming, wire, &mut session, sink);
        let wire = match received {
            Ok(wire) => wire,
            Err(error) => {
                let error = back.cancelled().unwrap_or(error);
                back.give_up(&error.chain());
                return Err(error);
            }
        };
        let bytes = Bytes(session.bytes);
        if self.resumable {
            self.linger(session, wire);
        }
        Ok(bytes)
    }

    /// The sender may not have heard that all was taken in: it is told again, until it has or does not ask any more.
    fn linger(self, session: Session, wire: Arc<Wire>) {
        let Self { mut incoming, peer, options, back, progress, .. } = self;
        let farewell = move || {
            let door = Door { peer: &peer, options: &options, progress: &progress, back: &back };
            let mut wire = wire;
            let deadline = Instant::now() + options.resume;
            while !said_bye(&wire, &options) {
                let left = deadline.saturating_duration_since(Instant::now());
                match door.meet(&mut *incoming, Some(&session), left) {
                    Ok(Met::Second(next, ..)) => wire = next,
                    _ => return,
                }
            }
        };
        // Without it, a sender that lost the last confirmation fails, which is what it would do without any resumption.
        let started = thread::Builder::new().name("farewell".into()).spawn(farewell);
        if let Err(error) = started {
            tracing::debug!(%error, "the sender is not waited for");
        }
    }
}

/// Ends a receiver's session from any thread: [`Receiver::run`] and the sender get [`StreamError::Cancelled`].
#[derive(Debug, Clone)]
pub struct Ender(Arc<Back>);

impl Ender {
    /// Ends it.
    pub fn end(&self, why: &str) {
        self.0.cancel(why);
    }
}

/// Takes in all that comes, over as many connections as it takes; the last one.
fn receive(
    door: &Door<'_>,
    incoming: &mut dyn Incoming,
    mut wire: Arc<Wire>,
    session: &mut Session,
    sink: &mut dyn PageSink,
) -> Result<Arc<Wire>, StreamError> {
    loop {
        door.back.up(Arc::clone(&wire), session.features.has(Features::REQUESTS));
        let mut next = None;
        let ended = listen(door, incoming, &wire, session, sink, &mut next);
        let error = match ended {
            Ok(()) => return Ok(wire),
            Err(Broken::Session(error)) => return Err(error),
            Err(Broken::Link(error)) => error,
        };
        door.back.down();
        wire.shut_down();
        if let Some(cancelled) = door.back.cancelled() {
            return Err(cancelled);
        }
        if let Some(next) = next {
            wire = next;
            continue;
        }
        tracing::info!(error = error.chain(), "the connection broke; the sender may take it up again");
        let within = door.options.resume;
        match door.meet(incoming, Some(session), within) {
            Ok(Met::Second(next, ..)) => wire = next,
            Ok(Met::First(_)) => return Err(corrupt("another version took the session up")),
            Err(cancelled @ StreamError::Cancelled(_)) => return Err(cancelled),
            // It cannot come back: what broke it is what there is to say.
            Err(StreamError::Io { source, .. }) if source.kind() == io::ErrorKind::Unsupported => return Err(error),
            Err(_) => return Err(StreamError::Lost { within_ms: within.as_millis(), source: Box::new(error) }),
        }
    }
}

/// Takes in what comes over one connection, until the end. `next` is a connection that the sender made meanwhile.
fn listen(
    door: &Door<'_>,
    incoming: &mut dyn Incoming,
    wire: &Wire,
    session: &mut Session,
    sink: &mut dyn PageSink,
    next: &mut Option<Arc<Wire>>,
) -> Result<(), Broken> {
    let heard = Cell::new(Instant::now());
    let mut buffered = Buffered::new(|into: &mut [u8]| wire.read(into));
    let mut payload = Vec::new();
    let mut unconfirmed = 0;
    let stall = door.options.stall;
    loop {
        let mut idle = || {
            if heard.get().elapsed() >= stall {
                let silent =
                    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} ms", stall.as_millis()));
                return Err(Broken::Link(io_error("the sender is silent")(silent)));
            }
            if std::mem::take(&mut unconfirmed) > 0 {
                door.back.confirm(session.received)
            } else {
                door.back.alive()
            }
            // The sender may know sooner than this side that the connection is no good.
            if let Ok(socket) = incoming.next(Duration::ZERO)
                && let Ok(Met::Second(wire, ..)) = door.greet(socket, Some(session), door.options.connect)
            {
                *next = Some(wire);
                return Err(Broken::Link(io_error("the sender called again")(io::ErrorKind::ConnectionAborted.into())));
            }
            Ok(())
        };
        let head =
            frame::read(&mut |into| buffered.take(into, &mut idle, &mut || heard.set(Instant::now())), &mut payload)?;
        match head.kind {
            ALIVE | BYE => continue,
            CANCEL => {
                let why = String::from_utf8_lossy(&payload).into_owned();
                return Err(Broken::Session(StreamError::Cancelled(format!("by the sender: {why}"))));
            }
            other if other >= frame::LOOSE => {
                tracing::debug!(kind = other, "a frame of a later release");
                continue;
            }
            _ => {}
        }
        let after = session.take(head, &payload, sink, door.back, door.progress).map_err(Broken::Session)?;
        unconfirmed += HEAD + payload.len() + 4;
        if after != After::GoOn || unconfirmed >= CONFIRM {
            unconfirmed = 0;
            door.back.confirm(session.received);
        }
        if after == After::Ended {
            return Ok(());
        }
    }
}

/// Whether the sender has said that it knows.
fn said_bye(wire: &Wire, options: &Options) -> bool {
    let deadline = Instant::now() + options.stall;
    let mut buffered = Buffered::new(|into: &mut [u8]| wire.read(into));
    let mut payload = Vec::new();
    let mut idle = || {
        let late = || io_error("the sender says nothing")(io::ErrorKind::TimedOut.into());
        if Instant::now() < deadline { Ok(()) } else { Err(Broken::Link(late())) }
    };
    loop {
        match frame::read(&mut |into| buffered.take(into, &mut idle, &mut || ()), &mut payload) {
            Ok(head) if head.kind == BYE || head.kind == CANCEL => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::meeting::is_waiting;
    use super::*;

    #[test]
    fn a_listener_without_callers_comes_back_in_time() {
        let mut listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for within in [Duration::ZERO, Duration::from_millis(5)] {
            assert!(is_waiting(Incoming::next(&mut listener, within).unwrap_err().kind()));
        }
    }
}
