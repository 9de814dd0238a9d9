//! What the host must have, and what is changed on it for a while.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::error::TestbedError;

const PIPE_SIZE: &str = "/proc/sys/fs/pipe-max-size";
/// CRIU passes memory through pipes, and cannot enlarge them beyond this limit without CAP_SYS_RESOURCE.
const WANTED_PIPE_SIZE: u64 = 4 << 20;

pub(crate) fn require_root() -> Result<(), TestbedError> {
    if geteuid().is_root() { Ok(()) } else { Err(TestbedError::NotRoot) }
}

pub(crate) fn require_tun() -> Result<(), TestbedError> {
    godwit_net::tun_supported().map_err(|why| TestbedError::Lacks {
        what: format!("TUN devices ({why})"),
        next: "load the module with `modprobe tun`; in a container, hand /dev/net/tun in".into(),
    })
}

pub(crate) fn require_image(image: &Path) -> Result<(), TestbedError> {
    let missing = ["usr/sbin/criu", "usr/sbin/runc", "usr/bin/stress-ng", "bin/sh"]
        .iter()
        .find(|program| !image.join(program).exists() && !image.join("usr/bin").join(file_name(program)).exists());
    match missing {
        None => Ok(()),
        Some(program) => Err(TestbedError::Lacks {
            what: format!("a node image with {} at {}", file_name(program), image.display()),
            next: "make it with: scripts/setup-node-image.sh (as root; or `make demo`, which does it too)".into(),
        }),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where `scripts/setup-node-image.sh` puts the node image.
pub fn default_image() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let cache = std::env::var_os("GODWIT_CACHE").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("godwit"));
    cache.or_else(xdg).unwrap_or_else(|| home().join(".cache/godwit")).join("node-image/current/rootfs")
}

/// `fs.pipe-max-size`, raised while this lives.
#[derive(Debug)]
pub(crate) struct PipeSize {
    before: Option<u64>,
    note: PathBuf,
}

impl PipeSize {
    /// Raises it, and notes in `run_dir` what it was.
    pub(crate) fn raise(run_dir: &Path) -> Self {
        let note = run_dir.join("pipe-max-size");
        let before = read(Path::new(PIPE_SIZE)).filter(|size| *size < WANTED_PIPE_SIZE);
        if let Some(size) = before {
            let raised =
                fs::write(&note, size.to_string()).and_then(|()| fs::write(PIPE_SIZE, WANTED_PIPE_SIZE.to_string()));
            if let Err(error) = raised {
                tracing::warn!(%error, "fs.pipe-max-size cannot be raised: large dumps may fail");
            }
        }
        Self { before, note }
    }

    /// Sets it back after a crash; returns what it was.
    pub(crate) fn restore_after_crash(run_dir: &Path) -> Option<u64> {
        let size = read(&run_dir.join("pipe-max-size"))?;
        set_back(size);
        Some(size)
    }
}

impl Drop for PipeSize {
    fn drop(&mut self) {
        if let Some(size) = self.before {
            set_back(size);
            let _ = fs::remove_file(&self.note);
        }
    }
}

/// Only if nobody else has changed it meanwhile.
fn set_back(size: u64) {
    if read(Path::new(PIPE_SIZE)) == Some(WANTED_PIPE_SIZE) {
        let _ = fs::write(PIPE_SIZE, size.to_string());
    }
}

fn read(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
