//! A checkpoint as an OCI image: one layer with the files of a checkpoint, and the annotations by which engines know it.
//!
//! The annotations' names are those of CRI-O (`io.kubernetes.cri-o.annotations.checkpoint.name`), Podman
//! (`io.podman.annotations.checkpoint.*`, see podman-container-checkpoint(1)) and of checkpointctl and containerd
//! (`org.criu.checkpoint.*`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::Progress;
use crate::error::{CheckpointError, Result};
use crate::manifest::Manifest;
use crate::pack::{Layout, pack};
use crate::trailer::{Digesting, sha256};
use crate::write::{Parts, encoder};

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The longest manifest or index that is read.
const LONGEST: u64 = 4 << 20;

/// A layer that was written.
pub(crate) struct Layer {
    digest: String,
    bytes: u64,
    diff_id: String,
    pub(crate) content_bytes: u64,
}

/// Writes the only layer.
pub(crate) fn write_layer(file: &mut File, parts: &Parts<'_>, progress: Progress<'_>) -> Result<Layer> {
    let failed = || CheckpointError::file("write", parts.target);
    let encoder = encoder(Digesting::new(file)).map_err(failed())?;
    let (uncompressed, content_bytes) = pack(Digesting::new(encoder), parts, Layout::Engine, progress)?;
    let diff_id = uncompressed.hex();
    let compressed = uncompressed.inner.finish().map_err(failed())?;
    Ok(Layer { digest: compressed.hex(), bytes: compressed.bytes, diff_id, content_bytes })
}

