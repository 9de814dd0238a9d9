//! The OCI image layout: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, ImageError, Result};
use crate::store::{Store, digest_of};
use crate::{Config, Image, layers};

/// An index may lead to an index; more often than this it is a circle.
const MOST_INDEXES: usize = 8;
/// What describes an image is small.
const MOST_BYTES: u64 = 4 << 20;

/// A directory with `oci-layout`, `index.json` and `blobs`.
pub(crate) struct Layout {
    dir: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct ImageConfig {
    config: Option<Config>,
}

/// The name that OCI has for this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Layout {
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Its image for this machine.
    pub(crate) fn image(&self, store: &Store) -> Result<Image> {
        let manifest = self.manifest()?;
        let digest = manifest.digest.trim_start_matches("sha256:").to_owned();
        let path = self.blob(&manifest)?;
        let manifest: Manifest = self.read(&path)?;
        store.image(&digest, |rootfs| {
            let config: ImageConfig = self.read(&self.blob(&manifest.config)?)?;
            for layer in &manifest.layers {
                layers::apply(&self.blob(layer)?, rootfs)?;
            }
            Ok(config.config.unwrap_or_default())
        })
    }

    fn manifest(&self) -> Result<Descriptor> {
        let mut path = self.dir.join("index.json");
        for _ in 0..MOST_INDEXES {
            let index: Index = self.read(&path)?;
            let here = |d: &&Descriptor| {
                d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture())
            };
            let mut fitting = index.manifests.iter().filter(here);
            let Some(first) = fitting.next() else {
                let had = |d: &Descriptor| d.platform.as_ref().map(|p| format!("{}/{}", p.os, p.architecture));
                let had: Vec<String> = index.manifests.iter().filter_map(had).collect();
                let had =
                    if had.is_empty() { "no image".into() } else { format!("images for {} only", had.join(", ")) };
                let why = format!("has {had}; this machine is linux/{}", architecture());
                return Err(ImageError::Unsupported { path: self.dir.clone(), why });
            };
            let nested = first.media_type.contains("index") || first.media_type.contains("manifest.list");
            if !nested {
                if fitting.next().is_some() {
                    let why = "has several images; keep one in it: `skopeo copy oci:DIR:TAG oci-archive:image.tar`";
                    return Err(ImageError::Unsupported { path: self.dir.clone(), why: why.into() });
                }
                return Ok(first.clone());
            }
            path = self.blob(first)?;
        }
        Err(ImageError::Damaged { path: self.dir.clone(), why: "its indexes lead to each other".into() })
    }

    /// A blob's path, when its bytes are what its digest says.
    fn blob(&self, of: &Descriptor) -> Result<PathBuf> {
        let hex = of.digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        let Some(hex) = hex else {
            let why = format!("has a digest that is no sha256: {:?}", of.digest);
            return Err(ImageError::Unsupported { path: self.dir.clone(), why });
        };
        let path = self.dir.join("blobs/sha256").join(hex);
        let file = File::open(&path).context(|| format!("open {} of the image", path.display()))?;
        let found = digest_of(file).context(|| format!("read {}", path.display()))?;
        if found != hex {
            return Err(ImageError::Damaged { path, why: format!("its digest is sha256:{found}") });
        }
        Ok(path)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        let meta = fs::metadata(path).context(|| format!("look at {}", path.display()))?;
        if meta.len() > MOST_BYTES {
            return Err(ImageError::Damaged { path: path.to_owned(), why: format!("it has {} bytes", meta.len()) });
        }
        let text = fs::read(path).context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .map_err(|e| ImageError::Damaged { path: path.to_owned(), why: format!("not as OCI has it: {e}") })
    }
}
