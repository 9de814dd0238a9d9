//! The source's side.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{OFlags, SeekFrom as Sparse, fgetxattr, flistxattr, seek};
use rustix::io::Errno;

use crate::delta::{Change, changes};
use crate::error::{Context, LayerError, Result};
use crate::mapped::Mapped;
use crate::message::{LARGEST, Message, PIECE, Xattrs};
use crate::open;
use crate::scan::{Form, Place};
use crate::tree::{Entry, Kind, Name, Tree};

/// The overlay's own, which the target's makes for itself.
const OVERLAYS_OWN: &[u8] = b"trusted.overlay.";

/// How much one sync sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files, directories, removals.
    pub changes: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Sends what is in some places, and what changes there.
#[derive(Debug)]
pub struct Outgoing {
    places: Vec<(Place, Option<Tree>)>,
    mapped: Mapped,
}

/// Takes messages.
type Put<'p> = &'p mut dyn FnMut(&[u8]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Outgoing {
    /// Of these places; the target has the same, in the same order.
    pub fn new(places: Vec<Place>) -> Self {
        Self { places: places.into_iter().map(|place| (place, None)).collect(), mapped: Mapped::default() }
    }

    /// Sends everything the first time, afterwards what changed since. `mapped` are the files that are mapped shared now;
    /// those that were so at an earlier sync count as well.
    pub fn sync(&mut self, mapped: &Mapped, put: Put<'_>) -> Result<Sent> {
        self.mapped.join(mapped);
        let (mut sent, mut buffer) = (Sent::default(), Vec::new());
        for (number, (place, last)) in self.places.iter_mut().enumerate() {
            let tree = place.scan()?;
            let unsure: BTreeSet<u64> = (self.mapped.below(&place.inside))
                .filter_map(|path| tree.entries.get(path.as_os_str().as_bytes()).map(|entry| entry.inode))
                .collect();
            let changes = changes(last.as_ref(), &tree, place.form == Form::Plain, &unsure);
            if !changes.is_empty() {
                let root = open::root(&place.path).context("open", place.path.as_os_str().as_bytes())?;
                let mut way = Way { root, tree: &tree, buffer: &mut buffer, put, sent: &mut sent };
                way.say(&Message::Place(number as u16))?;
                for change in &changes {
                    way.change(change)?;
                }
            }
            *last = Some(tree);
        }
        Message::End.write(&mut buffer);
        put(&buffer).map_err(LayerError::Send)?;
        Ok(sent)
    }
}

/// One place on its way.
struct Way<'a, 'p> {
    root: OwnedFd,
    tree: &'a Tree,
    buffer: &'a mut Vec<u8>,
    put: Put<'p>,
    sent: &'a mut Sent,
}

impl Way<'_, '_> {
    fn say(&mut self, message: &Message<'_>) -> Result<()> {
        message.write(self.buffer);
        if self.buffer.len() > LARGEST {
            return Err(LayerError::Message("would be too long: a file has too many extended attributes"));
        }
        (self.put)(self.buffer).map_err(LayerError::Send)
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        self.sent.changes += 1;
        match change {
            Change::Remove(name) => self.say(&Message::Remove(name.clone())),
            Change::Link { name, to } => self.say(&Message::Link { name: name.clone(), to: to.clone() }),
            Change::Put { name, empty } => {
                let Some(entry) = self.tree.entries.get(name) else { return Ok(()) };
                match self.one(name, entry, *empty) {
                    // It went, or became something else, since it was seen: the next sync says so.
                    Err(LayerError::Io { source, .. })
                        if [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::NXIO, Errno::STALE]
                            .iter()
                            .any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) =>
                    {
                        Ok(())
                    }
                    done => done,
                }
            }
        }
    }

    fn one(&mut self, name: &Name, entry: &Entry, empty: bool) -> Result<()> {
        let (name, meta) = (name.clone(), entry.meta);
        match &entry.kind {
            Kind::Gone => Ok(()),
            Kind::Symlink { target } => self.say(&Message::Symlink { name, meta, target: target.clone() }),
            Kind::Special { device } => self.say(&Message::Special { name, meta, device: *device }),
            Kind::Dir { .. } => {
                let dir = open::below(&self.root, &name, OFlags::RDONLY | OFlags::DIRECTORY).context("open", &name)?;
                let xattrs = xattrs(&dir).context("read the attributes of", &name)?;
                self.say(&Message::Dir { name, meta, xattrs, empty })
            }
            Kind::File { .. } => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOATIME;
                let file = open::below(&self.root, &name, flags).context("open", &name)?;
                let xattrs = xattrs(&file).context("read the attributes of", &name)?;
                let file = File::from(file);
                let now = file.metadata().context("look at", &name)?;
                if !now.is_file() {
                    return Err(io::Error::from(Errno::LOOP)).context("read", &name);
                }
                self.say(&Message::File { name: name.clone(), meta, xattrs, size: now.len() })?;
                let read = self.contents(file, now.len(), &name);
                // Whatever became of it, the target is told that there is no more.
                self.say(&Message::Done)?;
                read
            }
        }
    }

    /// All but the holes.
    fn contents(&mut self, mut file: File, size: u64, name: &[u8]) -> Result<()> {
        let mut piece = vec![0; PIECE.min(size as usize)];
        let mut at = 0;
        while at < size {
            let data = match seek(&file, Sparse::Data(at)) {
                // Only a hole is left.
                Err(Errno::NXIO) => break,
                data => data.context("find the data of", name)?,
            };
            let end = seek(&file, Sparse::Hole(data)).context("find the holes of", name)?.min(size);
            file.seek(SeekFrom::Start(data)).context("read", name)?;
            at = data;
            while at < end {
                let want = piece.len().min((end - at) as usize);
                let got = file.read(&mut piece[..want]).context("read", name)?;
                if got == 0 {
                    // It became shorter; the next sync says so.
                    return Ok(());
                }
                self.say(&Message::Piece { offset: at, bytes: &piece[..got] })?;
                self.sent.bytes += got as u64;
                at += got as u64;
            }
        }
        Ok(())
    }
}

fn xattrs(file: &OwnedFd) -> io::Result<Xattrs> {
    let mut names = vec![0; 4096];
    let listed = match flistxattr(file, &mut names[..]) {
        Err(Errno::RANGE) => {
            names.resize(64 << 10, 0);
            flistxattr(file, &mut names[..])?
        }
        // A file system without them.
        Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
        listed => listed?,
    };
    let mut all = Xattrs::new();
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OVERLAYS_OWN) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match fgetxattr(file, name, &mut value[..]) {
            Ok(n) => value.truncate(n),
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(error) => return Err(error.into()),
        }
        all.push((name.to_vec(), value));
    }
    Ok(all)
}
