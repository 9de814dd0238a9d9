//! The target's side.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt, fchown, lchown, symlink};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, futimens, mknodat, utimensat,
};
use rustix::io::Errno;

use crate::error::{Context, LayerError, Result};
use crate::message::{Message, Xattrs};
use crate::open;
use crate::tree::{Meta, Name, parent};

/// Where a file is until it is whole.
const UNFINISHED: &[u8] = b".godwit-unfinished";

/// Makes what [`Outgoing`](crate::Outgoing) tells.
#[derive(Debug)]
pub struct Incoming {
    roots: Vec<PathBuf>,
    /// The place whose changes come, with its number for messages.
    root: Option<OwnedFd>,
    file: Option<Unfinished>,
    /// Directories whose time of change is set when nothing is done in them any more.
    dirs: BTreeMap<Name, Meta>,
    ends: u64,
}

#[derive(Debug)]
struct Unfinished {
    name: Name,
    dir: OwnedFd,
    file: File,
    meta: Meta,
    xattrs: Xattrs,
    size: u64,
}

impl Incoming {
    /// Into these directories: for an overlay its mount, for a volume itself, in the order of the source's places.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, root: None, file: None, dirs: BTreeMap::new(), ends: 0 }
    }

    /// How many syncs have arrived whole.
    pub fn syncs(&self) -> u64 {
        self.ends
    }

    /// One message.
    pub fn take(&mut self, message: &[u8]) -> Result<()> {
        let message = Message::read(message)?;
        if self.file.is_some() && !matches!(message, Message::Piece { .. } | Message::Done) {
            return Err(LayerError::Message("comes before the end of a file"));
        }
        match message {
            Message::Place(number) => self.place(number),
            Message::Remove(name) => {
                if name.is_empty() {
                    return Err(LayerError::Message("would remove the whole place"));
                }
                // What it was in went with it, or was never sent.
                match self.parent_of(&name) {
                    Err(LayerError::Io { source, .. }) if is_absent(&source) => Ok(()),
                    dir => remove(&open::entry(&dir?, open::base(&name))).context("remove", &name),
                }
            }
            Message::Dir { name, meta, xattrs, empty } => self.dir(name, meta, &xattrs, empty),
            Message::File { name, meta, xattrs, size } => self.begin(name, meta, xattrs, size),
            Message::Piece { offset, bytes } => {
                let Some(open) = &self.file else { return Err(LayerError::Message("has a piece of no file")) };
                if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > open.size) {
                    return Err(LayerError::Message("has a piece beyond the file's end"));
                }
                open.file.write_all_at(bytes, offset).context("write", &open.name)
            }
            Message::Done => {
                let Some(open) = self.file.take() else { return Err(LayerError::Message("ends no file")) };
                open.finish()
            }
            Message::Link { name, to } => {
                let (dir, other) = (self.parent_of(&name)?, self.parent_of(&to)?);
                let place = open::entry(&dir, open::base(&name));
                remove(&place).context("replace", &name)?;
                match fs::hard_link(open::entry(&other, open::base(&to)), place) {
                    // The first name went before it was read: the next sync says so.
                    Err(error) if is_absent(&error) => Ok(()),
                    made => made.context("link", &name),
                }
            }
            Message::Symlink { name, meta, target } => self.symlink(&name, &meta, &target),
            Message::Special { name, meta, device } => self.special(&name, &meta, device),
            Message::End => {
                self.ends += 1;
                self.leave()
            }
        }
    }

    fn place(&mut self, number: u16) -> Result<()> {
        self.leave()?;
        let Some(path) = self.roots.get(usize::from(number)) else {
            return Err(LayerError::Message("is for a place that there is not"));
        };
        self.root = Some(open::root(path).context("open", path.as_os_str().as_encoded_bytes())?);
        Ok(())
    }

    /// Nothing more is done in this place.
    fn leave(&mut self) -> Result<()> {
        for (name, meta) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let root = self.root()?;
            let dir = match open::below(root, &name, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(error) if is_absent(&error) => continue,
                dir => dir.context("open", &name)?,
            };
            futimens(dir, &times(&meta)).context("set the times of", &name)?;
        }
        Ok(())
    }

    fn root(&self) -> Result<&OwnedFd> {
        self.root.as_ref().ok_or(LayerError::Message("comes before it is said where"))
    }

    fn parent_of(&self, name: &[u8]) -> Result<OwnedFd> {
        let Some(dir) = parent(name) else { return Err(LayerError::Message("makes the place something else")) };
        open::below(self.root()?, dir, OFlags::PATH | OFlags::DIRECTORY).context("open", dir)
    }

    fn dir(&mut self, name: Name, meta: Meta, xattrs: &Xattrs, empty: bool) -> Result<()> {
        if !name.is_empty() {
            let parent = self.parent_of(&name)?;
            let place = open::entry(&parent, open::base(&name));
            let there = fs::symlink_metadata(&place);
            // Removed and made anew it hides what an overlay has below it.
            if there.as_ref().is_ok_and(|there| empty || !there.is_dir()) {
                remove(&place).context("replace", &name)?;
            }
            if empty || !there.is_ok_and(|there| there.is_dir()) {
                fs::create_dir(&place).context("make", &name)?;
            }
        }
        let dir = open::below(self.root()?, &name, OFlags::RDONLY | OFlags::DIRECTORY).context("open", &name)?;
        if name.is_empty() && empty {
            let mut children = fs::read_dir(open::entry(&dir, b"")).context("list", &name)?;
            children.try_for_each(|child| remove(&child?.path())).context("empty", &name)?;
        }
        let dir = File::from(dir);
        fchown(&dir, Some(meta.uid), Some(meta.gid)).context("give away", &name)?;
        dir.set_permissions(Permissions::from_mode(meta.mode & 0o7777)).context("set the mode of", &name)?;
        set_xattrs(&dir, xattrs).context("set the attributes of", &name)?;
        self.dirs.insert(name, meta);
        Ok(())
    }

    fn begin(&mut self, name: Name, meta: Meta, xattrs: Xattrs, size: u64) -> Result<()> {
        let dir = self.parent_of(&name)?;
        let place = open::entry(&dir, UNFINISHED);
        remove(&place).context("replace the unfinished", &name)?;
        let file = File::options().write(true).read(true).create_new(true).open(&place).context("make", &name)?;
        self.file = Some(Unfinished { name, dir, file, meta, xattrs, size });
        Ok(())
    }

    fn symlink(&mut self, name: &Name, meta: &Meta, target: &[u8]) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let dir = self.parent_of(name)?;
        let place = open::entry(&dir, open::base(name));
        remove(&place).context("replace", name)?;
        symlink(std::ffi::OsStr::from_bytes(target), &place).context("make the link", name)?;
        lchown(&place, Some(meta.uid), Some(meta.gid)).context("give away", name)?;
        utimensat(&dir, open::base(name), &times(meta), AtFlags::SYMLINK_NOFOLLOW).context("set the times of", name)
    }

    fn special(&mut self, name: &Name, meta: &Meta, device: u64) -> Result<()> {
        let dir = self.parent_of(name)?;
        let place = open::entry(&dir, open::base(name));
        remove(&place).context("replace", name)?;
        let kind = FileType::from_raw_mode(meta.mode);
        if matches!(kind, FileType::Directory | FileType::RegularFile | FileType::Symlink) {
            return Err(LayerError::Message("has a special file that is none"));
        }
        mknodat(&dir, open::base(name), kind, Mode::from_raw_mode(meta.mode & 0o7777), device).context("make", name)?;
        lchown(&place, Some(meta.uid), Some(meta.gid)).context("give away", name)?;
        // It was just made and is no link.
        fs::set_permissions(&place, Permissions::from_mode(meta.mode & 0o7777)).context("set the mode of", name)?;
        utimensat(CWD, &place, &times(meta), AtFlags::SYMLINK_NOFOLLOW).context("set the times of", name)
    }
}