/// Writes the archive around it.
pub(crate) fn write_archive(into: &mut File, layer: &mut File, made: &Layer, parts: &Parts<'_>) -> io::Result<()> {
    let manifest = parts.manifest;
    let annotations = annotations(manifest);
    let os_arch = json!({"architecture": go_arch(&manifest.host.arch), "os": "linux"});
    let config = json!({
        "created": manifest.created, "architecture": os_arch["architecture"], "os": os_arch["os"], "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", made.diff_id)]},
        "history": [{"created": manifest.created, "created_by": manifest.creator}],
    })
    .to_string();
    let image = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &sha256(config.as_bytes()), config.len() as u64),
        "layers": [descriptor(LAYER_TYPE, &made.digest, made.bytes)],
        "annotations": annotations,
    })
    .to_string();
    let mut of_image = descriptor(MANIFEST_TYPE, &sha256(image.as_bytes()), image.len() as u64);
    of_image["platform"] = os_arch;
    let mut named = annotations.clone();
    named.insert("org.opencontainers.image.ref.name".into(), "latest".into());
    named.insert("io.containerd.image.name".into(), format!("localhost/checkpoint/{}:latest", manifest.workload));
    of_image["annotations"] = json!(named);
    // containerd looks for the annotations at the index, the others at the image.
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [of_image], "annotations": annotations,
    })
    .to_string();

    let mut tar = tar::Builder::new(into);
    let mut add = |name: &str, content: &mut dyn Read, length: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content)
    };
    let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
    for (name, text) in [("oci-layout", layout), ("index.json", &index)] {
        add(name, &mut text.as_bytes(), text.len() as u64)?;
    }
    for text in [&image, &config] {
        add(&blob(&sha256(text.as_bytes())), &mut text.as_bytes(), text.len() as u64)?;
    }
    layer.seek(SeekFrom::Start(0))?;
    add(&blob(&made.digest), layer, made.bytes)?;
    tar.into_inner()?.flush()
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn annotations(manifest: &Manifest) -> BTreeMap<String, String> {
    let host = &manifest.host;
    let engine_version = manifest.creator.rsplit(' ').next().unwrap_or_default();
    [
        ("io.kubernetes.cri-o.annotations.checkpoint.name", manifest.workload.as_str()),
        ("io.podman.annotations.checkpoint.name", &manifest.workload),
        ("io.podman.annotations.checkpoint.runtime.name", "runc"),
        ("io.podman.annotations.checkpoint.criu.version", &host.criu),
        ("io.podman.annotations.checkpoint.host.arch", go_arch(&host.arch)),
        ("io.podman.annotations.checkpoint.host.kernel", &host.kernel),
        ("io.podman.annotations.checkpoint.cgroup.version", if host.cgroup == 2 { "v2" } else { "v1" }),
        ("org.criu.checkpoint.container.name", &manifest.workload),
        ("org.criu.checkpoint.engine.name", "godwit"),
        ("org.criu.checkpoint.engine.version", engine_version),
        ("org.criu.checkpoint.rootfsImageName", &manifest.image),
        ("org.criu.checkpoint.runtime.name", "runc"),
        ("org.criu.checkpoint.criu.version", &host.criu),
        ("org.criu.checkpoint.host.arch", go_arch(&host.arch)),
        ("org.criu.checkpoint.host.kernel", &host.kernel),
        ("org.criu.checkpoint.cgroup.version", if host.cgroup == 2 { "v2" } else { "v1" }),
        ("org.opencontainers.image.created", &manifest.created),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Where the layer of an image is in the archive.
pub(crate) struct Place {
    pub(crate) name: String,
    digest: String,
    at: u64,
    length: u64,
}

/// Finds the layer of the checkpoint in an OCI image archive; none if the tar is no such archive.
pub(crate) fn find_layer(path: &Path, file: &mut File) -> Result<Option<Place>> {
    let decoding = |e| CheckpointError::decoding(path, "the archive's list of files", e);
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(&mut *file);
    for entry in archive.entries_with_seek().map_err(decoding)? {
        let entry = match entry {
            Ok(entry) => entry,
            // Whether it is an archive of an engine's is seen by who reads it as one, who says where it is damaged.
            Err(_) if !files.contains_key("oci-layout") && !files.contains_key("index.json") => return Ok(None),
            Err(e) => return Err(decoding(e)),
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        files.insert(name, (entry.raw_file_position(), entry.size()));
    }
    if !files.contains_key("index.json") {
        return Ok(None);
    }
    let mut end = [1; 1024];
    let ends = file.seek(SeekFrom::End(-1024)).and_then(|_| file.read_exact(&mut end));
    ends.map_err(CheckpointError::file("read", path))?;
    if end != [0; 1024] {
        let why = "the end of the archive is missing: the file is truncated";
        return Err(CheckpointError::damaged(path, "its end", why));
    }
    let index = json_of(path, file, &files, "index.json", None)?;
    let not_one = |why: String| CheckpointError::NoCheckpoint { path: path.to_owned(), why };
    let images = index["manifests"].as_array().map_or(&[][..], Vec::as_slice);
    let [image] = images else {
        return Err(not_one(format!("the archive has {} images, and a checkpoint is one", images.len())));
    };
    let digest = digest_of(path, "index.json", image)?;
    let image = json_of(path, file, &files, &blob(&digest), Some(&digest))?;
    let layers = image["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let [layer] = layers else {
        return Err(not_one(format!("the image has {} layers, and a checkpoint has one", layers.len())));
    };
    let digest = digest_of(path, "the image's manifest", layer)?;
    let name = blob(&digest);
    let Some(&(at, length)) = files.get(&name) else {
        return Err(CheckpointError::damaged(path, format!("entry {name}"), "it is not there"));
    };
    Ok(Some(Place { name: format!("entry {name}"), digest, at, length }))
}

fn digest_of(path: &Path, place: &str, descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    match digest {
        Some(digest) if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(digest.to_owned()),
        _ => Err(CheckpointError::damaged(path, place, "it has no SHA-256 digest of what it points to")),
    }
}

fn json_of(
    path: &Path,
    file: &mut File,
    files: &BTreeMap<String, (u64, u64)>,
    name: &str,
    digest: Option<&str>,
) -> Result<Value> {
    let damaged = |why: &str| CheckpointError::damaged(path, format!("entry {name}"), why);
    let Some(&(at, length)) = files.get(name) else { return Err(damaged("it is not there")) };
    if length > LONGEST {
        return Err(damaged(&format!("it has {length} bytes, more than the {LONGEST} that it may have")));
    }
    let mut text = Vec::new();
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| Read::take(&mut *file, length).read_to_end(&mut text));
    read.map_err(CheckpointError::file("read", path))?;
    if digest.is_some_and(|digest| digest != sha256(&text)) {
        return Err(damaged("its SHA-256 is not its name"));
    }
    serde_json::from_slice(&text).map_err(|e| damaged(&format!("it is no JSON: {e}")))
}

/// A blob that is digested while it is read.
pub(crate) struct Blob(Digesting<io::Take<File>>);

impl Blob {
    pub(crate) fn open(path: &Path, mut file: File, place: &Place) -> Result<Self> {
        file.seek(SeekFrom::Start(place.at)).map_err(CheckpointError::file("read", path))?;
        Ok(Self(Digesting::new(file.take(place.length))))
    }

    /// What was read is what the manifest names.
    pub(crate) fn check(&mut self, path: &Path, place: &Place) -> Result<()> {
        io::copy(&mut self.0, &mut io::sink()).map_err(CheckpointError::file("read", path))?;
        if self.0.bytes != place.length {
            return Err(CheckpointError::damaged(path, &place.name, "it ends too early: the file is truncated"));
        }
        if self.0.hex() != place.digest {
            return Err(CheckpointError::damaged(path, &place.name, "its SHA-256 is not its name"));
        }
        Ok(())
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
