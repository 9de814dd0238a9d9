//! Memory that follows its workload (post-copy): the source's door, and how the target comes to it.
//!
//! ```text
//!   source: Door::open ──file "pages-door.json" among the images──► target: Door::of
//!      serves, again and again ◄──────── TCP, the word first ─────── whenever the link broke
//! ```
//! Until the target has settled, the frozen source has the only copy of what has not gone over.

use std::fs;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_criu::Member;
use godwit_migration::PartError;
use godwit_pages::remote::{PageServer, ProcessMemory, Ranges};
use serde::{Deserialize, Serialize};

use crate::meeting::{self, HangUp, Waiting};
use crate::wire::Meeting;

const FILE: &str = "pages-door.json";
/// A link that is there takes less.
const CONNECT: Duration = Duration::from_secs(1);

/// Where the source's pages are, and the word that opens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Door {
    address: String,
    word: Vec<u8>,
}

/// Serves the frozen processes' memory until it is dropped.
pub(crate) struct Serving {
    line: HangUp,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens one at an address of the source, and notes it among the images in `dir`. `hot` goes over first.
    pub(crate) fn open(
        node: &str,
        at: IpAddr,
        members: &[Member],
        hot: Ranges,
        dir: &Path,
    ) -> Result<Serving, PartError> {
        let memory = ProcessMemory::open(members.iter().map(|member| (member.pid, member.host_pid)));
        let memory = memory.map_err(|e| PartError::caused_by("open its memory", e))?;
        let (waiting, Meeting { address, word, .. }) = meeting::await_source(node, at)?;
        let door = serde_json::to_vec(&Self { address, word }).expect("no maps");
        fs::write(dir.join(FILE), door).map_err(|e| PartError::caused_by(format!("write {FILE}"), e))?;
        let line = HangUp::default();
        let (server, held) = (PageServer::new(memory, hot), line.clone());
        let thread = thread::Builder::new().name("pages-to".into()).spawn(move || serve(&waiting, &server, &held));
        let thread = thread.map_err(|e| PartError::caused_by("start to serve its memory", e))?;
        Ok(Serving { line, thread: Some(thread) })
    }

    /// What the source has noted.
    pub(crate) fn of(dir: &Path) -> Result<Self, PartError> {
        let text = fs::read(dir.join(FILE)).map_err(|e| PartError::caused_by(format!("read {FILE}"), e))?;
        serde_json::from_slice(&text).map_err(|e| PartError::caused_by(format!("{FILE} is not understood"), e))
    }

    /// Goes to it.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let address: SocketAddr = self.address.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
        io::Write::write_all(&mut stream, &self.word)?;
        Ok(stream)
    }
}

fn serve(waiting: &Waiting, server: &PageServer<ProcessMemory>, line: &HangUp) {
    while !line.has_ended() {
        let stream = match waiting.accept(line) {
            Ok(stream) => stream,
            // Nobody has come for a while.
            Err(_) => continue,
        };
        // It has all, or it comes again.
        match server.serve(&stream, &stream, || drop(stream.shutdown(Shutdown::Both))) {
            Ok(served) => tracing::debug!(?served, "the target has all pages"),
            Err((served, error)) => tracing::warn!(?served, %error, "the target's connection broke"),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.line.now();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
