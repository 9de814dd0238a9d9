//! The simulated world: a scenario in virtual time, under the same control loop as the real ones.
//!
//! ```text
//!             ┌──────────────── Kernel: (time, sequence) ────────────────┐
//!             ▼                                                          │
//!   Scenario ─► Probe: trajectories + noise ─► EWMA ─► RttMeasured ──┐   │
//!             ─► Load: stress + workloads ───────────► LoadMeasured ─┤   │
//!             ─► Poll ──► godwit_control::Controller ◄───────────────┘   │
//!             │               └─► Migrate ─► CostModel ─► Switched, Ended ┘
//!             └─► Sample ──► RunRecord
//! ```
//!
//! ```
//! use godwit_scenario::Scenario;
//! use godwit_sim::{SimConfig, run};
//!
//! let scenario = Scenario::parse("
//! version: 1
//! name: walk
//! nodes: [ { name: home }, { name: mast } ]
//! users:
//!   - name: phone
//!     rtt:
//!       home: { start: 4ms, ramps: [ { steps: 10, every: 6s, by: 3ms } ] }
//!       mast: 12ms
//! workloads: [ { name: chat, node: home, users: [phone] } ]
//! ", "walk.yaml")?;
//! let policy = godwit_policy::build(&scenario.policy.name, &scenario.policy.params)?;
//! let run = run(&scenario, SimConfig::new(&scenario, policy));
//! let migration = &run.record.summary.migrations[0];
//! assert_eq!((migration.from.as_str(), migration.to.as_str()), ("home", "mast"));
//! assert!(run.record.summary.ok);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees:
//! - deterministic: the same scenario, configuration and seed give a byte-identical [`SimRun`] on any machine. Events
//!   happen in the order of their time, those of one instant in the order in which they were scheduled; randomness
//!   comes from streams named after what they are for, so that a new user does not change what happens to another; no
//!   figure depends on a platform's mathematics library;
//! - the policy and the loop are the very code of the other worlds, and see what they would see there: RTT smoothed as
//!   by the real probes, figures at the real intervals;
//! - pure: no clock, no thread, no file.

mod config;
mod cost;
mod kernel;
mod measure;
mod random;
mod world;

pub use config::{LoadModel, SimConfig};
pub use cost::{Cost, CostModel};
pub use kernel::Kernel;
pub use random::{Stream, Streams};
pub use world::{SimRun, run};
