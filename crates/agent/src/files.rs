//! The files that a workload has written go with it: what is above its image, and its volumes.
//!
//! ```text
//!   bundle/   config.json  files.json           a workload without the second is one whose files do not move
//!             rootfs/                           the overlay: upper above the layers that are only read
//!             upper/  work/  volumes/0 …
//!             containers/NAME/                 in a workload of several containers: config.json, rootfs/, upper/ and work/ of each
//!
//!   source   upper, volumes ── changes ─► messages of the stream ─► rootfs, volumes   target
//!            first while it is staged, again before the freeze, once more in it
//! ```
//! On both sides they are read and written through the page cache that the workload uses, so nothing has to be flushed for the
//! target to have it. What a workload has flushed must be as safe after the move, though: the target flushes all before the
//! source's files are removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use godwit_criu::{Limit, NodeEnv};
use godwit_layer::{Form, Incoming, LayerError, Mapped, Outgoing, Place, Sent};
use godwit_migration::PartError;
use godwit_transport::{PageSink, Sender, StreamError};
use nix::unistd::syncfs;
use serde::{Deserialize, Serialize};

use crate::precopy::Kept;

/// How long the first sync may take, and all before the freeze.
pub(crate) const FILES_LIMIT: Duration = Duration::from_secs(600);
/// How often changes are sent before the freeze, after all files went.
const AGAIN: u32 = 2;

const FILE: &str = "files.json";

/// What a workload's files are made of on every node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The layers of its root file system that are only read, the uppermost first; paths of a node without `:` and `,`.
    pub lower: Vec<PathBuf>,
    /// Where the container has its volumes, in their order; of several containers those of all, what they have in common once.
    pub volumes: Vec<PathBuf>,
    /// Empty: the workload is one container. Otherwise these, and `lower` is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Root>,
}

/// One of several containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its name in the workload, that of a directory.
    pub name: String,
    /// As [`Layout::lower`].
    pub lower: Vec<PathBuf>,
}

