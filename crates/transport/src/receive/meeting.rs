//! Who calls, and whether it is the right one.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::taking::Session;
use crate::connect::Incoming;
use crate::duplicates::SLOTS;
use crate::error::{StreamError, corrupt, io_error};
use crate::hello::{AGREES, Answer, Call, Features, MAGIC, NEWEST, OLDEST, Status, agree};
use crate::options::{Options, Peer};
use crate::progress::Progress;
use crate::requests::Back;
use crate::v1;
use crate::wire::{Wire, in_words};

/// So long is waited for a caller before it is looked whether the session was cancelled.
const SLICE: Duration = Duration::from_millis(100);

/// Who called.
pub(super) enum Met {
    /// Version 1, in the clear.
    First(Arc<Wire>),
    /// A new session, or the one that is known.
    Second(Arc<Wire>, Call),
}

/// Everything that meeting somebody takes.
pub(super) struct Door<'a> {
    pub(super) peer: &'a Peer,
    pub(super) options: &'a Options,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) back: &'a Back,
}

impl Door<'_> {
    /// Waits for the sender. Others are refused, and told why; so is the sender, if it is not as expected.
    pub(super) fn meet(
        &self,
        incoming: &mut dyn Incoming,
        known: Option<&Session>,
        within: Duration,
    ) -> Result<Met, StreamError> {
        let deadline = Instant::now() + within;
        let mut last = None;
        loop {
            if let Some(cancelled) = self.back.cancelled() {
                return Err(cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late =
                    || io::Error::new(io::ErrorKind::TimedOut, format!("nobody called for {} ms", within.as_millis()));
                return Err(last.unwrap_or_else(|| io_error("wait for the sender")(late())));
            }
            let error = match incoming.next(left.min(SLICE)) {
                Ok(socket) => match self.greet(socket, known, left) {
                    Ok(met) => return Ok(met),
                    Err(error) => error,
                },
                Err(e) if is_waiting(e.kind()) => continue,
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    return Err(last.unwrap_or_else(|| io_error("wait for the sender")(e)));
                }
                Err(e) => return Err(io_error("wait for the sender")(e)),
            };
            tracing::warn!(error = error.chain(), "somebody called who is not the sender");
            last = Some(error);
        }
    }

    /// Says hello to whoever called.
    pub(super) fn greet(&self, socket: TcpStream, known: Option<&Session>, left: Duration) -> Result<Met, StreamError> {
        let wire = Wire::called(socket, self.peer, self.options.connect.min(left), self.progress)?;
        let mut take = |into: &mut [u8]| {
            let mut at = 0;
            while at < into.len() {
                match wire.read(&mut into[at..]) {
                    Ok(0) => return Err(io_error("the stream ended early")(io::ErrorKind::UnexpectedEof.into())),
                    Ok(n) => at += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(io_error("the sender does not say hello")(in_words(e))),
                }
            }
            Ok(())
        };
        let mut start = [0; 6];
        take(&mut start)?;
        if &start[..5] != MAGIC {
            return Err(corrupt("this is no stream of a migration"));
        }
        let ours = (OLDEST.max(self.options.oldest), NEWEST);
        let version_error = |theirs| StreamError::Version { theirs, ours: format!("{} to {}", ours.0, ours.1) };
        if start[5] == v1::VERSION {
            // Nothing resumes a session of version 1, and nothing authenticates it.
            if known.is_some() || self.options.oldest > 1 || !matches!(self.peer, Peer::Plain) {
                return Err(version_error(v1::VERSION));
            }
            wire.set_timeouts(self.options.stall.max(self.options.connect), self.options.stall)
                .map_err(io_error("set up the connection"))?;
            return Ok(Met::First(Arc::new(wire)));
        }
        if start[5] != AGREES {
            return Err(version_error(start[5]));
        }
        let call = Call::read(&mut take)?;
        let refuse = |text: String| {
            // The one who is refused learns it if it still listens.
            let _ = wire.write_all(&[&Answer::refused(&*text).encode()]);
            StreamError::Refused(text)
        };
        if let (false, Peer::Node { name, .. }) = (wire.is_from(self.peer), self.peer) {
            return Err(refuse(format!("{name} is expected here, and the certificate shown is another node's")));
        }
        let Some(version) = agree(ours, (call.min, call.max)) else {
            let text = format!("versions {} to {} are spoken here", ours.0, ours.1);
            let answer = Answer { status: Status::Version, ..Answer::refused(text) };
            let _ = wire.write_all(&[&answer.encode()]);
            return Err(version_error(call.max));
        };
        let (features, received, slots) = match known {
            None if call.resumes => {
                return Err(refuse(
                    "this session is not known here: it has ended, or the receiver was started anew".into(),
                ));
            }
            Some(known) if call.session != known.id || !call.resumes => {
                return Err(refuse("another session is under way here".into()));
            }
            Some(known) => (known.features, known.received, known.slots),
            None => (call.features.both(Features::ALL), 0, call.slots.min(SLOTS)),
        };
        let text = String::new();
        let answer = Answer { status: Status::Welcome, version, features, received, slots, text };
        wire.write_all(&[&answer.encode()]).map_err(io_error("answer the sender"))?;
        let look_up = self.options.heartbeat.min(self.options.stall / 2).max(Duration::from_millis(1));
        wire.set_timeouts(look_up, self.options.stall).map_err(io_error("set up the connection"))?;
        Ok(Met::Second(Arc::new(wire), Call { features, slots, ..call }))
    }
}

pub(super) fn is_waiting(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