impl Unfinished {
    fn finish(mut self) -> Result<()> {
        let name = &self.name;
        self.file.flush().context("write", name)?;
        self.file.set_len(self.size).context("set the length of", name)?;
        fchown(&self.file, Some(self.meta.uid), Some(self.meta.gid)).context("give away", name)?;
        // After the owner, which takes set-user-id and capabilities away.
        let mode = Permissions::from_mode(self.meta.mode & 0o7777);
        self.file.set_permissions(mode).context("set the mode of", name)?;
        set_xattrs(&self.file, &self.xattrs).context("set the attributes of", name)?;
        futimens(&self.file, &times(&self.meta)).context("set the times of", name)?;
        let (from, to) = (open::entry(&self.dir, UNFINISHED), open::entry(&self.dir, open::base(name)));
        if fs::symlink_metadata(&to).is_ok_and(|there| there.is_dir()) {
            remove(&to).context("replace", name)?;
        }
        fs::rename(from, to).context("put in place", name)
    }
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.modified.seconds, tv_nsec: meta.modified.nanos.into() },
    }
}

fn is_absent(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// With everything below it, if it is there.
fn remove(path: &std::path::Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if is_absent(&error) => Ok(()),
        removed => removed,
    }
}

/// Those, and no others of ours.
fn set_xattrs(file: &File, xattrs: &Xattrs) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let listed = match flistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) if xattrs.is_empty() => return Ok(()),
        listed => listed?,
    };
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let is_overlays = name.starts_with(b"trusted.overlay.");
        if !is_overlays && !xattrs.iter().any(|(wanted, _)| wanted == name) {
            fremovexattr(file, name)?;
        }
    }
    for (name, value) in xattrs {
        let mut there = vec![0; value.len() + 1];
        let is_there = matches!(fgetxattr(file, name.as_slice(), &mut there[..]), Ok(n) if there[..n] == value[..]);
        if !is_there {
            fsetxattr(file, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    Ok(())
}
