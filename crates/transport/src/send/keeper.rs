//! The thread that listens to the receiver, and brings the connection back.
//!
//! ```text
//!            ┌────── a frame, or a heartbeat's time ──────┐
//!            ▼                                            │
//!   up ── listening ──── stall, end, damage ────► down ── dial, TLS, hello ──► up
//!            │                                     │  (again and again, up to `resume`)
//!            └─ cancelled by the receiver ─► failed ◄─ too late, refused
//! ```

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Link;
use crate::connect::Dial;
use crate::error::{Broken, StreamError, corrupt, io_error};
use crate::frame::{self, ALIVE, Buffered, CANCEL, CONFIRMED, WANT};
use crate::hello::{AGREES, Answer, Call, Features, MAGIC, NEWEST, OLDEST, SessionId, Status};
use crate::options::{Options, Peer};
use crate::progress::Progress;
use crate::requests::Want;
use crate::wire::{Wire, in_words};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How the receiver is called.
pub(super) struct Caller {
    pub(super) dial: Box<dyn Dial>,
    pub(super) peer: Peer,
    pub(super) session: SessionId,
    pub(super) features: Features,
    pub(super) slots: u32,
}

/// What a call came to.
pub(super) enum Called {
    Welcome(Arc<Wire>, Answer),
    /// It hung up on the hello: version 1 does.
    HungUp(StreamError),
}

impl Caller {
    pub(super) fn connect(&mut self, options: &Options, progress: &Arc<Progress>) -> Result<Wire, Broken> {
        let socket = self.dial.dial(options.connect).map_err(|e| match e.kind() {
            io::ErrorKind::Unsupported => Broken::Session(io_error("connect to the receiver")(e)),
            _ => Broken::Link(io_error("connect to the receiver")(e)),
        })?;
        Wire::calling(socket, &self.peer, options.connect, progress).map_err(|e| match e {
            StreamError::Refused(_) => Broken::Session(e),
            other => Broken::Link(other),
        })
    }

