//! Checkpoints: a workload of the testbed into a file, and from a file back into the testbed.
//!
//! ```text
//!   take:    hold packets ► freeze ► dump ► save the writable layer ┬► thaw ► let packets flow ► write the file
//!                                                                   └ --stop: write the file ► end it, packets stay held
//!   restore: read and check all of the file ► root file system ► runc's shell ► CRIU ► let packets flow
//! ```
//! - A failure at any point of `take` leaves the service running and no file; one of `restore` leaves nothing.
//! - A workload that was ended with its checkpoint has its packets held at the gateway: as long as they are, its clients
//!   only wait, and a restore of that very checkpoint can let its connections go on.

mod engine;
mod layer;
mod registry;
mod restore;
mod take;

use std::path::PathBuf;

use godwit_checkpoint::{CheckpointError, Format};
use godwit_migration::PartError;
use godwit_model::{NodeName, WorkloadName};
use serde::{Deserialize, Serialize};

pub(crate) use registry::Registry;
pub(crate) use restore::restore;
pub(crate) use take::{Window, take};

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeCheckpoint {
    /// Of which workload, or copy of one.
    pub workload: WorkloadName,
    /// Where to: an absolute path of the testbed's host.
    pub path: PathBuf,
    /// How.
    #[serde(default)]
    pub format: Format,
    /// End the service with it.
    #[serde(default)]
    pub stop: bool,
    /// Replace a file that is there.
    #[serde(default)]
    pub force: bool,
}

/// What is to be restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreCheckpoint {
    /// Which file: an absolute path of the testbed's host.
    pub path: PathBuf,
    /// Where.
    pub node: NodeName,
    /// As a copy with this name and an address of its own; otherwise as the workload itself.
    #[serde(default, rename = "as")]
    pub copy: Option<WorkloadName>,
    /// What becomes of its TCP connections.
    #[serde(default)]
    pub tcp: TcpChoice,
}

/// What becomes of the TCP connections of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpChoice {
    /// They go on where they can, and are closed otherwise.
    #[default]
    Auto,
    /// The service finds them closed.
    Close,
    /// They go on, or nothing is restored.
    Keep,
}

/// A checkpoint that was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Of what.
    pub workload: WorkloadName,
    /// The node that it ran on.
    pub node: NodeName,
    /// The file.
    pub path: PathBuf,
    /// The checkpoint's id.
    pub id: String,
    /// The service was ended with it.
    pub stopped: bool,
    /// The file's length.
    pub file_bytes: u64,
    /// What is in it, before compression.
    pub content_bytes: u64,
    /// Memory of the processes.
    pub memory_bytes: u64,
    /// For how long the service stood still, ms.
    pub frozen_ms: f64,
    /// The longest silence that its client saw meanwhile, ms.
    pub gap_ms: Option<f64>,
    /// All of it, ms.
    pub total_ms: f64,
}

/// A checkpoint that was restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Under which name.
    pub workload: WorkloadName,
    /// The name that it had.
    pub was: String,
    /// Where it runs.
    pub node: NodeName,
    /// Where it answers.
    pub service: String,
    /// When it stood still.
    pub created: String,
    /// Its connections went on.
    pub connections_kept: bool,
    /// What is not as it was, for a person.
    #[serde(default)]
    pub notes: Vec<String>,
    /// All of it, ms.
    pub total_ms: f64,
}

/// Why one was not taken or restored.
#[derive(Debug)]
pub(crate) enum NotDone {
    /// It was asked for what cannot be.
    Refused(String),
    /// It went wrong.
    Failed(String),
}

impl From<PartError> for NotDone {
    fn from(error: PartError) -> Self {
        Self::Failed(error.chain())
    }
}

impl From<CheckpointError> for NotDone {
    fn from(error: CheckpointError) -> Self {
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text.push_str(&format!(": {cause}"));
        }
        if error.is_bad_file() { Self::Refused(text) } else { Self::Failed(text) }
    }
}

/// Told how many bytes are done, and of how many (0: not known). False: stop.
pub(crate) type Told<'t> = &'t mut dyn FnMut(u64, u64) -> bool;

fn part(what: impl Into<String>) -> impl FnOnce(godwit_criu::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

fn net(what: &'static str) -> impl FnOnce(godwit_net::NetError) -> PartError {
    move |e| PartError::caused_by(what, e)
}

/// A directory that is gone with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "left behind");
        }
    }
}
