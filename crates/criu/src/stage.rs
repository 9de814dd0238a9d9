//! The target's staging place: what CRIU will bind into the restored container, made before the freeze.
//!
//! The mounts come from a container that the node's own runc has made from the same specification: whatever runc
//! puts there is there, and CRIU only has to bind it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Context, Result};
use crate::node::{NodeEnv, enter_mount_ns, in_thread, open_ns};
use crate::plan::ExternalMount;
use crate::sys;

/// Where staging places are, in the node.
const STAGES: &str = "/run/godwit/criu";

/// One staging place; [`Stage::remove`] takes its mounts away.
#[derive(Debug)]
pub(crate) struct Stage {
    env: NodeEnv,
    dir: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Stage {
    /// Binds the root file system (CRIU wants a mount point) and copies the external mounts of the process
    /// `like` (a pid of the host), which has them.
    pub(crate) fn new(env: &NodeEnv, id: &str, rootfs: &Path, external: &[ExternalMount], like: i32) -> Result<Self> {
        if let Some(old) = Self::left_behind(env, id)? {
            old.remove()?;
        }
        let mut stage = Self { env: env.clone(), dir: Path::new(STAGES).join(id), mounts: Vec::new() };
        let copies = copies_of(like, external)?;
        let places: Vec<PathBuf> = (0..=external.len()).map(|n| stage.place(n)).collect();
        let dir = stage.dir.clone();
        // Known before they are made: a failure halfway takes away what there is.
        stage.mounts = places.clone();
        env.in_mount_namespace(|| {
            fs::create_dir_all(&dir).context(|| format!("make {}", dir.display()))?;
            fs::create_dir_all(&places[0]).context(|| format!("make {}", places[0].display()))?;
            let root = sys::clone_mount(rootfs, true).context(|| format!("bind {}", rootfs.display()))?;
            attach(&root, &places[0])?;
            for ((copy, is_dir), place) in copies.iter().zip(&places[1..]) {
                let made = if *is_dir { fs::create_dir_all(place) } else { fs::File::create(place).map(drop) };
                made.context(|| format!("make {}", place.display()))?;
                attach(copy, place)?;
            }
            Ok(())
        })?;
        Ok(stage)
    }

    /// What a killed predecessor has left.
    pub(crate) fn left_behind(env: &NodeEnv, id: &str) -> Result<Option<Self>> {
        let dir = Path::new(STAGES).join(id);
        let Ok(entries) = fs::read_dir(env.host_path(&dir)) else { return Ok(None) };
        let mounts = entries.flatten().map(|entry| dir.join(entry.file_name())).collect();
        Ok(Some(Self { env: env.clone(), dir, mounts }))
    }

    /// The bound root file system, a path of the node.
    pub(crate) fn root(&self) -> PathBuf {
        self.place(0)
    }

    /// CRIU's options for the external mounts.
    pub(crate) fn external_options(&self, external: &[ExternalMount]) -> Vec<String> {
        let option = |(n, m): (usize, &ExternalMount)| format!("mnt[{}]:{}", m.key, self.place(n + 1).display());
        external.iter().enumerate().map(option).collect()
    }

    /// Takes it away. What is still in use by the container stays there.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.unmount()
    }

    /// Where the host finds the `n`th external mount.
    pub(crate) fn host_place(&self, n: usize) -> PathBuf {
        self.env.host_path(self.place(n + 1))
    }

    fn place(&self, n: usize) -> PathBuf {
        self.dir.join(if n == 0 { "root".into() } else { format!("mount{n}") })
    }

    fn unmount(&mut self) -> Result<()> {
        let (mounts, dir) = (std::mem::take(&mut self.mounts), self.dir.clone());
        self.env.in_mount_namespace(|| {
            for place in mounts.iter().rev().filter(|p| p.exists()) {
                loop {
                    match umount2(place, MntFlags::MNT_DETACH) {
                        Ok(()) => {}
                        // Nothing is mounted there (any more).
                        Err(nix::errno::Errno::EINVAL) => break,
                        Err(e) => return Err(e).context(|| format!("unmount {}", place.display())),
                    }
                }
                // One by one and only if empty: a mount that were still there would lose its files.
                let removed = if place.is_dir() { fs::remove_dir(place) } else { fs::remove_file(place) };
                removed.context(|| format!("remove {}", place.display()))?;
            }
            if dir.exists() {
                fs::remove_dir(&dir).context(|| format!("remove {}", dir.display()))?;
            }
            Ok(())
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

/// Detached copies of mounts of another process, and whether each is a directory.
fn copies_of(like: i32, external: &[ExternalMount]) -> Result<Vec<(OwnedFd, bool)>> {
    if external.is_empty() {
        return Ok(Vec::new());
    }
    let ns = open_ns(like, "mnt")?;
    in_thread(|| {
        enter_mount_ns(&ns)?;
        let mut copies = Vec::new();
        for mount in external {
            let path = Path::new(&mount.mountpoint);
            // Not what is mounted below it: that is in the images, or external by itself.
            let copy = sys::clone_mount(path, false).context(|| format!("copy the mount {}", path.display()))?;
            copies.push((copy, path.is_dir()));
        }
        Ok(copies)
    })
}

fn attach(mount_fd: &OwnedFd, place: &Path) -> Result<()> {
    sys::attach_mount(mount_fd, place).context(|| format!("mount at {}", place.display()))?;
    // CRIU refuses mounts that share with the node's.
    mount(None::<&str>, place, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .context(|| format!("make the mount at {} private", place.display()))
}
