//! How many testbeds run at a time, over all test binaries (a test runner may start several).

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// A test may wait for as long as all others of another test binary take.
const PATIENCE: Duration = Duration::from_secs(900);

/// As many as two cores carry without that the tests wait for their deadlines.
pub const SLOTS: usize = 2;

/// The right to have a testbed; given back when dropped.
#[derive(Debug, Clone)]
pub struct Slot(#[allow(dead_code, reason = "held, not read")] Arc<Flock<File>>);

impl Slot {
    /// Waits for one.
    pub fn take() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slots");
        fs::create_dir_all(&dir).expect("the target directory can be written");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let free = (0..SLOTS).find_map(|number| {
                let file = File::options().create(true).truncate(false).write(true).open(dir.join(number.to_string()));
                Flock::lock(file.ok()?, FlockArg::LockExclusiveNonblock).ok()
            });
            if let Some(held) = free {
                return Self(Arc::new(held));
            }
            assert!(Instant::now() < deadline, "no free slot for a testbed within {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(20));
        }
    }
}
