//! Writing a checkpoint: whole, or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::Progress;
use crate::error::{CheckpointError, Result};
use crate::manifest::Manifest;
use crate::oci;
use crate::pack::{Layout, pack};
use crate::scan::Format;
use crate::trailer::{self, Digesting};

/// Fast, and near to what more effort would get of memory.
const LEVEL: i32 = 3;

/// What a checkpoint is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'p> {
    /// Where it is to be.
    pub target: &'p Path,
    /// What it says about itself.
    pub manifest: &'p Manifest,
    /// The container's OCI configuration; of several containers empty.
    pub spec: &'p str,
    /// The directory with CRIU's images; of several containers with what they have in common.
    pub images: &'p Path,
    /// A tar of the writable layer.
    pub layer: Option<&'p Path>,
    /// Empty, or several containers, in the manifest's order.
    pub containers: &'p [PartsOf<'p>],
}

/// What one of several containers is made of.
#[derive(Debug, Clone, Copy)]
pub struct PartsOf<'p> {
    /// Its name.
    pub name: &'p str,
    /// Its OCI configuration.
    pub spec: &'p str,
    /// The directory with its images.
    pub images: &'p Path,
    /// A tar of its writable layer.
    pub layer: Option<&'p Path>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// What is in it, before compression.
    pub content_bytes: u64,
}

/// Writes a checkpoint to `parts.target`. Where there is a file already it is replaced, in one instant, or with `replace`
/// unset refused. However it ends, no half of a file is left.
pub fn write(parts: &Parts<'_>, format: Format, replace: bool, progress: Progress<'_>) -> Result<Written> {
    let target = parts.target;
    if !replace && target.symlink_metadata().is_ok() {
        return Err(CheckpointError::Exists { path: target.to_owned() });
    }
    let dir = match target.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let failed = || CheckpointError::file("write", target);
    // Beside its place: a rename must not cross file systems. Only root may read it: it is memory.
    let part = || tempfile::Builder::new().prefix(".godwit-").suffix(".part").tempfile_in(dir);
    let mut file = part().map_err(CheckpointError::file("make a file in", dir))?;
    let content_bytes = match format {
        Format::Godwit => own(file.as_file_mut(), parts, progress)?,
        Format::Oci if !parts.containers.is_empty() => {
            let why =
                "a checkpoint image for engines holds one container, and the workload has several: leave --format out";
            return Err(CheckpointError::NoCheckpoint { path: target.to_owned(), why: why.into() });
        }
        Format::Oci => {
            let mut layer = part().map_err(CheckpointError::file("make a file in", dir))?;
            let made = oci::write_layer(layer.as_file_mut(), parts, progress)?;
            oci::write_archive(file.as_file_mut(), layer.as_file_mut(), &made, parts).map_err(failed())?;
            made.content_bytes
        }
        Format::Kubelet => {
            let why = "archives of the kubelet are read only; write an OCI image instead: --format oci".to_owned();
            return Err(CheckpointError::NoCheckpoint { path: target.to_owned(), why });
        }
    };
    file.as_file().sync_all().map_err(failed())?;
    let file_bytes = file.as_file().metadata().map_err(failed())?.len();
    place(file, target, replace)?;
    // The name too survives a power cut.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(CheckpointError::file("flush", dir))?;
    Ok(Written { file_bytes, content_bytes })
}

fn place(file: NamedTempFile, target: &Path, replace: bool) -> Result<()> {
    if replace {
        if target.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(CheckpointError::File { what: "replace", path: target.to_owned(), source });
        }
        return file.persist(target).map(drop).map_err(|e| CheckpointError::file("rename a file to", target)(e.error));
    }
    // Somebody may have written there meanwhile.
    file.persist_noclobber(target).map(drop).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists => CheckpointError::Exists { path: target.to_owned() },
        _ => CheckpointError::file("rename a file to", target)(e.error),
    })
}

fn own(file: &mut File, parts: &Parts<'_>, progress: Progress<'_>) -> Result<u64> {
    let failed = || CheckpointError::file("write", parts.target);
    let file = Digesting::new(file);
    let encoder = zstd::Encoder::new(file, LEVEL).map_err(failed())?;
    let (encoder, content_bytes) = pack(encoder, parts, Layout::Godwit, progress)?;
    let mut file = encoder.finish().map_err(failed())?;
    let digest = file.digest();
    file.write_all(&trailer::frame(&digest)).map_err(failed())?;
    Ok(content_bytes)
}

/// Compresses what is packed for engines; the same level.
pub(crate) fn encoder<W: Write>(into: W) -> io::Result<zstd::Encoder<'static, W>> {
    zstd::Encoder::new(into, LEVEL)
}
