//! How the stream from source to target comes about: the target awaits it, the source brings the word.
//!
//! ```text
//!   target: await_source() ──address, word──► controller ──► source: join()
//!      accepts ◄────────────────── TCP, the word first ──────────┘
//! ```
//! The controller sees none of what flows. A peer without the word is turned away, and the target goes on waiting.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_migration::PartError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wire::Meeting;

/// How long the stream may stall, and how long a target waits for its source.
const STALL: Duration = Duration::from_secs(10);
/// How often a target that waits looks whether it still should.
const LOOK_UP: u16 = 50;
const WORD: usize = 32;

fn failed(what: &str) -> impl FnOnce(io::Error) -> PartError {
    let what = format!("{what} over the backhaul");
    move |e| PartError::caused_by(what, e)
}

/// The target's end before the source has come.
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
pub(crate) fn await_source(at: IpAddr) -> Result<(Waiting, Meeting), PartError> {
    let listener = TcpListener::bind((at, 0)).map_err(failed("listen"))?;
    let address = listener.local_addr().map_err(failed("listen"))?;
    let mut word = vec![0; WORD];
    let chosen = File::open("/dev/urandom").and_then(|mut chance| chance.read_exact(&mut word));
    chosen.map_err(|e| PartError::caused_by("choose a word", e))?;
    let meeting = Meeting { address: address.to_string(), word: word.clone() };
    Ok((Waiting { listener, word }, meeting))
}

impl Waiting {
    /// The stream, once its source has come.
    pub(crate) fn accept(&self, hang_up: &HangUp) -> io::Result<TcpStream> {
        let deadline = Instant::now() + STALL;
        while !hang_up.has_ended() {
            let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(LOOK_UP))? == 0 {
                if Instant::now() >= deadline {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the source did not come"));
                }
                continue;
            }
            let (mut stream, from) = self.listener.accept()?;
            match self.knows(&mut stream) {
                Ok(true) => {
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
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(STALL))?;
        stream.set_read_timeout(Some(STALL))?;
        let mut word = [0; WORD];
        stream.read_exact(&mut word)?;
        // The source says nothing while the workload's packets are being held, or while it scans its memory.
        stream.set_read_timeout(None)?;
        Ok(word[..] == self.word)
    }
}

/// The source's end.
pub(crate) fn join(meeting: &Meeting) -> Result<TcpStream, PartError> {
    let address: SocketAddr =
        meeting.address.parse().map_err(|_| PartError::new(format!("\"{}\" is no address", meeting.address)))?;
    let mut stream = TcpStream::connect_timeout(&address, STALL).map_err(failed("connect"))?;
    stream.set_nodelay(true).map_err(failed("set up the stream"))?;
    stream.set_write_timeout(Some(STALL)).map_err(failed("set up the stream"))?;
    stream.set_read_timeout(Some(STALL)).map_err(failed("set up the stream"))?;
    stream.write_all(&meeting.word).map_err(failed("begin the stream"))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_source_with_the_word_is_let_in_and_others_are_not() {
        let (waiting, meeting) = await_source(HERE).unwrap();
        let hang_up = HangUp::default();
        let accepting = thread::spawn(move || waiting.accept(&hang_up));
        drop(join(&Meeting { word: vec![7; WORD], ..meeting.clone() }).unwrap());
        drop(TcpStream::connect(&meeting.address).unwrap());
        let mut source = join(&meeting).unwrap();
        let mut target = accepting.join().unwrap().unwrap();
        source.write_all(b"x").unwrap();
        let mut byte = [0];
        target.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_target_stops_waiting_and_reading_when_it_is_hung_up() {
        let (waiting, _) = await_source(HERE).unwrap();
        let hang_up = HangUp::default();
        let (accepting, other) = (thread::spawn(move || waiting.accept(&hang_up)), HangUp::default());
        let (waiting, meeting) = await_source(HERE).unwrap();
        let reads = other.clone();
        let reading = thread::spawn(move || waiting.accept(&reads).and_then(|mut s| s.read(&mut [0])));
        let _source = join(&meeting).unwrap();
        other.now();
        // Either way: hung up before the source was let in, or read an end.
        assert!(matches!(reading.join().unwrap(), Ok(0) | Err(_)));
        drop(accepting);
    }
}
