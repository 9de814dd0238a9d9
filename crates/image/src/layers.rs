//! Tars, and how layers lie over each other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::error::{Context, ImageError, Result};

/// `.wh.NAME`: NAME of the layers below is gone.
const WHITEOUT: &[u8] = b".wh.";
/// Everything in this directory of the layers below is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What is in a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    RootFs,
    OciArchive,
    DockerArchive,
}

/// Opens a tar, compressed or not.
fn open(path: &Path) -> Result<Archive<Box<dyn Read>>> {
    let failed = || format!("read {}", path.display());
    let mut magic = [0; 4];
    let mut file = File::open(path).context(|| format!("open {}", path.display()))?;
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head).context(failed)?;
    magic[..head.len()].copy_from_slice(&head);
    let whole = BufReader::with_capacity(1 << 18, File::open(path).context(failed)?);
    if magic == ZSTD {
        let why = "is compressed with zstd; write it anew with `skopeo copy --dest-compress-format gzip`, or unpack it";
        return Err(ImageError::Unsupported { path: path.to_owned(), why: why.into() });
    }
    let reader: Box<dyn Read> = if magic[..2] == GZIP { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    Ok(archive)
}

fn damaged(path: &Path) -> impl Fn(io::Error) -> ImageError + '_ {
    |e| ImageError::Damaged { path: path.to_owned(), why: e.to_string() }
}

/// The names that an archive has at its top say what it is.
pub(crate) fn contents(path: &Path) -> Result<Contents> {
    let damaged = damaged(path);
    let (mut has_manifest, mut entries) = (false, 0);
    for entry in open(path)?.entries().map_err(&damaged)? {
        let entry = entry.map_err(|e| match entries {
            0 => ImageError::NoImage {
                path: path.to_owned(),
                why: format!("is no tar ({e}); an image is a directory, a tar, an OCI layout or an OCI archive"),
            },
            _ => damaged(e),
        })?;
        entries += 1;
        match entry.path_bytes().strip_prefix(b"./").unwrap_or(&entry.path_bytes()) {
            b"oci-layout" => return Ok(Contents::OciArchive),
            b"manifest.json" => has_manifest = true,
            _ => {}
        }
    }
    if entries == 0 {
        return Err(ImageError::NoImage { path: path.to_owned(), why: "is an empty tar".into() });
    }
    Ok(if has_manifest { Contents::DockerArchive } else { Contents::RootFs })
}

/// A tar into an empty directory, as it is.
pub(crate) fn unpack(path: &Path, dir: &Path) -> Result<()> {
    let mut archive = open(path)?;
    archive.set_preserve_ownerships(false);
    archive.unpack(dir).map_err(damaged(path))
}

/// One layer over those that are in `rootfs` already.
pub(crate) fn apply(path: &Path, rootfs: &Path) -> Result<()> {
    let damaged = damaged(path);
    // First what it takes away, which is of the layers below only, wherever in the tar it says so.
    for entry in open(path)?.entries().map_err(&damaged)? {
        let entry = entry.map_err(&damaged)?;
        let Some(name) = plain(&entry.path().map_err(&damaged)?) else { continue };
        let (Some(file), Some(parent)) = (name.file_name().map(OsStr::as_bytes), name.parent()) else { continue };
        if let (Some(hidden), true) = (file.strip_prefix(WHITEOUT), is_plain_dir(rootfs, parent)) {
            let dir = rootfs.join(parent);
            let gone = if file == OPAQUE {
                let entries = fs::read_dir(&dir).context(|| format!("list {}", dir.display()))?;
                entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(&damaged)?
            } else {
                vec![dir.join(OsStr::from_bytes(hidden))]
            };
            gone.iter().try_for_each(|path| remove(path))?;
        }
    }
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    for entry in open(path)?.entries().map_err(&damaged)? {
        let mut entry = entry.map_err(&damaged)?;
        let written = entry.path().map_err(&damaged)?.into_owned();
        let Some(name) = plain(&written) else {
            return Err(damaged(io::Error::other(format!("it has the name {}", written.display()))));
        };
        let is_whiteout = name.file_name().is_some_and(|file| file.as_bytes().starts_with(WHITEOUT));
        let kind = entry.header().entry_type();
        // Devices are the runtime's business.
        if is_whiteout || matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo) {
            continue;
        }
        let place = rootfs.join(&name);
        if let Some(parent) = name.parent()
            && !is_plain_dir(rootfs, parent)
            && fs::symlink_metadata(rootfs.join(parent)).is_ok()
        {
            return Err(damaged(io::Error::other(format!("{} lies behind a link", name.display()))));
        }
        // A directory over a directory keeps what is in it; everything else replaces.
        if let Ok(meta) = fs::symlink_metadata(&place)
            && !name.as_os_str().is_empty()
            && !(meta.is_dir() && kind == EntryType::Directory)
        {
            remove(&place)?;
        }
        if name.as_os_str().is_empty() {
            continue;
        }
        if !entry.unpack_in(rootfs).map_err(&damaged)? {
            return Err(damaged(io::Error::other(format!("{} leads outside", name.display()))));
        }
        seen.insert(name);
    }
    tracing::debug!(entries = seen.len(), layer = %path.display(), "applied");
    Ok(())
}

/// Without `./` and the leading `/`; nothing if it leads upwards.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// Whether every step is a directory, and none a link.
fn is_plain_dir(rootfs: &Path, inside: &Path) -> bool {
    let mut here = rootfs.to_owned();
    inside.components().all(|part| {
        here.push(part);
        fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_dir())
    })
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.context(|| format!("remove {}", path.display()))
}
