//! The directory that a dump fills and a restore reads.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// A directory of CRIU images, named by a path of the host. It should be on a tmpfs: a dump writes all memory there
/// while the service is frozen. Nodes need not see it: CRIU gets it as an open descriptor.
#[derive(Debug)]
pub struct ImagesDir {
    path: PathBuf,
    fd: OwnedFd,
}

impl ImagesDir {
    /// Makes the directory, or takes it as it is.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).context(|| format!("make {}", path.display()))?;
        let fd = File::open(&path).context(|| format!("open {}", path.display()))?.into();
        Ok(Self { path, fd })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image files, name and size in bytes, by name. CRIU's logs are not among them.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        let what = || format!("list {}", self.path.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).context(what)? {
            let entry = entry.context(what)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".log") {
                files.push((name, entry.metadata().context(what)?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn log(&self, verb: &str) -> PathBuf {
        self.path.join(format!("{verb}.log"))
    }
}
