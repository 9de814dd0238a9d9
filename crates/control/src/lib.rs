//! The control loop: events in, migrations out. No I/O; time is a parameter.
//!
//! ```text
//!   Event ─► handle ─► Index ──────────► Policy ─────────► Admission ─────► Output::Migrate
//!   RTT, load,         what is known,    stay | move       cooldown, in     (the world migrates and
//!   placement,         how fresh it is   for each          flight, budgets   reports MigrationEnded)
//!   readiness,              │            workload               │
//!   migration ended         └── snapshot ─────────────────► Output::Decided
//! ```
//!
//! A world (the simulator, the testbed, the cluster) feeds a [`Controller`] and does what it says:
//!
//! ```
//! use godwit_control::{ControlConfig, Controller, Event, Output};
//! use godwit_model::{Load, NodeName, Outcome, Rtt, Time, UserName, WorkloadKind, WorkloadName};
//!
//! let policy = godwit_policy::build("threshold", &serde_json::Value::Null)?;
//! let mut controller = Controller::new(ControlConfig::default(), policy);
//! let now = Time::ZERO;
//!
//! let car = UserName::new("car")?;
//! for (name, rtt) in [("edge1", 27.2), ("edge2", 5.1)] {
//!     let node = NodeName::new(name)?;
//!     controller.handle(now, Event::NodeReady { node: node.clone(), ready: true });
//!     controller.handle(now, Event::LoadMeasured { node: node.clone(), load: Load::from_index(1.4) });
//!     controller.handle(now, Event::RttMeasured { user: car.clone(), node, rtt: Rtt::from_ms(rtt) });
//! }
//! controller.handle(now, Event::WorkloadAt {
//!     workload: WorkloadName::new("video")?,
//!     kind: WorkloadKind::Container,
//!     node: NodeName::new("edge1")?,
//!     users: vec![car],
//! });
//!
//! let now = controller.next_poll();
//! let mut outputs = controller.poll(now);
//! let Some(Output::Migrate(order)) = outputs.pop() else { panic!("{outputs:?}") };
//! assert_eq!((order.from.as_str(), order.to.as_str()), ("edge1", "edge2"));
//! controller.handle(now, Event::MigrationEnded { id: order.id, outcome: Outcome::Done });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees, whatever the events, their order and the policy:
//! - a workload is in at most one migration at a time, and each node in at most as many as its budgets say;
//! - after a migration a workload rests for the cooldown, after one that was rolled back for longer each time;
//! - no decision is made upon a figure that is older than `stale_after`;
//! - a workload is only sent to a node that is known, ready, and not the one where it is;
//! - deterministic: the same calls give the same answers;
//! - nothing is dropped unseen: [`Counters`] count refusals, stale figures and events about unknown things.

pub mod account;
mod admission;
mod config;
mod controller;
mod counters;
mod event;
mod index;
mod output;
mod request;

pub use admission::{Refusal, Verdict};
pub use config::{ConfigError, ControlConfig};
pub use controller::Controller;
pub use counters::Counters;
pub use event::Event;
pub use output::{Decided, Order, Output};
pub use request::RequestError;
