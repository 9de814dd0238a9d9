//! What the end-to-end tests are written with: the real binary, real testbeds, and a look at what they leave behind.
//!
//! ```text
//!   tests/cli       no testbed runs: sim, policies, scenarios, help, errors, an unprivileged user
//!   tests/testbed   a testbed runs and does what it should            (root, node image, TUN)
//!   tests/faults    the same, and something is killed, full or broken (root, node image, TUN)
//! ```
//! - Every testbed has a name of its own, so tests run beside each other and beside whatever else runs here; at most
//!   [`slots::SLOTS`] at a time, over all test binaries.
//! - A test that fails leaves no testbed behind ([`bed::Bed`] ends its own), and each binary checks at its end that
//!   nothing is left of any name that it used ([`left`]).
//! - Nothing sleeps to wait for something: [`until`] looks again until a deadline that suits a busy machine.
//! - What cannot run here is skipped loudly: a line `SKIPPED: test: why` each and the count of them as the last line.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses a part of it")]

pub mod bed;
pub mod call;
pub mod harness;
pub mod image;
pub mod left;
pub mod node;
pub mod ping;
pub mod pod;
pub mod service;
pub mod slots;
pub mod writer;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub use bed::{Bed, STRATEGIES};
pub use call::{Call, Ran, godwit};
pub use harness::{Needs, run, skip};

/// How long anything may take on a machine that is busy with other work.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until there is something to see, which it returns.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// A file of `scenarios/`.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios").join(name).canonicalize().expect("it is shipped")
}

/// The tests of a binary, by their paths.
macro_rules! tests {
    ($($path:path),* $(,)?) => {
        vec![$($crate::e2e::harness::Test { name: stringify!($path), run: $path }),*]
    };
}
pub(crate) use tests;
