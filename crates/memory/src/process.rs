//! One process under tracking.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::error::{Context, Error, Result};
use crate::inject;
use crate::kind::{Kind, Kinds, UntrackedKind};
use crate::procfs::{self, Vma};
use crate::range::{self, PageRange};
use crate::scan::Scanner;
use crate::sys;
use crate::tracker::{Attached, ProcessRound, Untracked};

/// Its memory is a new one (execve(2)): what we hold belongs to the old.
pub(crate) struct NewMemory;

/// Either all went well, or the process has to be attached anew.
type Outcome<T> = Result<std::result::Result<T, NewMemory>>;

#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    pidfd: OwnedFd,
    uffd: OwnedFd,
    /// The mappings of the last round that reached the caller, neighbours joined.
    covered: Vec<PageRange>,
    /// Those of the round under way.
    seen: Vec<PageRange>,
    refused: Vec<PageRange>,
    released: bool,
}

/// How a mapping was found.
enum Found {
    Tracked(Vec<PageRange>),
    /// Registered just now.
    New(Vec<PageRange>),
    /// Not registered, and need not be.
    Nothing,
    Refused(Vec<PageRange>),
}

impl Process {
    /// Visits the process, and registers what it has.
    pub(crate) fn attach(pid: i32, kinds: &mut Kinds) -> Result<(Self, Attached)> {
        let pidfd = open(pid)?;
        let visit = inject::userfaultfd_of(pid, pidfd.as_fd()).map_err(|e| {
            // Whatever it failed with.
            if sys::has_ended(pidfd.as_fd()) { Error::Ended { pid } } else { e }
        })?;
        sys::uffd_agree(visit.uffd.as_fd()).map_err(|e| Error::Unsupported {
            why: format!("the kernel has no asynchronous write protection, which Linux 6.7 brought ({e})"),
        })?;
        let (covered, seen, refused) = (Vec::new(), Vec::new(), Vec::new());
        let process = Self { pid, pidfd, uffd: visit.uffd, covered, seen, refused, released: false };
        let vmas = process.maps()?;
        let began = Instant::now();
        let mut registered = Vec::new();
        for vma in vmas.iter().filter(|vma| matches!(kinds.of(pid, vma), Kind::Anonymous | Kind::File)) {
            match sys::uffd_register(process.uffd.as_fd(), vma.range) {
                Ok(()) => registered.push(vma.range),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Err(Error::OwnUserfaultfd { pid }),
                // The first round looks again, and says what it is.
                Err(_) => {}
            }
        }
        let attached = Attached {
            pid,
            stopped: visit.stopped,
            registering: began.elapsed(),
            mappings: registered.len(),
            bytes: range::total_bytes(&registered),
        };
        Ok((process, attached))
    }

    pub(crate) fn has_ended(&self) -> bool {
        sys::has_ended(self.pidfd.as_fd())
    }

    /// The round under way has reached the caller.
    pub(crate) fn delivered(&mut self) {
        self.covered = std::mem::take(&mut self.seen);
    }

    /// What was written since the last round; with `all`, everything that is populated.
    pub(crate) fn round(&mut self, scanner: &mut Scanner, kinds: &mut Kinds, all: bool) -> Outcome<ProcessRound> {
        let vmas = self.maps()?;
        let pagemap = procfs::open(self.pid, "pagemap")?;
        // What was opened is this process's, not that of another with its number.
        self.check_alive()?;
        let mut round = ProcessRound { pid: self.pid, ..ProcessRound::default() };
        let mut covered = Vec::new();
        for vma in &vmas {
            let kind = kinds.of(self.pid, vma);
            if !matches!(kind, Kind::Anonymous | Kind::File | Kind::QuietFile) {
                continue;
            }
            range::push(&mut covered, vma.range);
            let found = match self.look_at(vma, kind, &pagemap, scanner, all) {
                // The memory that the file is of is gone.
                Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Err(NewMemory),
                other => other?,
            };
            let pages = match found {
                Err(NewMemory) => return Ok(Err(NewMemory)),
                Ok(Found::Nothing) => continue,
                Ok(Found::Tracked(pages)) => pages,
                Ok(Found::New(pages)) => {
                    range::push(&mut round.appeared, vma.range);
                    pages
                }
                Ok(Found::Refused(pages)) => {
                    range::push(&mut round.refused, vma.range);
                    pages
                }
            };
            pages.into_iter().for_each(|pages| range::push(&mut round.written, pages));
        }
        self.check_alive()?;
        round.vanished = range::subtract(&self.covered, &covered);
        self.seen = covered;
        self.refused.clone_from(&round.refused);
        Ok(Ok(round))
    }

    fn look_at(&self, vma: &Vma, kind: Kind, pagemap: &File, scanner: &mut Scanner, all: bool) -> Outcome<Found> {
        let file = kind != Kind::Anonymous;
        match scanner.written(pagemap, vma.range, file)? {
            Some(pages) if !all => {
                // What was given back has to be copied as it is now: CRIU would list it.
                let given_back = if file { scanner.swapped(pagemap, vma.range)? } else { Vec::new() };
                return Ok(Ok(Found::Tracked(range::union(pages, given_back))));
            }
            Some(_) => return scanner.populated(pagemap, vma.range, file).map(|pages| Ok(Found::Tracked(pages))),
            None => {}
        }
        if kind == Kind::QuietFile && scanner.populated(pagemap, vma.range, file)?.is_empty() {
            return Ok(Ok(Found::Nothing));
        }
        let registered = match self.register(vma.range)? {
            Err(NewMemory) => return Ok(Err(NewMemory)),
            Ok(registered) => registered,
        };
        // Protect first, list then: what is written in between is in the list, what is written after is found by the
        // next round. The list is of all pages, whatever this scan says: it may have begun with marks that a mapping
        // carried along when it moved (mremap(2) before Linux 6.13).
        let protected = scanner.written(pagemap, vma.range, file)?.is_some();
        if registered && !protected && self.is_all_there(vma)? {
            return Ok(Err(NewMemory));
        }
        let pages = scanner.populated(pagemap, vma.range, file)?;
        Ok(Ok(if registered && protected { Found::New(pages) } else { Found::Refused(pages) }))
    }

