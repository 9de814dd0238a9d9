//! Root file systems of workloads.
//!
//! ```text
//!   directory ────────────────────────────────────────────────► Image { rootfs, config }
//!   tar (.gz) ──────────── unpacked ──► cache/sha256-<digest>/ ─►    of the file
//!   OCI layout, archive ── layers ────► cache/sha256-<digest>/ ─►    of the manifest
//! ```
//! [`Image::open`] finds out by itself which of these a path is. An OCI image is what `skopeo copy … oci:DIR` and
//! `skopeo copy … oci-archive:FILE` write (the OCI image specification 1.1); of several for different processors this
//! machine's is taken.
//!
//! What it guarantees:
//! - A directory is used where it is and never written to. Everything else is unpacked once, into a cache by its digest; two
//!   that unpack the same wait for each other, and one that is killed leaves nothing that would be taken for an image.
//! - The bytes of an OCI image are what its digests say.
//! - Nothing is unpacked outside its place, whatever names and links the archive has.

mod config;
mod error;
mod layers;
mod oci;
mod store;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use config::{Config, User, UserError};
pub use error::ImageError;

use error::{Context, Result};
use store::Store;

/// A root file system, and how its maker wants it to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The root file system; only to be read.
    pub rootfs: PathBuf,
    /// What the image says about itself; empty where it says nothing.
    pub config: Config,
}

impl Image {
    /// Makes a directory, tar, OCI layout or OCI archive usable; `cache` is a directory to keep what is unpacked.
    pub fn open(path: &Path, cache: &Path) -> Result<Self> {
        let meta = fs::metadata(path).context(|| format!("look at {}", path.display()))?;
        if meta.is_dir() {
            if path.join("oci-layout").exists() {
                return oci::Layout::of(path).image(&Store::new(cache));
            }
            return Self::directory(path);
        }
        if !meta.is_file() {
            return Err(ImageError::NoImage { path: path.to_owned(), why: "is neither a directory nor a file".into() });
        }
        let store = Store::new(cache);
        match layers::contents(path)? {
            layers::Contents::OciArchive => {
                let digest = store::digest_of(File::open(path).context(|| format!("open {}", path.display()))?)
                    .context(|| format!("read {}", path.display()))?;
                // Its manifest's digest is known only inside.
                let layout = store.layout(&digest, |dir| layers::unpack(path, dir))?;
                oci::Layout::of(&layout).image(&store)
            }
            layers::Contents::RootFs => {
                let digest = store::digest_of(File::open(path).context(|| format!("open {}", path.display()))?)
                    .context(|| format!("read {}", path.display()))?;
                store.image(&digest, |rootfs| {
                    layers::apply(path, rootfs)?;
                    Ok(Config::default())
                })
            }
            layers::Contents::DockerArchive => Err(ImageError::NoImage {
                path: path.to_owned(),
                why: format!(
                    "is an archive of Docker's own form; write it anew with \
                     `skopeo copy docker-archive:{} oci-archive:image.tar`",
                    path.display()
                ),
            }),
        }
    }

    fn directory(path: &Path) -> Result<Self> {
        let is_root = ["bin", "usr", "etc", "lib", "sbin"].iter().any(|name| path.join(name).exists());
        let is_empty = || fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        if !is_root && is_empty() {
            return Err(ImageError::NoImage { path: path.to_owned(), why: "is an empty directory".into() });
        }
        let rootfs = path.canonicalize().context(|| format!("look at {}", path.display()))?;
        Ok(Self { rootfs, config: Config::default() })
    }
}
