//! The sending side.

mod keeper;
mod link;
mod push;

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use godwit_model::Bytes;
use rustls::crypto::ring;

use crate::connect::{Dial, Once};
use crate::duplicates::SLOTS;
use crate::error::{Broken, StreamError, corrupt, io_error};
use crate::file;
use crate::frame::{ANSWER, IS_ZERO, MISSING};
use crate::hello::Features;
use crate::options::{Options, Peer};
use crate::progress::Progress;
use crate::requests::Want;
use crate::v1;
use crate::wire::Stream;
use keeper::{Called, Caller};
use link::{Link, When};
use push::Push;

/// Sends files and memory to a [`Receiver`](crate::Receiver); see the crate. Dropped before [`finish`](Self::finish), it
/// has not sent, and the receiver is told.
#[derive(Debug)]
pub struct Sender {
    speaks: Speaks,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Speaks {
    First(v1::Sender<Stream>),
    Second(Push),
}

impl Sender {
    /// Over a connection that is there, in the clear, once: for tests within a process.
    pub fn new(stream: TcpStream) -> Result<Self, StreamError> {
        Self::open(Once(Some(stream)), Peer::Plain, Options::default())
    }

    /// Calls the receiver, and agrees with it on a version and a session. When it returns, the connection is up.
    ///
    /// # Errors
    /// No connection, no receiver, another node than expected, this node refused, no version in common.
    pub fn open(dial: impl Dial + 'static, peer: Peer, options: Options) -> Result<Self, StreamError> {
        let progress = Arc::new(Progress::default());
        let mut session = [0; 16];
        let chance = ring::default_provider().secure_random.fill(&mut session);
        chance.map_err(|_| io_error("draw the session's name")(io::Error::other("the system gives no randomness")))?;
        let features = if options.duplicates { Features::ALL } else { Features::ALL.without(Features::DUPLICATES) };
        let mut caller = Caller { dial: Box::new(dial), peer, session, features, slots: SLOTS };
        let called = caller.call(&options, &progress, false).map_err(Broken::into_error)?;
        let speaks = match called {
            Called::Welcome(wire, answer) => {
                let link = Arc::new(Link::new(Arc::clone(&wire), options, Arc::clone(&progress)));
                let push = Push::new(Arc::clone(&link), features.both(answer.features), answer.slots.min(SLOTS))?;
                let keeper = thread::Builder::new().name("transport".into());
                keeper.spawn(move || keeper::keep(&link, caller, wire)).map_err(io_error("start to listen"))?;
                Speaks::Second(push)
            }
            // Version 1 was never spoken otherwise than in the clear: encrypted peers have no older version to fall to.
            Called::HungUp(error) if !matches!(caller.peer, Peer::Plain) || options.oldest > 1 => return Err(error),
            Called::HungUp(error) => {
                let wire = match caller.connect(&options, &progress) {
                    Ok(wire) => wire,
                    Err(Broken::Link(error)) => return Err(error),
                    Err(Broken::Session(_)) => return Err(error),
                };
                wire.set_timeouts(options.stall, options.stall).map_err(io_error("set up the connection"))?;
                Speaks::First(v1::Sender::new(Stream(Arc::new(wire)))?)
            }
        };
        Ok(Self { speaks, progress })
    }

    /// The version of the protocol that is spoken.
    pub fn version(&self) -> u8 {
        match self.speaks {
            Speaks::First(_) => v1::VERSION,
            Speaks::Second(_) => crate::hello::NEWEST,
        }
    }

    /// What was sent so far: contents, as they were before compression.
    pub fn bytes(&self) -> Bytes {
        match &self.speaks {
            Speaks::First(sender) => sender.bytes(),
            Speaks::Second(push) => push.bytes(),
        }
    }

    /// What has gone over the wire so far: compressed, with the frames around it, and again what went over a connection that broke
    /// (but for what TLS and TCP add).
    pub fn wire_bytes(&self) -> Bytes {
        match &self.speaks {
            Speaks::First(sender) => sender.bytes(),
            Speaks::Second(push) => Bytes(push.link.written()),
        }
    }

    /// Counters, for any thread.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Ends the session from any thread.
    pub fn canceller(&self) -> Canceller {
        Canceller(match &self.speaks {
            Speaks::First(_) => None,
            Speaks::Second(push) => Some(Arc::clone(&push.link)),
        })
    }

    /// What the receiver asks for; none if it speaks a version without requests.
    pub fn requests(&self) -> Option<Requests> {
        match &self.speaks {
            Speaks::Second(push) if push.features.has(Features::REQUESTS) => Some(Requests(Arc::clone(&push.link))),
            _ => None,
        }
    }

    /// Whole pages of a process.
    pub fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        match &mut self.speaks {
            Speaks::First(sender) => sender.pages(pid, addr, pages),
            Speaks::Second(push) => push.pages(pid, addr, pages),
        }
    }

