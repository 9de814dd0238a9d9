//! What was unpacked, by its digest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::error::{Context, ImageError, Result};
use crate::{Config, Image};

/// The cache.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// The SHA-256 of what comes, as hexadecimal digits.
pub(crate) fn digest_of(mut from: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The image of a digest; `make` fills its root file system if it is not there yet.
    pub(crate) fn image(&self, digest: &str, make: impl FnOnce(&Path) -> Result<Config>) -> Result<Image> {
        let place = self.once(&format!("sha256-{digest}"), |tmp| {
            let rootfs = tmp.join("rootfs");
            fs::create_dir(&rootfs).context(|| format!("make {}", rootfs.display()))?;
            let config = make(&rootfs)?;
            let text = serde_json::to_vec(&config).map_err(io::Error::from).context(|| "write its config".into())?;
            fs::write(tmp.join("config.json"), text).context(|| "write its config".into())
        })?;
        let path = place.join("config.json");
        let text = fs::read(&path).context(|| format!("read {}", path.display()))?;
        let config = serde_json::from_slice(&text)
            .map_err(|e| ImageError::Damaged { path: path.clone(), why: format!("{e}; remove {}", place.display()) })?;
        Ok(Image { rootfs: place.join("rootfs"), config })
    }

    /// The unpacked OCI layout of an archive with this digest.
    pub(crate) fn layout(&self, digest: &str, unpack: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.once(&format!("layout-{digest}"), unpack)
    }

    /// A directory of this name, whole or not at all.
    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.dir.join(name);
        if place.exists() {
            return Ok(place);
        }
        fs::create_dir_all(&self.dir).context(|| format!("make {}", self.dir.display()))?;
        let path = self.dir.join(format!(".{name}.lock"));
        let lock = File::create(&path).context(|| format!("open {}", path.display()))?;
        let _alone = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context(|| format!("lock {}", path.display()))?;
        if place.exists() {
            return Ok(place);
        }
        // Gone again if `make` fails; what a killed one has left is taken away by the next of this name.
        let prefix = format!(".{name}.tmp");
        for left in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if left.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(left.path()).context(|| format!("remove {}", left.path().display()))?;
            }
        }
        let tmp = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.dir);
        let tmp = tmp.context(|| format!("make a directory in {}", self.dir.display()))?;
        make(tmp.path())?;
        fs::rename(tmp.path(), &place).context(|| format!("make {}", place.display()))?;
        // It has another name now.
        let _ = tmp.keep();
        Ok(place)
    }
}
