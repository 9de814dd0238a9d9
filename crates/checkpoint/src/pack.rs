//! Putting entries into a tar, with their digests and with progress.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::Progress;
use crate::error::{CheckpointError, Result};
use crate::trailer::{Digesting, sha256};
use crate::write::Parts;

/// The name of the list of digests.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// The name of the manifest.
pub(crate) const MANIFEST: &str = "godwit.json";
/// The name of the writable layer.
pub(crate) const LAYER: &str = "rootfs-diff.tar";

/// Where each of several containers has its entries, by its name.
pub(crate) const CONTAINERS: &str = "containers/";

/// How the entries are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Godwit's own.
    Godwit,
    /// As CRI-O, Podman and containerd call them, in an image's layer.
    Engine,
}

/// Everything of a checkpoint, by name, in order.
struct Content<'p> {
    texts: Vec<(String, String)>,
    files: Vec<(String, PathBuf, u64)>,
    parts: &'p Parts<'p>,
}

impl<'p> Content<'p> {
    fn new(parts: &'p Parts<'p>, layout: Layout) -> Result<Self> {
        let manifest = serde_json::to_string_pretty(parts.manifest).unwrap_or_default();
        let mut texts = vec![(MANIFEST.to_owned(), manifest)];
        let dir = match layout {
            Layout::Godwit => {
                if parts.containers.is_empty() {
                    texts.push(("config.json".into(), parts.spec.to_owned()));
                }
                "images"
            }
            Layout::Engine => {
                texts.push(("config.dump".into(), engine_config(parts)));
                texts.push(("spec.dump".into(), parts.spec.to_owned()));
                "checkpoint"
            }
        };
        let mut files = files_of(dir, parts.images, parts.layer.map(|layer| (LAYER.to_owned(), layer)))?;
        for container in parts.containers {
            let prefix = format!("{CONTAINERS}{}", container.name);
            texts.push((format!("{prefix}/config.json"), container.spec.to_owned()));
            let layer = container.layer.map(|layer| (format!("{prefix}/{LAYER}"), layer));
            files.extend(files_of(&format!("{prefix}/images"), container.images, layer)?);
        }
        Ok(Self { texts, files, parts })
    }

    fn total(&self) -> u64 {
        self.files.iter().map(|(.., length)| length).sum::<u64>()
            + self.texts.iter().map(|(_, text)| text.len() as u64).sum::<u64>()
    }
}

/// The images in a directory, and a layer: name, place and length of each.
fn files_of(dir: &str, images: &Path, layer: Option<(String, &Path)>) -> Result<Vec<(String, PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(images).map_err(CheckpointError::file("list", images))? {
        let entry = entry.map_err(CheckpointError::file("list", images))?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let meta = entry.metadata().map_err(CheckpointError::file("look at", &path))?;
        // CRIU's logs, and the sockets of whoever served memory, are no part of it.
        if meta.is_file() && !name.ends_with(".log") {
            files.push((format!("{dir}/{name}"), path, meta.len()));
        }
    }
    files.sort();
    if let Some((name, layer)) = layer {
        let length = fs::metadata(layer).map_err(CheckpointError::file("look at", layer))?.len();
        files.push((name, layer.to_owned(), length));
    }
    Ok(files)
}

/// What engines keep of a container beside its OCI configuration (`config.dump`).
fn engine_config(parts: &Parts<'_>) -> String {
    let manifest = parts.manifest;
    serde_json::json!({
        "id": manifest.id,
        "name": manifest.workload,
        "rootfsImage": manifest.image,
        "rootfsImageName": manifest.image,
        "runtime": "runc",
        "createdTime": manifest.created,
        "checkpointedTime": manifest.created,
    })
    .to_string()
}

/// Writes all entries of a checkpoint and hands the writer back; how many bytes they have is the second.
pub(crate) fn pack<W: Write>(into: W, parts: &Parts<'_>, layout: Layout, progress: Progress<'_>) -> Result<(W, u64)> {
    let content = Content::new(parts, layout)?;
    let mut packer = Packer {
        tar: tar::Builder::new(into),
        sums: String::new(),
        told: Told { done: 0, total: content.total(), progress, cancelled: false },
        target: content.parts.target,
    };
    for (name, text) in &content.texts {
        packer.text(name, text)?;
        packer.note(name, &sha256(text.as_bytes()));
    }
    for (name, path, length) in &content.files {
        packer.file(name, path, *length)?;
    }
    let sums = std::mem::take(&mut packer.sums);
    packer.text(SUMS, &sums)?;
    let total = packer.told.total;
    let failed = CheckpointError::file("write", content.parts.target);
    Ok((packer.tar.into_inner().map_err(failed)?, total))
}

struct Packer<'p, W: Write> {
    tar: tar::Builder<W>,
    sums: String,
    told: Told<'p>,
    target: &'p Path,
}

/// Who is told, and whether they want no more.
struct Told<'p> {
    done: u64,
    total: u64,
    progress: Progress<'p>,
    cancelled: bool,
}

impl<W: Write> Packer<'_, W> {
    fn note(&mut self, name: &str, digest: &str) {
        self.sums.push_str(&format!("{digest}  {name}\n"));
    }

    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = header(text.len() as u64);
        let appended = self.tar.append_data(&mut header, name, text.as_bytes());
        self.told.done += text.len() as u64;
        appended.map_err(CheckpointError::file("write", self.target))
    }

    fn file(&mut self, name: &str, path: &Path, length: u64) -> Result<()> {
        let file = File::open(path).map_err(CheckpointError::file("open", path))?;
        let mut content = Digesting::new(Telling { file: file.take(length), told: &mut self.told });
        let appended = self.tar.append_data(&mut header(length), name, &mut content);
        let (digest, bytes) = (content.hex(), content.bytes);
        if self.told.cancelled {
            return Err(CheckpointError::Cancelled);
        }
        appended.map_err(CheckpointError::file("write", self.target))?;
        if bytes != length {
            let source = io::Error::other(format!("it shrank from {length} to {bytes} bytes while it was read"));
            return Err(CheckpointError::File { what: "read", path: path.to_owned(), source });
        }
        self.note(name, &digest);
        Ok(())
    }
}

fn header(length: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

struct Telling<'t, 'p> {
    file: io::Take<File>,
    told: &'t mut Told<'p>,
}

impl Read for Telling<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.told.done += n as u64;
        if n > 0 && !(self.told.progress)(self.told.done, self.told.total) {
            self.told.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        Ok(n)
    }
}
