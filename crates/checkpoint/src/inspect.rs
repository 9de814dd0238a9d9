//! Looking into a checkpoint without restoring it, and without any right but to read it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::criu_images::{self, Process, Socket, State};
use crate::error::{CheckpointError, Result};
use crate::manifest::Host;
use crate::scan::{self, Format, Part, text};
use crate::unpack::Texts;

/// What is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspected {
    /// How it is packed.
    pub format: Format,
    /// The format's version; Godwit's own only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Its id.
    pub id: String,
    /// The workload's or the container's name.
    pub workload: String,
    /// The image that the container was made from.
    pub image: String,
    /// When, as it is written there.
    pub created: String,
    /// What wrote it.
    pub creator: String,
    /// Where the service answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whether it was ended with this checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<bool>,
    /// For how long it stood still, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<f64>,
    /// Where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The names of its containers, if it is of several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// Its program and arguments; of several containers none.
    pub command: Vec<String>,
    /// Processes, parents first.
    pub processes: Vec<Process>,
    /// Sockets.
    pub sockets: Vec<Socket>,
    /// Mounts of its OCI configuration: destination, type, source.
    pub mounts: Vec<[String; 3]>,
    /// What takes how much.
    pub size: Size,
}

/// Sizes of the parts, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The file itself.
    pub file_bytes: u64,
    /// Memory pages.
    pub memory_bytes: u64,
    /// The files of tmpfs mounts.
    pub tmpfs_bytes: u64,
    /// The other images of CRIU's.
    pub state_bytes: u64,
    /// The writable layer.
    pub layer_bytes: u64,
}

/// Reads all of it, checks it like a restore would, and says what is in it.
pub fn inspect(path: &Path) -> Result<Inspected> {
    let mut texts = Texts::default();
    // Of each container by its name; of the one by none.
    let mut images: BTreeMap<Option<String>, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let mut size =
        Size { file_bytes: fs::metadata(path).map_err(CheckpointError::file("open", path))?.len(), ..Size::default() };
    let format = scan::scan(path, &mut |part, length, content| {
        texts.read(path, part, length, content)?;
        let (owner, part) = match part {
            Part::Of(name, part) => (Some(name.clone()), &**part),
            part => (None, part),
        };
        match part {
            Part::Image(name) if criu_images::is_shown(name) => {
                images.entry(owner).or_default().insert(name.clone(), text(length, content)?);
                size.state_bytes += length;
            }
            Part::Image(name) if name.starts_with("pages-") => size.memory_bytes += length,
            Part::Image(name) if name.starts_with("tmpfs-") => size.tmpfs_bytes += length,
            Part::Image(_) => size.state_bytes += length,
            Part::Layer => size.layer_bytes += length,
            _ => {}
        }
        Ok(())
    })?;
    let mut state = State::default();
    for (owner, images) in &images {
        let of = owner.as_ref().map(|name| format!(" of container {name}")).unwrap_or_default();
        let own = criu_images::of_images(images)
            .map_err(|(name, why)| CheckpointError::damaged(path, format!("CRIU image {name}{of}"), why))?;
        state.processes.extend(own.processes);
        state.sockets.extend(own.sockets);
    }
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let strings = |value: &Value| value.as_array().into_iter().flatten().map(string).collect::<Vec<_>>();
    let specs = || [&texts.spec].into_iter().chain(texts.specs.values());
    let mounts = specs().flat_map(|spec| spec["mounts"].as_array().into_iter().flatten());
    let mounts = mounts.map(|m| ["destination", "type", "source"].map(|key| string(&m[key]))).collect();
    let config = &texts.config;
    let first = |keys: [&str; 2]| {
        let mut values = keys.iter().map(|key| string(&config[*key]));
        values.find(|value| !value.is_empty()).unwrap_or_default()
    };
    let mut inspected = Inspected {
        format,
        version: None,
        id: string(&config["id"]),
        workload: string(&config["name"]),
        image: first(["rootfsImageName", "rootfsImage"]),
        created: first(["checkpointedTime", "createdTime"]),
        creator: string(&config["runtime"]),
        service: None,
        stopped: None,
        frozen_ms: None,
        host: None,
        containers: texts.specs.keys().cloned().collect(),
        command: strings(&texts.spec["process"]["args"]),
        processes: state.processes,
        sockets: state.sockets,
        mounts,
        size,
    };
    if let Some(manifest) = texts.manifest {
        inspected.version = Some(manifest.format);
        inspected.id = manifest.id;
        inspected.workload = manifest.workload;
        inspected.image = manifest.image;
        inspected.created = manifest.created;
        inspected.creator = manifest.creator;
        inspected.service = Some(manifest.service);
        inspected.stopped = Some(manifest.stopped);
        inspected.frozen_ms = Some(manifest.frozen_ms);
        inspected.host = Some(manifest.host);
    }
    Ok(inspected)
}