    /// Whether the kernel took it.
    fn register(&self, of: PageRange) -> Outcome<bool> {
        let uffd = self.uffd.as_fd();
        match sys::uffd_register(uffd, of).and_then(|()| sys::uffd_unprotect(uffd, of)) {
            Ok(()) => Ok(Ok(true)),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(Error::OwnUserfaultfd { pid: self.pid }),
            Err(_) => {
                // It must not stay half done: unregistered is what the next round recognises.
                let undone = sys::uffd_unregister(uffd, of);
                let no_memory = [libc::ENOMEM, libc::ESRCH];
                let gone = |e: io::Error| no_memory.contains(&e.raw_os_error().unwrap_or(0));
                let gone = undone.is_err_and(gone) && sys::uffd_unprotect(uffd, of).is_err_and(gone);
                Ok(if gone { Err(NewMemory) } else { Ok(false) })
            }
        }
    }

    /// Whether a mapping is still as it was when the list was read.
    fn is_all_there(&self, vma: &Vma) -> Result<bool> {
        Ok(self.maps()?.iter().any(|now| now.range == vma.range))
    }

    /// All pages that a dump would have to take from private mappings now; nothing is protected.
    pub(crate) fn populated(&self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<Vec<PageRange>> {
        let mut all = Vec::new();
        let pagemap = procfs::open(self.pid, "pagemap")?;
        for vma in self.maps()? {
            let kind = kinds.of(self.pid, &vma);
            if matches!(kind, Kind::Anonymous | Kind::File | Kind::QuietFile) {
                let pages = scanner.populated(&pagemap, vma.range, kind != Kind::Anonymous)?;
                pages.into_iter().for_each(|pages| range::push(&mut all, pages));
            }
        }
        self.check_alive().map(|()| all)
    }

    /// What is not tracked of it.
    pub(crate) fn untracked(&self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<Vec<Untracked>> {
        let mut found = Vec::new();
        let pagemap = procfs::open(self.pid, "pagemap")?;
        for vma in self.maps()? {
            let kind = match kinds.of(self.pid, &vma) {
                Kind::Untracked(kind) => kind,
                _ if self.refused.iter().any(|r| r.start <= vma.range.start && vma.range.end <= r.end) => {
                    UntrackedKind::Refused
                }
                _ => continue,
            };
            let populated = range::total_bytes(&scanner.populated(&pagemap, vma.range, false)?);
            found.push(Untracked {
                pid: self.pid,
                kind,
                range: vma.range,
                populated,
                file: vma.file.map(|(major, minor, inode)| (u64::from(major) << 32 | u64::from(minor), inode)),
                name: vma.name,
            });
        }
        self.check_alive().map(|()| found)
    }

    /// Takes the protection away from everything. The descriptor is closed by the drop that follows.
    fn unregister(&mut self) -> Result<()> {
        self.released = true;
        for vma in self.maps()? {
            // Those that never were registered say EINVAL.
            let _ = sys::uffd_unregister(self.uffd.as_fd(), vma.range);
        }
        Ok(())
    }

    fn maps(&self) -> Result<Vec<Vma>> {
        let vmas = procfs::maps(self.pid)?;
        self.check_alive()?;
        if vmas.is_empty() {
            procfs::running_threads(self.pid)?;
            return Err(Error::Ended { pid: self.pid });
        }
        Ok(vmas)
    }

    fn check_alive(&self) -> Result<()> {
        if self.has_ended() { Err(Error::Ended { pid: self.pid }) } else { Ok(()) }
    }

    /// Undoes everything.
    pub(crate) fn detach(mut self) -> Result<()> {
        match self.unregister() {
            Err(Error::Ended { .. }) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The kernel does it too when the descriptor is closed, but a copy of that may be in a child of ours that is
        // just about to exec.
        if !self.released {
            let _ = self.unregister();
        }
    }
}

/// A descriptor of the process.
pub(crate) fn open(pid: i32) -> Result<OwnedFd> {
    match sys::pidfd_open(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(Error::Ended { pid }),
        other => other.context(|| format!("open process {pid}")),
    }
}

/// Shares a process's memory, as a vfork(2) child does until it execs.
#[derive(Debug)]
pub(crate) struct Guest {
    pub pidfd: OwnedFd,
    pub host: i32,
}

impl Guest {
    /// A guest of one of `hosts`, if it is one.
    pub(crate) fn of(pid: i32, mut hosts: impl Iterator<Item = i32>) -> Result<Option<Self>> {
        let Some(host) = hosts.find(|host| sys::same_memory(pid, *host)) else { return Ok(None) };
        let pidfd = open(pid)?;
        Ok(Some(Self { pidfd, host }))
    }

    pub(crate) fn still_is(&self, pid: i32) -> bool {
        !sys::has_ended(self.pidfd.as_fd()) && sys::same_memory(pid, self.host)
    }
}
