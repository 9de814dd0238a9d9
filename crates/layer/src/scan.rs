//! Looks at all of a place.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, major, minor, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::open;
use crate::tree::{Entry, Instant, Kind, Meta, Name, Tree};

/// How a directory is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The upper directory of an overlay, mounted without redirect_dir and metacopy.
    Upper,
    /// As it is: what is not in it is not there.
    Plain,
}

/// A directory that is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// How it is read.
    pub form: Form,
    /// Where the container has it: `/` for an overlay.
    pub inside: PathBuf,
}

const OPAQUE: &str = "trusted.overlay.opaque";

impl Place {
    /// What is there. Files that come and go meanwhile may or may not be in it.
    pub(crate) fn scan(&self) -> Result<Tree> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let taken = Instant { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() };
        let mut tree = Tree { taken, ..Tree::default() };
        let root = open::root(&self.path).context("open", self.path.as_os_str().as_encoded_bytes())?;
        let stat = rustix::fs::fstat(&root).context("look at", b"")?;
        let entry = self.entry(&root, b"", &stat, Some(&root))?;
        tree.entries.insert(Name::new(), entry);
        self.directory(root, &[], &mut tree)?;
        Ok(tree)
    }

    fn directory(&self, dir: OwnedFd, prefix: &[u8], tree: &mut Tree) -> Result<()> {
        for listed in Dir::read_from(&dir).context("list", prefix)? {
            let listed = listed.context("list", prefix)?;
            let base = listed.file_name().to_bytes();
            if base == b"." || base == b".." {
                continue;
            }
            let name = if prefix.is_empty() { base.to_vec() } else { [prefix, b"/", base].concat() };
            let stat = match statat(&dir, base, AtFlags::SYMLINK_NOFOLLOW) {
                // It went while we looked.
                Err(Errno::NOENT) => continue,
                stat => stat.context("look at", &name)?,
            };
            let mut inner = None;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&dir, base, flags, Mode::empty()) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    opened => inner = Some(opened.context("open", &name)?),
                }
            }
            let entry = match self.entry(&dir, base, &stat, inner.as_ref()) {
                Err(_) if statat(&dir, base, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT) => continue,
                entry => entry?,
            };
            tree.entries.insert(name.clone(), entry);
            if let Some(inner) = inner {
                self.directory(inner, &name, tree)?;
            }
        }
        Ok(())
    }

    #[allow(clippy::unnecessary_cast, reason = "the numbers' widths differ between processors")]
    fn entry(&self, dir: impl AsFd, base: &[u8], stat: &Stat, opened: Option<&OwnedFd>) -> Result<Entry> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Dir { hides: self.hides(opened) },
            FileType::RegularFile => Kind::File { size: stat.st_size as u64 },
            FileType::Symlink => {
                let target = readlinkat(dir, base, Vec::new()).context("read the link", base)?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice
                if self.form == Form::Upper && (major(stat.st_rdev), minor(stat.st_rdev)) == (0, 0) =>
            {
                Kind::Gone
            }
            _ => Kind::Special { device: stat.st_rdev },
        };
        let instant = |seconds, nanos| Instant { seconds, nanos: nanos as u32 };
        Ok(Entry {
            kind,
            meta: Meta {
                mode: stat.st_mode,
                uid: stat.st_uid,
                gid: stat.st_gid,
                modified: instant(stat.st_mtime, stat.st_mtime_nsec),
            },
            inode: stat.st_ino,
            links: stat.st_nlink as u64,
            changed: instant(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn hides(&self, dir: Option<&OwnedFd>) -> bool {
        let mut value = [0; 8];
        self.form == Form::Upper
            && dir.is_some_and(|dir| matches!(fgetxattr(dir, OPAQUE, &mut value), Ok(1) if value[0] == b'y'))
    }
}