    /// So many bytes of a process are zero.
    pub fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        Progress::add(&self.progress.zero, len as usize);
        match &mut self.speaks {
            Speaks::First(sender) => sender.zero(pid, addr, len),
            Speaks::Second(push) => push.zero(pid, addr, len),
        }
    }

    /// Nothing is mapped there any more in a process.
    pub fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        match &mut self.speaks {
            Speaks::First(sender) => sender.forget(pid, addr, len),
            Speaks::Second(push) => push.forget(pid, addr, len),
        }
    }

    /// Whether the receiver takes messages.
    pub fn carries_messages(&self) -> bool {
        matches!(&self.speaks, Speaks::Second(push) if push.features.has(Features::MESSAGES))
    }

    /// Bytes, at most 256 KiB, that mean something to who uses both ends: [`PageSink::message`](crate::PageSink::message) gets
    /// them, in their place between pages and files.
    pub fn message(&mut self, message: &[u8]) -> Result<(), StreamError> {
        match &mut self.speaks {
            Speaks::First(_) => Err(corrupt("version 1 has no messages: the receiver is of an older release")),
            Speaks::Second(push) => push.message(message),
        }
    }

    /// Waits until the receiver has taken in everything so far.
    pub fn sync(&mut self) -> Result<(), StreamError> {
        match &mut self.speaks {
            Speaks::First(sender) => sender.sync(),
            Speaks::Second(push) => push.sync(),
        }
    }

    /// Every plain file of `dir` whose name is `wanted`, by name.
    pub fn dir(&mut self, dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), StreamError> {
        file::names(dir, wanted)?.iter().try_for_each(|name| self.file(&dir.join(name), name))
    }

    /// The same of a directory in `dir`: its files go into one of this name at the receiver, where it has to be already.
    pub fn subdir(&mut self, dir: &Path, name: &str, wanted: impl Fn(&str) -> bool) -> Result<(), StreamError> {
        let inside = dir.join(name);
        let files = file::names(&inside, wanted)?;
        files.iter().try_for_each(|file| self.file(&inside.join(file), &format!("{name}/{file}")))
    }

    /// One file, under a name: `NAME`, or `DIRECTORY/NAME` for a directory that the receiver has.
    pub fn file(&mut self, path: &Path, name: &str) -> Result<(), StreamError> {
        match &mut self.speaks {
            Speaks::First(sender) => sender.file(path, name),
            Speaks::Second(push) => push.file(path, name),
        }
    }

    /// Ends the session; returns what was sent when the receiver has confirmed all of it.
    pub fn finish(self) -> Result<Bytes, StreamError> {
        match self.speaks {
            Speaks::First(sender) => sender.finish(),
            Speaks::Second(push) => push.finish(),
        }
    }

    /// The same, and what it came to on the wire ([`Sender::wire_bytes`]).
    pub fn finish_counted(self) -> Result<(Bytes, Bytes), StreamError> {
        match self.speaks {
            Speaks::First(sender) => sender.finish().map(|bytes| (bytes, bytes)),
            Speaks::Second(push) => {
                let link = Arc::clone(&push.link);
                push.finish().map(|bytes| (bytes, Bytes(link.written())))
            }
        }
    }
}

/// Ends a session from any thread: whoever waits in it gets [`StreamError::Cancelled`], on both sides.
#[derive(Debug, Clone)]
pub struct Canceller(Option<Arc<Link>>);

impl Canceller {
    /// Ends it. A session of version 1 ends when its sender is dropped.
    pub fn cancel(&self, why: &str) {
        if let Some(link) = &self.0 {
            link.cancel(why);
        }
    }
}

/// The requests of the receiver, taken and answered from any thread while the sender pushes.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Link>);

impl Requests {
    /// The next request; `None` if none came in time or the session has ended.
    pub fn next(&self, within: Duration) -> Result<Option<Want>, StreamError> {
        self.0.want(within)
    }

    /// These are the pages: exactly as many as were asked for.
    pub fn answer(&self, want: &Want, pages: &[u8]) -> Result<(), StreamError> {
        if pages.len() != want.len as usize {
            return Err(corrupt(format!("{} bytes are no answer to a request for {}", pages.len(), want.len)));
        }
        self.put(want, 0, &[&want.len.to_le_bytes(), pages])?;
        Progress::add(&self.0.progress.contents, pages.len());
        Ok(())
    }

    /// They are zero.
    pub fn answer_zero(&self, want: &Want) -> Result<(), StreamError> {
        self.put(want, IS_ZERO, &[])
    }

    /// There is no such memory.
    pub fn answer_missing(&self, want: &Want) -> Result<(), StreamError> {
        self.put(want, MISSING, &[])
    }

    fn put(&self, want: &Want, flags: u8, content: &[&[u8]]) -> Result<(), StreamError> {
        let head =
            [&want.id.to_le_bytes()[..], &want.pid.to_le_bytes(), &want.addr.to_le_bytes(), &want.len.to_le_bytes()];
        let parts: Vec<&[u8]> = head.into_iter().chain(content.iter().copied()).collect();
        self.0.put(ANSWER, flags, &parts, When::First)?;
        Progress::add(&self.0.progress.answered, 1);
        Ok(())
    }
}
