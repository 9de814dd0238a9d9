//! Memory that follows its workload (post-copy): the source's door, and how the target comes to it.
//!
//! ```text
//!   source: Serving::open ──file "pages-door.json", ahead of the images──► target: Door::read
//!      door noted                          ◄── TCP, the word, TLS by the nodes' identities ── Door::connect
//!   ───────────────────────────────── frozen ─────────────────────────────────
//!      Serving::begin, again and again     ◄──────── whenever the link broke ────────
//!   (killed, started again)
//!      Serving::reopen: the noted door     ◄──────── as after a link that broke ─────
//! ```
//! Until the target has settled, the frozen source has the only copy of what has not gone over.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_criu::Member;
use godwit_migration::PartError;
use godwit_pages::remote::{Line, PageServer, ProcessMemory, Ranges};
use godwit_transport::{Channel, Peer, StreamError};
use serde::{Deserialize, Serialize};

use crate::meeting::{self, HangUp, Waiting};

/// Among the images.
pub(crate) const FILE: &str = "pages-door.json";
/// A link that is there takes less.
const CONNECT: Duration = Duration::from_secs(1);
/// What a target may wait for its connection that was begun before the freeze.
const AHEAD: Duration = Duration::from_secs(2);
/// Whoever does not take what is sent for so long has gone.
const STALL: Duration = Duration::from_secs(10);
/// Said when both sides know each other.
const WELCOME: u8 = 1;

/// Where the source's pages are, and the word that opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Door {
    address: SocketAddr,
    word: Vec<u8>,
}

/// A door as a node remembers it beyond the life of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) door: Door,
    /// Those of further containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<Door>,
    /// Who comes to it.
    pub(crate) target: String,
}

/// A connection to it.
pub(crate) struct Pages(Channel);

impl Line for Pages {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn set_patience(&self, most: Duration) -> io::Result<()> {
        self.0.set_timeouts(Some(most), Some(most)).map_err(in_io)
    }
    fn shut_down(&self) {
        self.0.shut_down();
    }
}

fn in_io(error: StreamError) -> io::Error {
    match error {
        StreamError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

impl Door {
    /// The one that the source has noted among the images in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, PartError> {
        let text = fs::read(dir.join(FILE)).map_err(|e| PartError::caused_by(format!("read {FILE}"), e))?;
        serde_json::from_slice(&text).map_err(|e| PartError::caused_by(format!("{FILE} is not understood"), e))
    }

    /// Goes to it. When this returns, both sides know each other.
    pub(crate) fn connect(&self, peer: &Peer) -> io::Result<Pages> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT)?;
        stream.set_write_timeout(Some(CONNECT))?;
        io::Write::write_all(&mut stream, &self.word)?;
        let channel = Channel::calling(stream, peer, CONNECT).map_err(in_io)?;
        let mut welcome = [0];
        io::Read::read_exact(&mut &channel, &mut welcome)?;
        Ok(Pages(channel))
    }
}

/// The target's way to the door, begun as soon as it is known where it is: so that it costs the freeze nothing.
pub(crate) struct Ahead(mpsc::Receiver<io::Result<Pages>>);

impl Ahead {
    /// Begins, in the background.
    pub(crate) fn begin(door: Door, peer: Peer) -> Self {
        let (done, connection) = mpsc::channel();
        let connect = move || drop(done.send(door.connect(&peer)));
        if let Err(error) = thread::Builder::new().name("pages-door".into()).spawn(connect) {
            tracing::debug!(%error, "the source's memory is not reached ahead of time");
        }
        Self(connection)
    }

    /// The connection, if it came about.
    pub(crate) fn finish(self) -> Option<Pages> {
        match self.0.recv_timeout(AHEAD) {
            Ok(Ok(pages)) => Some(pages),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the source's memory was not reached ahead of time");
                None
            }
            Err(_) => None,
        }
    }
}

