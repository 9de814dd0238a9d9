//! Round-trip times from a node to its users.
//!
//! One thread a node polls all its sockets; a probe goes to every user each interval (the users' probes are spread
//! over it), and each probe ends in exactly one [`Measurement`]:
//!
//! ```text
//!                   ┌────────── Track, one a user (pure) ──────────┐
//!   ICMP echo ──►   │ in flight ─ answered ─► Smoothed (EWMA, loss │ ──► Measurement ──► sink
//!   TCP connect ─►  │     └────── timed out ─►  fraction, jitter)  │
//!                   │ Choice: ICMP, TCP where ICMP stays silent    │
//!                   └──────────────────────────────────────────────┘
//! ```
//!
//! What it guarantees:
//! - a user that does not answer delays no other: nothing blocks but the one poll;
//! - a measurement is of the probe it claims: answers are matched by address, identifier, sequence number and a
//!   payload that nobody else knows; an answer after the time-out stays a loss and is counted as late;
//! - a round-trip time is a measured one: by the kernel's receive time stamp (ICMP) or its own estimate of the
//!   handshake (TCP) where it has them, so that a busy machine's wake-up delay is not counted as distance;
//! - a figure is dropped when it is stale: after some losses in a row `smoothed` is `None`, never an old number.
//!
//! **Network namespaces.** Sockets belong to the namespace of the thread that opens them, and a new thread starts in
//! its parent's. So: enter the node's namespace, call [`Prober::spawn`] there, go back; or call [`Prober::open`]
//! and [`Prober::run`] on a thread of your own that stays in it.
//!
//! ```no_run
//! use godwit_probe::{ProbeConfig, Prober};
//!
//! let target = (godwit_model::UserName::new("car").unwrap(), "192.0.2.1".parse().unwrap());
//! let (tx, rx) = std::sync::mpsc::channel();
//! let prober = Prober::spawn(ProbeConfig::new([target]), move |m| _ = tx.send(m))?;
//! for m in rx.iter().take(10) {
//!     println!("{} {:?}, smoothed {:?}, loss {:.0} %", m.user, m.raw, m.smoothed, m.loss * 100.0);
//! }
//! prober.stop()?;
//! # Ok::<(), godwit_probe::ProbeError>(())
//! ```

mod choice;
mod config;
mod icmp;
mod packet;
mod prober;
mod smoothed;
mod tcp;
mod track;

pub use config::{Method, ProbeConfig, ProbeError};
pub use prober::{Prober, RunningProber};
pub use smoothed::{Smoothed, Smoothing};
pub use track::{Means, Measurement};