impl Layout {
    /// Of a bundle, by its path as this process sees it; none: its files do not move.
    pub fn of(bundle: &Path) -> io::Result<Option<Self>> {
        match fs::read(bundle.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Into a bundle that is there, by its path as this process sees it.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    /// Where in the bundle the volumes are, in their order.
    pub fn places(&self) -> impl Iterator<Item = PathBuf> + use<> {
        (0..self.volumes.len()).map(|number| Path::new("volumes").join(number.to_string()))
    }

    /// Where in the bundle of its workload a container of several has its own.
    pub fn place_of(container: &str) -> PathBuf {
        Path::new("containers").join(container)
    }

    /// Where in the bundle the root file systems are, with their layers.
    fn roots(&self) -> Vec<(PathBuf, &[PathBuf])> {
        if self.containers.is_empty() {
            return vec![(PathBuf::from("."), &self.lower)];
        }
        self.containers.iter().map(|root| (Self::place_of(&root.name), &root.lower[..])).collect()
    }

    /// Where in the bundle there is what containers have written above their layers.
    fn uppers(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let roots: Vec<PathBuf> = self.roots().into_iter().map(|(root, _)| root).collect();
        roots.into_iter().map(|root| root.join("upper"))
    }

    /// Makes root file system and volumes anew in the node's bundle of a workload that does not run there: as the image has
    /// them, and empty.
    pub fn reset(&self, env: &NodeEnv, bundle: &Path, limit: &Limit) -> godwit_criu::Result<()> {
        self.clear(env, bundle, limit)?;
        self.mount(env, bundle, limit)
    }

    /// The same without mounting it: what was there is gone, and all directories are empty.
    pub fn clear(&self, env: &NodeEnv, bundle: &Path, limit: &Limit) -> godwit_criu::Result<()> {
        // Whoever still has the old overlay open keeps the old directories; it shares nothing with the new one.
        let script = "set -e; mkdir -p \"$1\"; cd \"$1\"; rm -rf volumes; n=$2; shift 2; \
                      while [ $n -gt 0 ]; do mkdir -p \"$1\"; (cd \"$1\"; \
                      while mountpoint -q rootfs; do umount -l rootfs; done; \
                      rm -rf upper work; mkdir -p rootfs upper work); shift; n=$((n-1)); done; \
                      [ $# -eq 0 ] || mkdir -p \"$@\"";
        let roots = self.roots();
        let clear = env.command("sh").args(["-c", script, "sh"]).arg(bundle).arg(roots.len().to_string());
        clear.args(roots.iter().map(|(root, _)| root)).args(self.places()).run(limit).map(drop)
    }

    /// Mounts the root file systems.
    pub fn mount(&self, env: &NodeEnv, bundle: &Path, limit: &Limit) -> godwit_criu::Result<()> {
        self.roots().into_iter().try_for_each(|(root, lower)| Self::mount_root(env, &bundle.join(root), lower, limit))
    }

    fn mount_root(env: &NodeEnv, place: &Path, lower: &[PathBuf], limit: &Limit) -> godwit_criu::Result<()> {
        let [rootfs, upper, work] = ["rootfs", "upper", "work"].map(|name| place.join(name));
        let lower = lower.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
        // Whatever the kernel's defaults: the layer is to be understood without the others.
        let layers = format!(
            "lowerdir={lower},upperdir={},workdir={},redirect_dir=off,metacopy=off",
            upper.display(),
            work.display()
        );
        env.command("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&rootfs).run(limit).map(drop)
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

/// The layout of a bundle.
pub(crate) fn layout(bundle: &Path) -> Result<Option<Layout>, PartError> {
    Layout::of(bundle).map_err(failed("read what its files are"))
}

/// Flushes all of a workload's places.
pub(crate) fn flush(layout: &Layout, bundle: &Path) -> Result<(), PartError> {
    let places = layout.places().chain(layout.uppers());
    let flush = |place: PathBuf| Ok(syncfs(File::open(bundle.join(place))?)?);
    places.into_iter().try_for_each(flush).map_err(failed("flush its files"))
}

/// The files of a workload that is about to leave.
pub(crate) struct Leaving(Outgoing);

impl Leaving {
    pub(crate) fn new(layout: &Layout, bundle: &Path) -> Self {
        let uppers =
            layout.uppers().map(|upper| Place { path: bundle.join(upper), form: Form::Upper, inside: "/".into() });
        let volumes = layout.places().zip(&layout.volumes);
        let volumes = volumes.map(|(place, inside)| Place {
            path: bundle.join(place),
            form: Form::Plain,
            inside: inside.clone(),
        });
        Self(Outgoing::new(uppers.chain(volumes).collect()))
    }

    /// Sends what is there, or has changed since it was last asked. The processes are the host's pids.
    pub(crate) fn sync(&mut self, pids: &[i32], stream: &mut Sender, within: Duration) -> Result<Sent, PartError> {
        let (start, mut mapped) = (Instant::now(), Mapped::default());
        for pid in pids {
            mapped.add(*pid).map_err(failed("see which files it has mapped"))?;
        }
        let sent = self.0.sync(&mapped, &mut |message| {
            if start.elapsed() > within {
                let why = format!("its files do not get over within {} s", within.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why).into());
            }
            Ok(stream.message(message)?)
        });
        let sent = sent.map_err(|e| PartError::caused_by("carry its files", e))?;
        tracing::debug!(?sent, took = ?start.elapsed(), "files");
        Ok(sent)
    }

    /// Everything, or what has changed, until there is little: while the workload runs.
    pub(crate) fn ahead(
        &mut self,
        pids: &dyn Fn() -> Result<Vec<i32>, PartError>,
        stream: &mut Sender,
    ) -> Result<(), PartError> {
        for _ in 0..AGAIN {
            let sent = self.once(&pids()?, stream)?;
            if sent.changes == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Returns when the target has it.
    pub(crate) fn once(&mut self, pids: &[i32], stream: &mut Sender) -> Result<Sent, PartError> {
        let sent = self.sync(pids, stream, FILES_LIMIT)?;
        stream.sync().map_err(|e| PartError::caused_by("carry its files", e))?;
        Ok(sent)
    }
}

/// What arrives on the target beside CRIU's images: memory, where it goes ahead, and files, where they move.
pub(crate) struct Arriving {
    memory: Option<Kept>,
    files: Option<Incoming>,
}

impl Arriving {
    pub(crate) fn new(memory: Option<Kept>, layout: Option<&Layout>, bundle: &Path) -> Self {
        let files = layout.map(|layout| {
            let roots = layout.roots().into_iter().map(|(root, _)| root.join("rootfs"));
            Incoming::new(roots.chain(layout.places()).map(|place| bundle.join(place)).collect())
        });
        Self { memory, files }
    }

    /// All came that should have.
    pub(crate) fn check(&self) -> Result<(), PartError> {
        match &self.files {
            Some(files) if files.syncs() == 0 => {
                Err(PartError::new("the source sent no files: is its agent of an older release than this node's?"))
            }
            _ => Ok(()),
        }
    }

    fn kept(&mut self) -> Result<&mut Kept, StreamError> {
        let unexpected = || StreamError::Corrupt("pages came where only files were expected".into());
        self.memory.as_mut().ok_or_else(unexpected)
    }
}

impl PageSink for Arriving {
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        self.kept()?.pages(pid, addr, pages)
    }
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.kept()?.zero(pid, addr, len)
    }
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.kept()?.forget(pid, addr, len)
    }
    fn file(&mut self, name: &str) {
        if let Some(memory) = &mut self.memory {
            memory.file(name);
        }
    }
    fn message(&mut self, message: &[u8]) -> Result<(), StreamError> {
        let Some(files) = &mut self.files else {
            return Err(StreamError::Corrupt("files came, and this node does not know where to".into()));
        };
        files.take(message).map_err(|error| match error {
            LayerError::Io { what, source } => {
                StreamError::Io { what: format!("take in its files: {what} (is the target's disk full?)"), source }
            }
            error => StreamError::Corrupt(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_where_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Layout::of(dir.path()).unwrap(), None);
        let layout = Layout {
            lower: vec!["/a".into(), "/b".into()],
            volumes: vec!["/srv".into(), "/x".into()],
            containers: Vec::new(),
        };
        layout.write(dir.path()).unwrap();
        assert_eq!(Layout::of(dir.path()).unwrap().as_ref(), Some(&layout));
        assert_eq!(layout.places().collect::<Vec<_>>(), [Path::new("volumes/0"), Path::new("volumes/1")]);
        let root = |name: &str| Root { name: name.into(), lower: vec!["/a".into()] };
        let several = Layout { lower: Vec::new(), containers: vec![root("web"), root("db")], ..layout };
        several.write(dir.path()).unwrap();
        assert_eq!(Layout::of(dir.path()).unwrap().as_ref(), Some(&several));
        let uppers: Vec<PathBuf> = several.uppers().collect();
        assert_eq!(uppers, [Path::new("containers/web/upper"), Path::new("containers/db/upper")]);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Layout::of(dir.path()).is_err());
    }
}