/// The source's side: a door, and behind it, once it is frozen, the processes' memory; until it is dropped.
pub(crate) struct Serving {
    door: Door,
    served: Arc<Served>,
    line: HangUp,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Served {
    server: Mutex<Option<Arc<PageServer<ProcessMemory>>>>,
    begun: Condvar,
}

impl Serving {
    /// Opens a door at an address of this node, for that peer.
    pub(crate) fn open(node: &str, at: IpAddr, peer: Peer) -> Result<Self, PartError> {
        let (waiting, meeting) = meeting::await_source(node, at)?;
        let address = meeting.address.parse().expect("the address of a socket");
        Self::behind(Door { address, word: meeting.word }, waiting, peer)
    }

    /// Opens the door of an agent that was killed, once more.
    pub(crate) fn reopen(door: Door, peer: Peer) -> Result<Self, PartError> {
        let waiting = meeting::await_again(door.address, door.word.clone())?;
        Self::behind(door, waiting, peer)
    }

    fn behind(door: Door, waiting: Waiting, peer: Peer) -> Result<Self, PartError> {
        let (served, line) = (Arc::<Served>::default(), HangUp::default());
        let (behind, held) = (Arc::clone(&served), line.clone());
        let thread =
            thread::Builder::new().name("pages-to".into()).spawn(move || serve(&waiting, &peer, &behind, &held));
        let thread = thread.map_err(|e| PartError::caused_by("start to serve its memory", e))?;
        Ok(Self { door, served, line, thread: Some(thread) })
    }

    /// Where it is.
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// Notes it in `dir`, among the images.
    pub(crate) fn note(&self, dir: &Path) -> Result<(), PartError> {
        let door = serde_json::to_vec(&self.door).expect("no maps");
        fs::write(dir.join(FILE), door).map_err(|e| PartError::caused_by(format!("write {FILE}"), e))
    }

    /// The processes stand: their memory may be had, `hot` of it first, and no more than `cap` bytes a second
    /// of what nobody waits for.
    pub(crate) fn begin(&self, members: &[Member], hot: Ranges, cap: Option<u64>) -> Result<(), PartError> {
        let memory = ProcessMemory::open(members.iter().map(|member| (member.pid, member.host_pid)));
        let memory = memory.map_err(|e| PartError::caused_by("open its memory", e))?;
        *self.served.server() = Some(Arc::new(PageServer::new(memory, hot).capped(cap)));
        self.served.begun.notify_all();
        Ok(())
    }
}

impl Served {
    fn server(&self) -> std::sync::MutexGuard<'_, Option<Arc<PageServer<ProcessMemory>>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to be served; none when the line is hung up.
    fn wait(&self, line: &HangUp) -> Option<Arc<PageServer<ProcessMemory>>> {
        let mut server = self.server();
        loop {
            if line.has_ended() {
                return None;
            }
            if let Some(server) = &*server {
                return Some(Arc::clone(server));
            }
            server = self.begun.wait(server).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn serve(waiting: &Waiting, peer: &Peer, served: &Served, line: &HangUp) {
    while !line.has_ended() {
        let stream = match waiting.accept(line) {
            Ok(stream) => stream,
            // Nobody has come for a while.
            Err(_) => continue,
        };
        let channel = match welcome(stream, peer) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::warn!(%error, "somebody came for its memory who is not the target");
                continue;
            }
        };
        let Some(server) = served.wait(line) else { return };
        // It has all, or it comes again.
        match server.serve(&channel, &channel, || channel.shut_down()) {
            Ok(served) => tracing::debug!(?served, "the target has all pages"),
            Err((served, error)) => tracing::warn!(?served, %error, "the target's connection broke"),
        }
    }
}

fn welcome(stream: TcpStream, peer: &Peer) -> io::Result<Channel> {
    let channel = Channel::called(stream, peer, CONNECT).map_err(in_io)?;
    channel.write_all(&[WELCOME])?;
    // It may have nothing to ask for a while.
    channel.set_timeouts(None, Some(STALL)).map_err(in_io)?;
    Ok(channel)
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.line.now();
        // Under its lock, so that who is about to wait has seen it.
        drop(self.served.server());
        self.served.begun.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
