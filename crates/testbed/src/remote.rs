//! Speaking with a running testbed: JSON lines over its Unix socket.
//!
//! ```text
//!   client: one Ask                          {"ask":"migrate","workload":"video","to":"edge2"}
//!   testbed: Replies, the last one final     {"reply":"phase","phase":"dump"} … {"reply":"ended","record":{…}}
//! ```
//! The socket can be opened by root only.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use godwit_model::{Bandwidth, Bytes, CopyRound, MigrationRecord, NodeName, Phase, StrategyChoice, WorkloadName};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{RestoreCheckpoint, Restored, TakeCheckpoint, Taken};
use crate::error::TestbedError;
use crate::live::Live;
use crate::name::TestbedName;

/// How long the next reply may take; the longest phase of a migration is shorter.
const PATIENCE: Duration = Duration::from_secs(90);
/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// How things are.
    Status,
    /// Move a workload, however far.
    Migrate {
        /// What.
        workload: WorkloadName,
        /// Where to.
        to: NodeName,
        /// How.
        #[serde(default)]
        strategy: StrategyChoice,
        /// The most that it sends, bytes a second; none: what the scenario says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bandwidth: Option<Bandwidth>,
    },
    /// Write a checkpoint of a workload into a file.
    Checkpoint(TakeCheckpoint),
    /// Restore a checkpoint. Both are given up when who asked goes away.
    Restore(RestoreCheckpoint),
    /// Stop a migration: before its commit it is rolled back. The reply is how it ended.
    Cancel {
        /// Of which workload.
        workload: WorkloadName,
    },
    /// End in order.
    Down,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// How things are. Final.
    Status {
        /// The state.
        live: Box<Live>,
    },
    /// The migration enters a phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// The migration has sent something.
    Sent {
        /// So far.
        bytes: Bytes,
        /// Altogether, as far as is known.
        expected: Bytes,
    },
    /// The migration has sent a round of memory.
    Round {
        /// What.
        round: CopyRound,
    },
    /// The migration is being rolled back.
    RollingBack,
    /// The migration is over. Final.
    Ended {
        /// How it was.
        record: Box<MigrationRecord>,
    },
    /// A checkpoint gets on.
    Bytes {
        /// So far.
        done: u64,
        /// In all; 0: not known.
        total: u64,
    },
    /// A checkpoint was written. Final.
    Taken {
        /// How it was.
        taken: Box<Taken>,
    },
    /// A checkpoint was restored. Final.
    Restored {
        /// How it was.
        restored: Box<Restored>,
    },
    /// It was tried and went wrong. Final.
    Failed {
        /// Why, for a person.
        why: String,
    },
    /// It is ending. Final; when the connection closes it is gone.
    Ending,
    /// It cannot be done. Final.
    Refused {
        /// Why, for a person.
        why: String,
    },
}

impl Reply {
    /// Whether no further one follows.
    pub fn is_final(&self) -> bool {
        let progress = matches!(self, Self::Phase { .. } | Self::Sent { .. } | Self::Round { .. } | Self::RollingBack);
        !progress && !matches!(self, Self::Bytes { .. })
    }
}

