//! How the stream from source to target comes about: the target awaits it, the source brings the word.
//!
//! ```text
//!   target: await_source() ──address, word──► controller ──► source: join()
//!      accepts ◄────────────────── TCP, the word first ──────────┘
//! ```
//! The controller sees none of what flows. A peer without the word is turned away, and the target goes on waiting; one that
//! brings it has to be that node by its certificate, too, where agents have credentials. When the connection breaks, the
//! source comes again in the same way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_migration::PartError;
use godwit_transport::{Dial, Incoming, Options};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wire::Meeting;

/// How long a peer may take to say the word.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stream that nothing resumes may stall, and how long it is waited for.
const STALL: Duration = Duration::from_secs(10);
/// How often who waits for one looks whether it still should.
const LOOK_UP: u16 = 50;
const WORD: usize = 32;

/// What the stream waits for. It is short where it is about the freeze: the workload stands still meanwhile, and could run on
/// at the source.
pub(crate) fn options() -> Options {
    Options { resume: Duration::from_secs(3), ..Options::default() }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> PartError {
    let what = format!("{what} over the backhaul");
    move |e| PartError::caused_by(what, e)
}

/// The target's end: hears whoever brings the word.
pub(crate) struct Waiting {
    listener: TcpListener,
    word: Vec<u8>,
}

/// Ends a stream, or the wait for it, from another thread.
#[derive(Clone, Default)]
pub(crate) struct HangUp(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    stream: Option<TcpStream>,
    ended: bool,
}

impl HangUp {
    pub(crate) fn now(&self) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.ended = true;
        if let Some(stream) = line.stream.take() {
            // It can only fail when the other end has gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended
    }

    fn holds(&self, stream: &TcpStream) -> io::Result<()> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        line.stream = Some(stream.try_clone()?);
        Ok(())
    }
}

/// Listens at an address of the node.
pub(crate) fn await_source(node: &str, at: IpAddr) -> Result<(Waiting, Meeting), PartError> {
    let listener = TcpListener::bind((at, 0)).map_err(failed("listen"))?;
    let address = listener.local_addr().map_err(failed("listen"))?;
    let mut word = vec![0; WORD];
    let chosen = File::open("/dev/urandom").and_then(|mut chance| chance.read_exact(&mut word));
    chosen.map_err(|e| PartError::caused_by("choose a word", e))?;
    let meeting = Meeting { address: address.to_string(), word: word.clone(), node: node.into() };
    Ok((Waiting { listener, word }, meeting))
}

/// Listens where an agent that was killed has listened, for the same word.
pub(crate) fn await_again(at: SocketAddr, word: Vec<u8>) -> Result<Waiting, PartError> {
    let listener = TcpListener::bind(at).map_err(failed("listen again"))?;
    Ok(Waiting { listener, word })
}

impl Incoming for Waiting {
    fn next(&mut self, within: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut stream = self.listener.next(left)?;
            let from = stream.peer_addr();
            match self.knows(&mut stream) {
                Ok(true) => return Ok(stream),
                Ok(false) => tracing::warn!(?from, "a peer that does not know the word was turned away"),
                Err(error) => tracing::warn!(?from, %error, "a peer came and went"),
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Waiting {
    /// The next one with the word, unless it is hung up: one stream that is not made whole again by itself.
    pub(crate) fn accept(&self, hang_up: &HangUp) -> io::Result<TcpStream> {
        let deadline = Instant::now() + STALL;
        while !hang_up.has_ended() {
            let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(LOOK_UP))? == 0 {
                if Instant::now() >= deadline {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody came"));
                }
                continue;
            }
            let (mut stream, from) = self.listener.accept()?;
            match self.knows(&mut stream) {
                Ok(true) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(STALL))?;
                    // A peer may have nothing to ask for a while.
                    stream.set_read_timeout(None)?;
                    hang_up.holds(&stream)?;
                    return Ok(stream);
                }
                Ok(false) => tracing::warn!(%from, "a peer that does not know the word was turned away"),
                Err(error) => tracing::warn!(%from, %error, "a peer came and went"),
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn knows(&self, stream: &mut TcpStream) -> io::Result<bool> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut word = [0; WORD];
        stream.read_exact(&mut word)?;
        Ok(word[..] == self.word)
    }
}

/// The source's end: comes to the meeting, as often as it has to.
pub(crate) fn join(meeting: &Meeting) -> Result<impl Dial + 'static, PartError> {
    let address: SocketAddr =
        meeting.address.parse().map_err(|_| PartError::new(format!("\"{}\" is no address", meeting.address)))?;
    let word = meeting.word.clone();
    Ok(move |within: Duration| {
        let mut stream = TcpStream::connect_timeout(&address, within)?;
        stream.set_write_timeout(Some(within))?;
        stream.write_all(&word)?;
        Ok(stream)
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_source_with_the_word_is_let_in_and_others_are_not() {
        let (mut waiting, meeting) = await_source("b", HERE).unwrap();
        let accepting = thread::spawn(move || waiting.next(LONG));
        drop(join(&Meeting { word: vec![7; WORD], ..meeting.clone() }).unwrap().dial(LONG).unwrap());
        drop(TcpStream::connect(&meeting.address).unwrap());
        let mut source = join(&meeting).unwrap().dial(LONG).unwrap();
        let mut target = accepting.join().unwrap().unwrap();
        source.write_all(b"x").unwrap();
        let mut byte = [0];
        target.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_target_waits_no_longer_than_it_should() {
        let (mut waiting, _meeting) = await_source("b", HERE).unwrap();
        let error = waiting.next(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    }

    #[test]
    fn who_accepts_stops_waiting_and_reading_when_it_is_hung_up() {
        let (waiting, _meeting) = await_source("b", HERE).unwrap();
        let ended = HangUp::default();
        ended.now();
        assert_eq!(waiting.accept(&ended).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);

        let (waiting, meeting) = await_source("b", HERE).unwrap();
        let hang_up = HangUp::default();
        let reads = hang_up.clone();
        let reading = thread::spawn(move || waiting.accept(&reads).and_then(|mut s| s.read(&mut [0])));
        let _source = join(&meeting).unwrap().dial(LONG).unwrap();
        hang_up.now();
        // Either way: hung up before the source was let in, or read an end.
        assert!(matches!(reading.join().unwrap(), Ok(0) | Err(_)));
    }
}
