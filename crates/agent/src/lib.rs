//! The node's daemon: source and target of a migration as processes of their own, and how a controller calls them.
//!
//! ```text
//!   controller (testbed, kube)                      node edge1                    node edge2
//!   engine ─ RemoteSource ── gRPC ────────────────► agent: source ═══ images, ══► agent: target
//!          └ RemoteTarget ── gRPC ─────────────────────────────────── pages ────► (TCP, not by way of the controller)
//!                                                     │ criu, memory                │ criu, pages
//! ```
//! Control is a small gRPC service ([wire.rs](../src/wire.rs)) over a Unix socket, or over TCP with mutual TLS ([`ca`]). State goes
//! from agent to agent over a stream of its own. On the agent every side of every migration has a thread that owns what it
//! works on; the calls of one side are done in the order in which they came.
//!
//! # What it guarantees
//!
//! - Every call has a time-out, and an answer tells a failure for certain from an agent that was not reached
//!   ([`CallError`]): the latter may or may not have done it.
//! - A step that ends something (`thaw`, `discard`, `drain`, `resume`, `settle`, `abort`) may be asked for twice.
//! - What an agent has frozen or restored stays as it is when its controller goes away, and when the agent is killed: nobody but a
//!   controller decides. A small file a workload says what another agent has begun, and which steps come too late.
//! - Controllers and agents of versions that do not fit say so before anything is done; so do peers without a certificate.
//! - In the freeze a call costs one exchange over a connection that is there; sending begins with the end of the dump, not
//!   with the next call.

mod agent;
mod beside;
pub mod ca;
mod client;
mod config;
pub mod dumps;
mod files;
mod lazy;
mod meeting;
mod note;
mod paging;
mod precopy;
mod remote;
pub mod restores;
mod server;
mod source;
mod target;
mod together;
mod unit;
mod wire;
mod worker;

use std::time::Duration;

pub use client::{Address, AgentClient, AgentInfo, CallError, OpenMigration};
pub use config::{AgentConfig, Listen, NodeMemory};
pub use files::{Layout, Root};
/// The whole life of the process that puts the memory of a restored container in its place: `page-handler` of this program.
pub use godwit_pages::serve_apart as page_handler;
pub use remote::{RemoteSource, RemoteTarget, sides};
pub use server::{ServeError, serve};
pub use unit::{MOST_CONTAINERS, Units, container_id};

/// How long a step outside the freeze may take.
const STAGE_LIMIT: Duration = Duration::from_secs(30);
/// How long a step inside the freeze may take before the migration is rolled back.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
