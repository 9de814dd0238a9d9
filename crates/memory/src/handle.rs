//! A process that is looked at, whatever tracks it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use crate::error::{Error, Result};
use crate::guest::open;
use crate::kind::{Kind, Kinds, UntrackedKind};
use crate::procfs::{self, Vma};
use crate::range::{self, PageRange};
use crate::scan::Scanner;
use crate::sys;
use crate::tracker::Untracked;

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

impl Handle {
    pub(crate) fn open(pid: i32) -> Result<Self> {
        Ok(Self { pid, pidfd: open(pid)? })
    }

    pub(crate) fn has_ended(&self) -> bool {
        sys::has_ended(self.pidfd.as_fd())
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.has_ended() { Err(Error::Ended { pid: self.pid }) } else { Ok(()) }
    }

    /// Its mappings; of a process that is there and no zombie.
    pub(crate) fn maps(&self) -> Result<Vec<Vma>> {
        let vmas = procfs::maps(self.pid)?;
        self.check_alive()?;
        if vmas.is_empty() {
            procfs::running_threads(self.pid)?;
            return Err(Error::Ended { pid: self.pid });
        }
        Ok(vmas)
    }

    /// Its pagemap: this process's, not that of another with its number.
    pub(crate) fn pagemap(&self) -> Result<File> {
        let pagemap = procfs::open(self.pid, "pagemap")?;
        self.check_alive().map(|()| pagemap)
    }

    /// All pages that a dump would have to take from private mappings now; nothing is protected.
    pub(crate) fn populated(&self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<Vec<PageRange>> {
        let mut all = Vec::new();
        let pagemap = self.pagemap()?;
        for vma in self.maps()? {
            let kind = kinds.of(self.pid, &vma);
            if kind.is_private() {
                let pages = scanner.populated(&pagemap, vma.range, kind != Kind::Anonymous)?;
                pages.into_iter().for_each(|pages| range::push(&mut all, pages));
            }
        }
        self.check_alive().map(|()| all)
    }

    /// What is not tracked of it; `refused` says so of a private mapping.
    pub(crate) fn untracked(
        &self,
        scanner: &mut Scanner,
        kinds: &mut Kinds,
        refused: impl Fn(PageRange) -> bool,
    ) -> Result<Vec<Untracked>> {
        let mut found = Vec::new();
        let pagemap = self.pagemap()?;
        for vma in self.maps()? {
            let kind = match kinds.of(self.pid, &vma) {
                Kind::Untracked(kind) => kind,
                _ if refused(vma.range) => UntrackedKind::Refused,
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
}
