//! What the host must have, and what is changed on it for a while.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use godwit_net::Backend;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::error::TestbedError;

const PIPE_SIZE: &str = "/proc/sys/fs/pipe-max-size";
/// What to do about a node image.
pub(crate) const MAKE_IMAGE: &str =
    "make one with: scripts/setup-node-image.sh (as root; or `make demo`, which does it too)";
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

/// Which of the host's programs that a node is started with are missing.
pub(crate) fn missing_programs() -> Vec<&'static str> {
    let is_missing = |program: &&str| Command::new(program).arg("--version").output().is_err();
    ["nsenter", "unshare"].into_iter().filter(is_missing).collect()
}

pub(crate) fn require_programs() -> Result<(), TestbedError> {
    match missing_programs().as_slice() {
        [] => Ok(()),
        missing => Err(TestbedError::Lacks {
            what: missing.join(" and "),
            next: "install it with: apt-get install util-linux".into(),
        }),
    }
}

pub(crate) fn require_links(backend: Backend) -> Result<(), TestbedError> {
    match backend {
        Backend::Userspace => Ok(()),
        Backend::Netem => godwit_net::netem_supported().map_err(|why| TestbedError::Lacks {
            what: format!("netem ({why})"),
            next: "leave the delays to Godwit itself with: --link userspace".into(),
        }),
    }
}

pub(crate) fn require_image(image: &Path) -> Result<(), TestbedError> {
    let missing = ["usr/sbin/criu", "usr/sbin/runc", "usr/bin/stress-ng", "bin/sh"]
        .iter()
        .find(|program| !image.join(program).exists() && !image.join("usr/bin").join(file_name(program)).exists());
    match missing {
        None => Ok(()),
        Some(program) => Err(TestbedError::Lacks {
            what: format!("a node image with {} at {}", file_name(program), image.display()),
            next: MAKE_IMAGE.into(),
        }),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where what takes time to make is kept.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let cache = std::env::var_os("GODWIT_CACHE").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("godwit"));
    cache.or_else(xdg).unwrap_or_else(|| home().join(".cache/godwit"))
}

/// Where `scripts/setup-node-image.sh` puts the node image.
pub fn default_image() -> PathBuf {
    cache().join("node-image/current/rootfs")
}

/// Where unpacked images of workloads are kept.
pub fn image_cache() -> PathBuf {
    cache().join("images")
}

/// `fs.pipe-max-size`, raised while this lives: by the first testbed of this machine, set back by the last.
///
/// Each that needs it has a marker in its own directory; what it was before is noted beside these directories, so that the
/// last one can set it back, be it that the first was killed.
#[derive(Debug)]
pub(crate) struct PipeSize {
    run_dir: PathBuf,
}

impl PipeSize {
    /// Raises it if need be.
    pub(crate) fn raise(run_dir: &Path) -> Self {
        let _alone = one_at_a_time();
        let raised = fs::write(marker(run_dir), "").and_then(|()| {
            match read(Path::new(PIPE_SIZE)).filter(|size| *size < WANTED_PIPE_SIZE) {
                Some(size) => fs::write(note(run_dir), size.to_string())
                    .and_then(|()| fs::write(PIPE_SIZE, WANTED_PIPE_SIZE.to_string())),
                None => Ok(()),
            }
        });
        if let Err(error) = raised {
            tracing::warn!(%error, "fs.pipe-max-size cannot be raised: large dumps may fail");
        }
        Self { run_dir: run_dir.to_owned() }
    }

    /// Sets it back after a crash, if no other testbed needs it; returns what it was.
    pub(crate) fn restore_after_crash(run_dir: &Path) -> Option<u64> {
        let _alone = one_at_a_time();
        let crashed = fs::remove_file(marker(run_dir)).is_ok();
        if crashed { set_back(run_dir) } else { None }
    }
}

impl Drop for PipeSize {
    fn drop(&mut self) {
        let _alone = one_at_a_time();
        let _ = fs::remove_file(marker(&self.run_dir));
        set_back(&self.run_dir);
    }
}

/// Says that the testbed of this directory needs large pipes.
fn marker(run_dir: &Path) -> PathBuf {
    run_dir.join("large-pipes")
}

/// What it was before the first.
fn note(run_dir: &Path) -> PathBuf {
    run_dir.with_file_name(".pipe-max-size")
}

/// Between testbeds of this machine, for as long as the result lives.
fn one_at_a_time() -> Option<Flock<File>> {
    Flock::lock(File::open("/run").ok()?, FlockArg::LockExclusive).ok()
}

/// Only if no testbed needs it any more, and nobody else has changed it meanwhile.
fn set_back(run_dir: &Path) -> Option<u64> {
    let others = fs::read_dir(run_dir.parent()?).ok()?.flatten();
    if others.into_iter().any(|other| marker(&other.path()).exists()) {
        return None;
    }
    let note = note(run_dir);
    let size = read(&note)?;
    let _ = fs::remove_file(&note);
    if read(Path::new(PIPE_SIZE)) == Some(WANTED_PIPE_SIZE) {
        let _ = fs::write(PIPE_SIZE, size.to_string());
    }
    Some(size)
}

fn read(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
