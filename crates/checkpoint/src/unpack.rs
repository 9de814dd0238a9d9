//! Unpacking a checkpoint, checked to its last byte before anybody uses it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Progress;
use crate::error::{CheckpointError, Result};
use crate::manifest::{FORMAT, Manifest};
use crate::pack::LAYER;
use crate::scan::{self, Format, Part, refuse, text};

/// A checkpoint in a directory.
#[derive(Debug)]
pub struct Unpacked {
    /// How it was packed.
    pub format: Format,
    /// What it says about itself; an engine's says nothing in our words.
    pub manifest: Option<Manifest>,
    /// The container's OCI configuration.
    pub spec: Value,
    /// The directory with CRIU's images.
    pub images: PathBuf,
    /// A tar of the writable layer.
    pub layer: Option<PathBuf>,
    /// Of several containers: each, in the manifest's order. Their images are below `images`, in directories by their names.
    pub containers: Vec<UnpackedContainer>,
    /// Paths of the image that the container has deleted (an engine's list; an overlay's layer says it itself).
    pub deleted: Vec<String>,
}

/// One of several containers.
#[derive(Debug, Default)]
pub struct UnpackedContainer {
    /// Its name.
    pub name: String,
    /// Its OCI configuration.
    pub spec: Value,
    /// A tar of its writable layer.
    pub layer: Option<PathBuf>,
}

/// What is gathered on the way.
#[derive(Default)]
pub(crate) struct Texts {
    pub(crate) manifest: Option<Manifest>,
    pub(crate) spec: Value,
    pub(crate) config: Value,
    /// Of several containers, by their names.
    pub(crate) specs: BTreeMap<String, Value>,
    pub(crate) deleted: Vec<String>,
}

impl Texts {
    /// Reads an entry that is text; false if it is none.
    pub(crate) fn read(&mut self, path: &Path, part: &Part, length: u64, content: &mut dyn Read) -> io::Result<bool> {
        let no_json = |e: serde_json::Error| io::Error::other(format!("it is not what it should be: {e}"));
        match part {
            Part::Manifest => self.manifest = Some(manifest(path, &text(length, content)?)?),
            Part::Spec => self.spec = serde_json::from_slice(&text(length, content)?).map_err(no_json)?,
            Part::Config => self.config = serde_json::from_slice(&text(length, content)?).map_err(no_json)?,
            Part::Deleted => self.deleted = serde_json::from_slice(&text(length, content)?).map_err(no_json)?,
            Part::Of(name, part) if **part == Part::Spec => {
                let spec = serde_json::from_slice(&text(length, content)?).map_err(no_json)?;
                self.specs.insert(name.clone(), spec);
            }
            Part::Image(_) | Part::Layer | Part::Other | Part::Of(..) => return Ok(false),
        }
        Ok(true)
    }
}

fn manifest(path: &Path, text: &[u8]) -> io::Result<Manifest> {
    let no_json = |e: serde_json::Error| io::Error::other(format!("it is not what it should be: {e}"));
    // The version first: what else is in it, only that version knows.
    let value: Value = serde_json::from_slice(text).map_err(no_json)?;
    let found = value["format"].as_u64().ok_or_else(|| io::Error::other("it has no format's version"))?;
    if found == 0 || found > u64::from(FORMAT) {
        let creator = value["creator"].as_str().unwrap_or("of an unknown version").to_owned();
        return Err(refuse(CheckpointError::Version { path: path.to_owned(), found, known: FORMAT, creator }));
    }
    serde_json::from_value(value).map_err(no_json)
}

/// Unpacks the checkpoint at `path` into the directory `into`, which it makes. When this returns an error, `into` is gone
/// again; otherwise every digest that the file has was right.
pub fn unpack(path: &Path, into: &Path, progress: Progress<'_>) -> Result<Unpacked> {
    let images = into.join("images");
    fs::create_dir_all(&images).map_err(CheckpointError::file("make", &images))?;
    let unpacked = unpack_into(path, into, &images, progress);
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(into);
    }
    unpacked
}

fn unpack_into(path: &Path, into: &Path, images: &Path, progress: Progress<'_>) -> Result<Unpacked> {
    let mut texts = Texts::default();
    let mut layers: BTreeMap<Option<String>, PathBuf> = BTreeMap::new();
    let mut done = 0;
    let format = scan::scan(path, &mut |part, length, content| {
        if texts.read(path, part, length, content)? {
            return Ok(());
        }
        let (owner, part) = match part {
            Part::Of(name, part) => (Some(name), &**part),
            part => (None, part),
        };
        let target = match (part, owner) {
            (Part::Image(name), None) => images.join(name),
            (Part::Image(name), Some(owner)) => {
                let dir = images.join(owner);
                fs::create_dir_all(&dir)?;
                dir.join(name)
            }
            (Part::Layer, None) => into.join(LAYER),
            (Part::Layer, Some(owner)) => into.join(format!("{owner}-{LAYER}")),
            _ => return Ok(()),
        };
        copy(content, &target, &mut done, progress)?;
        if *part == Part::Layer {
            layers.insert(owner.cloned(), target);
        }
        Ok(())
    })?;
    let containers = containers(path, &mut texts, &mut layers)?;
    Ok(Unpacked {
        format,
        manifest: texts.manifest,
        spec: texts.spec,
        images: images.to_owned(),
        layer: layers.remove(&None),
        containers,
        deleted: texts.deleted,
    })
}

/// Those that the manifest names, and no others.
fn containers(
    path: &Path,
    texts: &mut Texts,
    layers: &mut BTreeMap<Option<String>, PathBuf>,
) -> Result<Vec<UnpackedContainer>> {
    let named = texts.manifest.iter().flat_map(|manifest| manifest.containers.iter().map(|container| &container.name));
    let mut all = Vec::new();
    for name in named {
        let Some(spec) = texts.specs.remove(name) else {
            return Err(CheckpointError::damaged(path, format!("container {name}"), "it is not there"));
        };
        all.push(UnpackedContainer { name: name.clone(), spec, layer: layers.remove(&Some(name.clone())) });
    }
    match texts.specs.keys().next() {
        Some(name) => Err(CheckpointError::damaged(path, format!("container {name}"), "the manifest does not know it")),
        None => Ok(all),
    }
}

fn copy(content: &mut dyn Read, target: &Path, done: &mut u64, progress: Progress<'_>) -> io::Result<()> {
    let here = |source| refuse(CheckpointError::File { what: "write", path: target.to_owned(), source });
    let mut file = File::options().write(true).create_new(true).open(target).map_err(here)?;
    let mut chunk = vec![0; 1 << 18];
    loop {
        let n = content.read(&mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        file.write_all(&chunk[..n]).map_err(here)?;
        *done += n as u64;
        if !progress(*done, 0) {
            return Err(refuse(CheckpointError::Cancelled));
        }
    }
}
