//! The two ends that measure a migration: what is moved, and who would notice.
//!
//! ```text
//!   client (user's namespace)                           service (in the container that migrates)
//!   ┌────────────────────────────┐   request, each 5 ms  ┌────────────────────────────────────┐
//!   │ Ticks ─► socket ─► Recorder│ ────────────────────► │ one poll loop, plain sockets       │
//!   │ (absolute   (poll) (pure:  │   answer: echo, two   │ Memory: pages with index,          │
//!   │  deadlines)   gaps, loss,  │ ◄──────────────────── │ generation and checksum, dirtied   │
//!   │               order …)     │   counters, verdict   │ and checked all the time           │
//!   └────────────────────────────┘                       └────────────────────────────────────┘
//! ```
//!
//! What it guarantees:
//! - every byte of an answer is checkable, so a byte that is lost, doubled, swapped or altered is found ([`wire`]);
//! - a service that was restarted instead of moved, or restored from an older state, is found: its run's number, its
//!   two counters and the generations of its pages say so;
//! - a lost, stale or foreign page of the service's memory is found by the service and told in every answer;
//! - what the service's own work comes to (pages written, its slowest steps) is told in every answer too;
//! - a gap is the silence between two answers as the client's clock saw it, across reconnections too; how late the
//!   client itself was meanwhile is told with it, so that a busy machine does not pass for a slow migration.
//!
//! **Network namespaces.** Sockets belong to the namespace of the thread that opens them, and a new thread starts in
//! its parent's. [`Client::connect`] opens the first connection on the calling thread and reconnects on a thread that it
//! spawns: call it inside the user's namespace, and everything stays there.
//!
//! ```
//! use godwit_traffic::{Client, ClientConfig, Service, ServiceConfig};
//!
//! let service = Service::bind(ServiceConfig::new("127.0.0.1:0".parse().unwrap()))?;
//! let addr = service.local_addr();
//! let (stop, stopper) = std::io::pipe()?;
//! let running = std::thread::spawn(move || service.run(stop));
//!
//! let client = Client::connect(addr, ClientConfig::default())?;
//! while client.snapshot().received < 5 {
//!     std::thread::yield_now();
//! }
//! let report = client.finish()?;
//! assert!(report.is_clean() && report.received >= 5);
//!
//! drop(stopper);
//! running.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod digest;
mod gaps;
mod histogram;
mod memory;
mod pace;
mod recorder;
mod report;
mod service;
mod steps;
pub mod wire;

pub use client::{Client, ClientConfig, ClientError};
pub use gaps::Gap;
pub use histogram::Histogram;
pub use memory::{Memory, PAGE, Verdict};
pub use recorder::{LiveClient, Recorder};
pub use report::{Break, BreakCause, ClientReport};
pub use service::{Service, ServiceConfig, ServiceError, ServiceReport, run, termination};
pub use steps::{SlowStep, Work};
