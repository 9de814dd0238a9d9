//! The one-machine world: edge nodes and users as namespaces, links with real delay, containers that really migrate.
//!
//! ```text
//!   Scenario ──► Testbed::up ──► drive(testbed, scenario, policy) ──► Run (record, snapshots)
//!                 │ nodes: mount, pid, uts, ipc, net namespaces over the node image, a cgroup each
//!                 │ users: a net namespace each, a measuring client for every workload that serves them
//!                 │ network: delay links, the gateway, the packet holds
//!                 └ containers: runc, moved by the migration engine with CRIU
//!
//!   drive:  probes, loads ──► control loop ──► migration (on a thread of its own) ──► control loop …
//!              ▲                                                            Observer ◄──┘
//!              └ scenario's rtt and stress, at its times
//! ```
//!
//! What it guarantees:
//! - the control loop and the policies are the very ones of the simulator; only the figures are measured here;
//! - when a [`Testbed`] is dropped (at the end, on a stop that was asked for, on a panic) nothing of it is left: no
//!   process, namespace, mount, link, cgroup or file. When its process is killed, its nodes die with it, and
//!   [`remove_leftovers`] takes away the names that remain;
//! - testbeds with different names do not meet.

mod agent;
mod backhaul;
mod cgroup;
mod checkpoint;
mod choose;
mod compare;
mod container;
mod contents;
mod doctor;
mod drive;
mod error;
mod gauge;
mod host;
mod images;
mod live;
mod measure;
mod mover;
mod name;
mod network;
mod node;
mod node_init;
mod remote;
mod run_dir;
mod schedule;
mod stop;
mod stress;
mod world;

pub use agent::AgentError;
pub use cgroup::CgroupError;
pub use checkpoint::{RestoreCheckpoint, Restored, TakeCheckpoint, Taken, TcpChoice};
pub use compare::compare;
pub use doctor::{Finding, Has, examine};
pub use drive::{DriveOptions, Run, drive};
pub use error::TestbedError;
pub use godwit_net::Backend;
pub use host::{default_image, image_cache};
pub use live::{Live, LiveClient, LiveNode, LiveSent, LiveWorkload, Observer, RunEvent, Unobserved};
pub use measure::{MeasuredMove, Mover, Part, measure};
pub use name::{BadName, TestbedName};
pub use network::Network;
pub use node::{Node, NodeError, Size};
pub use node_init::{NodeInit, run as run_node_init};
pub use remote::{Ask, RemoteError, Reply, ask};
pub use stop::Stop;
pub use stress::StressError;
pub use world::{Testbed, TestbedConfig, remove_leftovers};
