//! What a handler that is a process of its own is given, as numbers in a file without a name, and descriptors.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Server;
use crate::apart::{Apart, decoded, encoded};
use crate::arena::Arena;
use crate::extents::{Extents, Kind};
use crate::guard::pidfd_open;
use crate::handler::{FillOptions, Phase, Shared};
use crate::pending::{Pending, Piece};
use crate::store::PageStore;
use crate::task::Task;
use crate::uffd::Uffd;

/// In the file, for a page that is zero: its slot would be one less than the number.
const ZERO: u64 = 0;

impl Server {
    /// All that another process needs to go on from here over the processes `host_pids`; the descriptors are still this one's,
    /// but for the file, which is the first.
    pub(super) fn to_hand_over(&self, host_pids: &[i32]) -> io::Result<(File, Vec<RawFd>)> {
        let (mut words, mut descriptors) = (Vec::new(), Vec::new());
        let dir = self.dir.as_os_str().as_bytes();
        list(&mut words, dir.iter().map(|byte| [u64::from(*byte)]));
        list(&mut words, host_pids.iter().map(|pid| [*pid as u64]));
        words.extend([self.next_id, self.shared.fill.load(Ordering::SeqCst).into(), self.criu.is_some().into()]);
        descriptors.extend(self.criu.as_ref().map(AsRawFd::as_raw_fd));
        list(&mut words, encoded(&self.shared.state().stats).iter().map(|byte| [u64::from(*byte)]));
        let pids = self.store.pids();
        words.push(pids.len() as u64);
        for pid in pids {
            self.store.shared(pid, |extents, bytes| {
                words.extend([pid as u64, bytes.is_some().into()]);
                descriptors.extend(bytes);
                let kind = |kind| if let Kind::Stored(slot) = kind { slot + 1 } else { ZERO };
                list(
                    &mut words,
                    extents.iter().map(|extent| [extent.pages.start, extent.pages.end, kind(extent.kind)]),
                );
            });
        }
        words.push(self.tasks.len() as u64);
        for task in &self.tasks {
            descriptors.push(task.uffd.as_fd().as_raw_fd());
            words.extend([task.id, task.pid as u64, task.runs.into()]);
            list(&mut words, task.hot().map(|range| [range.start, range.end]));
            list(&mut words, task.pending.all().map(|piece| [piece.at.start, piece.at.end, piece.origin]));
        }
        let mut file = File::from(memfd_create(c"godwit-handover", MFdFlags::MFD_CLOEXEC)?);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        file.write_all(&bytes)?;
        descriptors.insert(0, file.as_raw_fd());
        Ok((file, descriptors))
    }

    /// The same in the process that goes on. `owner` leads to the one that has handed over.
    pub(super) fn handed_over(owner: OwnedFd, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let mut words = Words::read(File::from(next()?))?;
        let dir: Vec<u8> = words.list(|[byte]| byte as u8)?;
        let processes = words.list(|[pid]| pid as i32)?.into_iter().map(pidfd_open).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared::new(Phase::Restoring)?);
        let next_id = words.next()?;
        shared.fill.store(words.next()? != 0, Ordering::SeqCst);
        let criu = if words.next()? != 0 { Some(UnixStream::from(next()?)) } else { None };
        shared.state().stats = decoded(&words.list(|[byte]| byte as u8)?);
        let store = Arc::new(PageStore::new());
        for _ in 0..words.next()? {
            let pid = words.next()? as i32;
            let arena = if words.next()? != 0 { Arena::received(File::from(next()?))? } else { Arena::default() };
            let mut extents = Extents::default();
            for (pages, kind) in words.list(|[start, end, kind]| (start..end, kind))? {
                extents.insert(pages, if kind == ZERO { Kind::Zero } else { Kind::Stored(kind - 1) });
            }
            store.receive(pid, extents, arena);
        }
        let mut tasks = Vec::new();
        for _ in 0..words.next()? {
            let uffd = Uffd::from(next()?);
            let (id, pid, runs) = (words.next()?, words.next()? as i32, words.next()? != 0);
            let hot = words.list(|[start, end]| start..end)?.into();
            let pending = Pending::of(words.list(|[start, end, origin]| Piece { at: start..end, origin })?);
            let mut task = Task::new(id, pid, uffd, pending, hot, false);
            task.runs = runs;
            tasks.push(task);
        }
        let apart = Apart::new(owner, processes)?;
        apart.flags.fill.store(shared.fill.load(Ordering::SeqCst), Ordering::SeqCst);
        let server = Self::new(OsString::from_vec(dir).into(), None, store, FillOptions::default(), shared);
        Ok(Self { criu, tasks, next_id, apart: Some(apart), ..server })
    }
}

/// How many, and then each.
fn list<const N: usize>(words: &mut Vec<u64>, items: impl Iterator<Item = [u64; N]>) {
    let at = words.len();
    words.push(0);
    words.extend(items.flatten());
    words[at] = ((words.len() - at - 1) / N) as u64;
}

struct Words(std::vec::IntoIter<u64>);

impl Words {
    fn read(mut file: File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok(Self(bytes.chunks_exact(8).map(word).collect::<Vec<_>>().into_iter()))
    }

    fn next(&mut self) -> io::Result<u64> {
        self.0.next().ok_or_else(|| io::Error::other("something is missing"))
    }

    fn list<const N: usize, T>(&mut self, item: impl Fn([u64; N]) -> T) -> io::Result<Vec<T>> {
        let count = self.next()?;
        let mut items = Vec::new();
        for _ in 0..count {
            let mut words = [0; N];
            for word in &mut words {
                *word = self.next()?;
            }
            items.push(item(words));
        }
        Ok(items)
    }
}
