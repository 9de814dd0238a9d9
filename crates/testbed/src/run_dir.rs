//! A testbed's directory, and the lock that says that it runs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::error::TestbedError;
use crate::name::TestbedName;

/// How long a killed testbed may take to let go of its lock.
const DYING_PATIENCE: Duration = Duration::from_secs(15);

/// Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    name: TestbedName,
    // Held, not read.
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes it, or takes a killed testbed's. Where `nobody_answers`, whoever has it is about to lose it.
    pub(crate) fn take(name: &TestbedName, nobody_answers: bool) -> Result<Self, TestbedError> {
        let path = name.run_dir();
        let lock = path.join("lock");
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| TestbedError::File { what, path, source }
        };
        let deadline = Instant::now() + DYING_PATIENCE;
        loop {
            fs::create_dir_all(&path).map_err(file("make", &path))?;
            let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock);
            match Flock::lock(opened.map_err(file("open", &lock))?, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) if is_at(&held, &lock) => {
                    let written = held.set_len(0).and_then(|()| write!(held, "{}", std::process::id()));
                    written.map_err(file("write", &lock))?;
                    return Ok(Self { path, name: name.clone(), _lock: held });
                }
                // One that ended meanwhile has taken it away.
                Ok(_) => {}
                Err(_) => {
                    let pid = fs::read_to_string(&lock).unwrap_or_default().trim().to_owned();
                    if !(nobody_answers || is_dying(&pid)) || Instant::now() >= deadline {
                        return Err(TestbedError::Running { name: name.clone(), pid });
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub(crate) fn name(&self) -> &TestbedName {
        &self.name
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "left behind");
        }
        // Only when this was the last testbed.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Whether a process has been killed and is on its way out: it holds its locks until its last thread is gone.
fn is_dying(pid: &str) -> bool {
    const PF_EXITING: u64 = 4;
    const SIGKILL: u64 = 1 << (Signal::SIGKILL as u32 - 1);
    if pid.is_empty() {
        // It has only just taken the lock.
        return false;
    }
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (stat, status) = (read("stat"), read("status"));
    // After the name, which may have anything in it: state, ppid, pgrp, session, tty, tpgid, flags.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let flags = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    let has_sigkill = |line: &str| {
        let pending = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        pending.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & SIGKILL != 0)
    };
    stat.is_empty()
        || matches!(fields.first(), Some(&("Z" | "X")))
        || flags & PF_EXITING != 0
        || status.lines().any(has_sigkill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lives_is_not_dying_and_one_that_is_gone_is() {
        assert!(!is_dying(&std::process::id().to_string()));
        assert!(!is_dying(""));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().to_string();
        assert!(!is_dying(&pid));
        child.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_dying(&pid) {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_dying(&pid));
    }
}
