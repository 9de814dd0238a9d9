//! The root file systems that the workloads of a scenario begin with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use godwit_image::{Config, Image};
use godwit_scenario::Workload;

use crate::error::TestbedError;
use crate::node_init;

/// Images that are unpacked, each once.
#[derive(Debug, Default)]
pub(crate) struct Images {
    roots: Vec<PathBuf>,
    of: BTreeMap<PathBuf, Begin>,
}

/// What one container begins with.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    /// The image as the scenario has it.
    pub(crate) image: PathBuf,
    /// Its root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// The same in any node.
    pub(crate) inside: PathBuf,
    /// What it says about how it is run.
    pub(crate) config: Config,
}

impl Images {
    /// Unpacks what is not in the directory `cache` yet; `note` is told what takes time.
    pub(crate) fn open(workloads: &[Workload], cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Self, TestbedError> {
        let mut images = Self::default();
        let all = workloads.iter().flat_map(|workload| workload.containers.iter().map(move |part| (workload, part)));
        for (workload, part) in all {
            let Some(path) = part.image.as_ref().filter(|path| !images.of.contains_key(*path)) else { continue };
            note(&format!("image {} of {}", path.display(), workload.name));
            let image = Image::open(path, cache)
                .map_err(|source| TestbedError::Image { workload: workload.name.clone(), source })?;
            let number = images.roots.iter().position(|root| *root == image.rootfs).unwrap_or_else(|| {
                images.roots.push(image.rootfs.clone());
                images.roots.len() - 1
            });
            let inside = node_init::image_dir(number);
            let begin = Begin { image: path.clone(), rootfs: image.rootfs, inside, config: image.config };
            images.of.insert(path.clone(), begin);
        }
        Ok(images)
    }

    /// The root file systems that every node needs, in the order of [`node_init::image_dir`].
    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// What a container with this image begins with; none: the node image.
    pub(crate) fn of(&self, image: Option<&Path>) -> Option<&Begin> {
        self.of.get(image?)
    }
}
