//! What a container has written, as tars: the upper directory of the overlay that is its root file system, and its volumes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use godwit_criu::{Limit, NodeEnv};
use godwit_migration::PartError;
use nix::sys::stat::{Mode, SFlag, mknod};

use super::part;

/// Owners by number; holes, links and attributes as they are. An overlay keeps what it needs to know of directories that
/// replace others in `trusted.overlay.*`, and of deleted files in devices 0/0, which tar carries as such.
const FAITHFUL: [&str; 5] = ["--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*", "--acls"];

/// Saves what is in `upper` into the file `into`; false if there is nothing in it.
pub(super) fn save(upper: &Path, into: &Path, limit: &Limit) -> Result<bool, PartError> {
    let listed = fs::read_dir(upper).map(|mut entries| entries.next().is_some());
    if !listed.map_err(|e| PartError::caused_by(format!("list {}", upper.display()), e))? {
        return Ok(false);
    }
    save_whole(upper, into, limit).map_err(part("save the writable layer"))?;
    Ok(true)
}

/// Saves a directory and what is in it.
fn save_whole(dir: &Path, into: &Path, limit: &Limit) -> godwit_criu::Result<()> {
    let tar = NodeEnv::host().command("tar").arg("--create").args(FAITHFUL).arg("--file").arg(into);
    tar.arg("--directory").arg(dir).arg(".").run(limit).map(drop)
}

/// Puts it into an empty directory.
fn load_whole(from: &Path, dir: &Path, limit: &Limit) -> godwit_criu::Result<()> {
    let args = ["--extract", "--preserve-permissions", "--same-owner"];
    let tar = NodeEnv::host().command("tar").args(args).args(FAITHFUL).arg("--file").arg(from);
    tar.arg("--directory").arg(dir).run(limit).map(drop)
}

/// Where a volume is kept among the images.
fn volume(images: &Path, number: usize) -> PathBuf {
    images.join(format!("volume-{number}.tar"))
}

/// Saves volumes, in their order.
pub(super) fn save_volumes(
    volumes: impl Iterator<Item = PathBuf>,
    images: &Path,
    limit: &Limit,
) -> Result<(), PartError> {
    for (number, dir) in volumes.enumerate() {
        save_whole(&dir, &volume(images, number), limit).map_err(part("save a volume"))?;
    }
    Ok(())
}

/// Puts saved volumes into empty directories.
pub(super) fn load_volumes(
    volumes: impl Iterator<Item = PathBuf>,
    images: &Path,
    limit: &Limit,
) -> Result<(), PartError> {
    for (number, dir) in volumes.enumerate() {
        load_whole(&volume(images, number), &dir, limit).map_err(part("put a volume in place"))?;
    }
    Ok(())
}

/// Puts a saved layer into the empty directory `upper`, which no overlay uses yet; `deleted` are paths that an engine
/// keeps beside it.
pub(super) fn load(from: Option<&Path>, deleted: &[String], upper: &Path, limit: &Limit) -> Result<(), PartError> {
    if let Some(from) = from {
        load_whole(from, upper, limit).map_err(part("put the writable layer in place"))?;
    }
    translate(upper).map_err(|e| PartError::caused_by("put the writable layer in place", e))?;
    for path in deleted {
        delete(upper, path).map_err(|e| PartError::caused_by(format!("delete {path} in the writable layer"), e))?;
    }
    Ok(())
}

/// Engines that pack a layer as an OCI image's write `.wh.NAME` for a deleted NAME.
fn translate(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == ".wh..wh..opq" {
            return Err(io::Error::other(format!(
                "{} replaces a directory of the image as a whole, which is not supported yet",
                dir.display()
            )));
        }
        if let Some(deleted) = name.strip_prefix(".wh.") {
            fs::remove_file(entry.path())?;
            whiteout(&dir.join(deleted))?;
        } else if entry.file_type()?.is_dir() {
            translate(&entry.path())?;
        }
    }
    Ok(())
}

fn delete(upper: &Path, path: &str) -> io::Result<()> {
    let mut at = upper.to_owned();
    let mut parts = path.trim_matches('/').split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part == "." || part == ".." {
            return Err(io::Error::other("it is no plain path"));
        }
        at.push(part);
        match (at.symlink_metadata(), parts.peek()) {
            // Never through a link, which may lead out.
            (Ok(meta), Some(_)) if !meta.is_dir() => return Err(io::Error::other("a part of it is no directory")),
            (Ok(_), Some(_)) => {}
            (Ok(meta), None) if meta.is_dir() => fs::remove_dir_all(&at)?,
            (Ok(_), None) => fs::remove_file(&at)?,
            (Err(e), _) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            (Err(_), Some(_)) => fs::create_dir(&at)?,
            (Err(_), None) => {}
        }
    }
    whiteout(&at)
}

fn whiteout(path: &Path) -> io::Result<()> {
    Ok(mknod(path, SFlag::S_IFCHR, Mode::empty(), 0)?)
}