/// Why a testbed could not be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Nobody is there.
    #[error("no testbed named {name} runs here; start one with: godwit testbed up --name {name}{others}")]
    NotRunning {
        /// Which.
        name: TestbedName,
        /// The ones that run, as a sentence.
        others: String,
    },
    /// Only root may.
    #[error("the testbed {name} can be spoken to by root only; try sudo")]
    NotAllowed {
        /// Which.
        name: TestbedName,
    },
    /// It broke off.
    #[error("the testbed {name} broke off")]
    Broken {
        /// Which.
        name: TestbedName,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Asks, hands every reply to `on_reply`, and returns the final one.
pub fn ask(name: &TestbedName, what: &Ask, mut on_reply: impl FnMut(&Reply)) -> Result<Reply, RemoteError> {
    let mut stream = UnixStream::connect(name.control_socket()).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => RemoteError::NotAllowed { name: name.clone() },
        _ => RemoteError::NotRunning { name: name.clone(), others: others(name) },
    })?;
    let broken = |source| RemoteError::Broken { name: name.clone(), source };
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut line = serde_json::to_vec(what).map_err(|e| broken(e.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    for line in BufReader::new(&stream).lines() {
        let reply: Reply = serde_json::from_str(&line.map_err(broken)?).map_err(|e| broken(e.into()))?;
        on_reply(&reply);
        if reply.is_final() {
            return Ok(reply);
        }
    }
    Err(broken(io::ErrorKind::UnexpectedEof.into()))
}

/// The names of testbeds that have a control socket, others than `name`.
fn others(name: &TestbedName) -> String {
    let dir = name.run_dir();
    let entries = dir.parent().and_then(|runs| fs::read_dir(runs).ok());
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| UnixStream::connect(entry.path().join("control.sock")).is_ok())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    if names.is_empty() { String::new() } else { format!(" (running: {})", names.join(", ")) }
}

/// An ask, and where its replies go; it is over when the sender is dropped.
pub(crate) type Asked = (Ask, mpsc::Sender<Reply>);

/// Listens; every ask is handed to `deliver`.
pub(crate) fn listen(
    name: &TestbedName,
    deliver: impl Fn(Asked) + Clone + Send + 'static,
) -> Result<Listener, TestbedError> {
    let path = name.control_socket();
    let failed = |what| {
        let path = path.clone();
        move |source| TestbedError::File { what, path, source }
    };
    let listener = UnixListener::bind(&path).map_err(failed("listen at"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed("restrict"))?;
    let accept = move || {
        while let Ok((stream, _)) = listener.accept() {
            let deliver = deliver.clone();
            // A client that speaks slowly holds up nobody but itself.
            let served = thread::Builder::new().name("control".into()).spawn(move || serve(&stream, deliver));
            if let Err(error) = served {
                tracing::warn!(%error, "a control connection could not be served");
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(accept).map_err(failed("serve"))?;
    Ok(Listener(path))
}

/// Removes the socket when the run is over. (The accepting thread ends with the process.)
pub(crate) struct Listener(std::path::PathBuf);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn serve(stream: &UnixStream, deliver: impl Fn(Asked)) {
    let mut line = String::new();
    let read = stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .and_then(|()| io::Read::take(BufReader::new(stream), MAX_LINE).read_line(&mut line));
    if read.is_err() {
        return;
    }
    let (reply, replies) = mpsc::channel();
    match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => deliver((ask, reply)),
        Err(error) => {
            let _ = reply.send(Reply::Refused { why: format!("not understood: {error}") });
            // Or the connection stays open for ever.
            drop(reply);
        }
    }
    let mut out = stream;
    for reply in replies {
        let Ok(mut line) = serde_json::to_vec(&reply) else { return };
        line.push(b'\n');
        // A client that has gone away: who works for it sees that nobody listens, and may go on all the same.
        if out.write_all(&line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_and_replies_keep_their_form() {
        let ask: Ask =
            serde_json::from_str(r#"{"ask":"migrate","workload":"video","to":"edge2","strategy":"stop-copy"}"#)
                .unwrap();
        assert!(matches!(ask, Ask::Migrate { .. }));
        let line = serde_json::to_string(&Reply::Phase { phase: Phase::Dump }).unwrap();
        assert_eq!(line, r#"{"reply":"phase","phase":"dump"}"#);
        let sent = Reply::Sent { bytes: Bytes(5), expected: Bytes(9) };
        assert_eq!(serde_json::to_string(&sent).unwrap(), r#"{"reply":"sent","bytes":5,"expected":9}"#);
        assert!(!sent.is_final() && !Reply::RollingBack.is_final() && Reply::Ending.is_final());
        let cancel: Ask = serde_json::from_str(r#"{"ask":"cancel","workload":"video"}"#).unwrap();
        assert!(matches!(cancel, Ask::Cancel { .. }));
        assert!(serde_json::from_str::<Ask>(r#"{"ask":"explode"}"#).is_err());
    }
}