    pub(super) fn call(
        &mut self,
        options: &Options,
        progress: &Arc<Progress>,
        resumes: bool,
    ) -> Result<Called, Broken> {
        let wire = self.connect(options, progress)?;
        let (features, session, slots) = (self.features, self.session, self.slots);
        let (min, max) = (OLDEST.max(options.oldest), NEWEST);
        let call = Call { min, max, features, session, resumes, slots };
        debug_assert_eq!((&call.encode()[..5], call.encode()[5]), (&MAGIC[..], AGREES));
        let link = |what: &str, e| Broken::Link(io_error(what)(in_words(e)));
        if let Err(e) = wire.write_all(&[&call.encode()]) {
            return if resumes {
                Err(link("say hello", e))
            } else {
                Ok(Called::HungUp(io_error("say hello")(in_words(e))))
            };
        }
        let (mut heard, mut trouble) = (false, None);
        let mut take = |into: &mut [u8]| {
            let mut at = 0;
            while at < into.len() {
                match wire.read(&mut into[at..]) {
                    Ok(0) => return Err(io_error("the receiver hung up")(io::ErrorKind::UnexpectedEof.into())),
                    Ok(n) => (at, heard) = (at + n, true),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        let refused = crate::wire::refused_later(&e, &self.peer);
                        let hung_up = e.kind() == io::ErrorKind::ConnectionReset;
                        let error = io_error("the receiver does not answer")(in_words(e));
                        trouble = Some((refused, hung_up));
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let answer = match Answer::read(&mut take) {
            Ok(answer) => answer,
            Err(error) => {
                return match trouble {
                    Some((Some(refused), _)) => Err(Broken::Session(refused)),
                    Some((None, false)) => Err(Broken::Link(error)),
                    _ if heard || resumes => Err(Broken::Link(error)),
                    _ => Ok(Called::HungUp(error)),
                };
            }
        };
        match answer.status {
            Status::Refused => return Err(Broken::Session(StreamError::Refused(answer.text))),
            Status::Welcome if (min..=max).contains(&answer.version) => {}
            _ => {
                let (theirs, ours) = (answer.version, format!("{min} to {max}"));
                return Err(Broken::Session(StreamError::Version { theirs, ours }));
            }
        }
        let look_up = options.heartbeat.min(options.stall / 2).max(Duration::from_millis(1));
        wire.set_timeouts(look_up, options.stall).map_err(|e| link("set up the connection", e))?;
        Ok(Called::Welcome(Arc::new(wire), answer))
    }
}

/// Listens until the session is over.
pub(super) fn keep(link: &Link, mut caller: Caller, mut wire: Arc<Wire>) {
    loop {
        let error = match listen(link, &wire) {
            Ok(()) => return,
            Err(Broken::Session(error)) => return link.fail(error),
            Err(Broken::Link(error)) => error,
        };
        if link.closing() {
            return wire.shut_down();
        }
        tracing::info!(error = error.chain(), "the connection broke; it is taken up again");
        link.down();
        match again(link, &mut caller, error) {
            Some(next) => wire = next,
            None => return,
        }
    }
}

fn listen(link: &Link, wire: &Wire) -> Result<(), Broken> {
    let heard = Cell::new(Instant::now());
    let mut seen = 0;
    let mut buffered = Buffered::new(|into: &mut [u8]| wire.read(into));
    let mut payload = Vec::new();
    let stall = link.options.stall;
    let mut idle = || {
        if heard.get().elapsed() >= stall {
            let silent = io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} ms", stall.as_millis()));
            return Err(Broken::Link(io_error("the receiver is silent")(silent)));
        }
        link.beat(&mut seen);
        Ok(())
    };
    loop {
        let head =
            frame::read(&mut |into| buffered.take(into, &mut idle, &mut || heard.set(Instant::now())), &mut payload)?;
        match head.kind {
            CONFIRMED => link.confirm(head.number).map_err(Broken::Session)?,
            WANT => link.wanted(Want::decode(&payload).map_err(Broken::Session)?),
            CANCEL => {
                let why = String::from_utf8_lossy(&payload).into_owned();
                return Err(Broken::Session(StreamError::Cancelled(format!("by the receiver: {why}"))));
            }
            ALIVE => {}
            other if other >= frame::LOOSE => tracing::debug!(kind = other, "a frame of a later release"),
            other => return Err(Broken::Session(corrupt(format!("the receiver sent a frame of kind {other}")))),
        }
    }
}

/// Brings the connection back; none if the session is over.
fn again(link: &Link, caller: &mut Caller, broke: StreamError) -> Option<Arc<Wire>> {
    let within = link.options.resume;
    let deadline = Instant::now() + within;
    let (mut last, mut pause) = (broke, FIRST_PAUSE);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let options = Options { connect: link.options.connect.min(left.max(FIRST_PAUSE)), ..link.options.clone() };
        match caller.call(&options, &link.progress, true) {
            Ok(Called::Welcome(wire, answer)) => match link.up(Arc::clone(&wire), answer.received) {
                Ok(()) => return Some(wire),
                Err(error @ StreamError::Corrupt(_)) => {
                    link.fail(error);
                    return None;
                }
                Err(error) => last = error,
            },
            // The host is there, and nobody listens any more: the receiver has ended.
            Err(Broken::Link(error)) if nobody_listens(&error) => {
                link.fail(error);
                return None;
            }
            Ok(Called::HungUp(error)) | Err(Broken::Link(error)) => last = error,
            // Where the connection cannot be made again, what broke it is what there is to say.
            Err(Broken::Session(StreamError::Io { source, .. })) if source.kind() == io::ErrorKind::Unsupported => {
                link.fail(last);
                return None;
            }
            Err(Broken::Session(error)) => {
                link.fail(error);
                return None;
            }
        }
        if Instant::now() >= deadline {
            link.fail(StreamError::Lost { within_ms: within.as_millis(), source: Box::new(last) });
            return None;
        }
        if !link.pause(pause) {
            return None;
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn nobody_listens(error: &StreamError) -> bool {
    matches!(error, StreamError::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
}
