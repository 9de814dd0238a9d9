//! Scenario files: who moves how, what loads which node, what serves whom. Text in, checked [`Scenario`] out.
//!
//! ```text
//!   car.yaml ──► tree ──────► fields ───────► checks ───────► Scenario ──► any world
//!   (text)      (YAML with   (units, names,  (who is named,   │            (sim, testbed, …)
//!                places)      spelling)       what fits)      ├─ Trajectory: rtt at a time, and when it changes
//!                   └─────────────┴───────────────┘           └─ Stress:     load of a node at a time
//!                         ScenarioError: every problem with file:line:column, the line, and what to do
//! ```
//!
//! ```
//! use godwit_model::Time;
//! use godwit_scenario::Scenario;
//!
//! let text = "
//! version: 1
//! name: walk
//! nodes: [ { name: home }, { name: mast } ]
//! users:
//!   - name: phone
//!     rtt:
//!       home: { start: 4ms, ramps: [ { steps: 10, every: 6s, by: 3ms } ] }
//!       mast: 12ms
//! workloads: [ { name: chat, node: home, users: [phone] } ]
//! ";
//! let scenario = Scenario::parse(text, "walk.yaml").unwrap();
//! assert_eq!(scenario.duration.as_secs(), 60); // the end of the last ramp
//! let home = &scenario.users[0].rtt["home"];
//! assert_eq!(home.at(Time::from_secs(13.0)).ms(), 10.0); // two steps were made
//! assert_eq!(home.changes().count(), 11); // the start and ten steps
//!
//! let error = Scenario::parse(&text.replace("6s", "6"), "walk.yaml").unwrap_err();
//! assert!(error.to_string().contains("walk.yaml:8:56: `every` is no duration"), "{error}");
//! ```
//!
//! What it guarantees:
//! - pure: no file, clock or randomness is touched, and the same text gives the same scenario;
//! - any text gives a scenario or an error, never a panic; depth, size and aliases are bounded;
//! - in a [`Scenario`] every name that is used is declared, every user has an RTT to every node, quantities are finite
//!   and in their range, and no node is stressed beyond what it has;
//! - all problems of a file are reported at once (a syntax error excepted: nothing after it can be read).

mod fields;
mod problem;
mod read;
mod scenario;
mod trajectory;
mod tree;
mod units;

pub use problem::{Problem, ScenarioError};
pub use scenario::{Container, Control, Node, PolicySpec, Probe, Scenario, Stress, User, Workload};
pub use trajectory::{Ramp, Trajectory};
