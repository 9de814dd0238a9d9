//! One process under tracking.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::inject;
use crate::kind::{Kind, Kinds};
use crate::procfs::Vma;
use crate::range::{self, PageRange};
use crate::scan::Scanner;
use crate::span::spans;
use crate::sys;
use crate::tracker::{Attached, ProcessRound};

/// Its memory is a new one (execve(2)): what we hold belongs to the old.
#[derive(Debug)]
pub(crate) struct NewMemory;

/// Either all went well, or the process has to be attached anew.
pub(crate) type Outcome<T> = Result<std::result::Result<T, NewMemory>>;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) handle: Handle,
    pub(crate) uffd: OwnedFd,
    /// The mappings of the last round that reached the caller, neighbours joined.
    covered: Vec<PageRange>,
    /// Those of the round under way.
    seen: Vec<PageRange>,
    /// What the kernel would not register.
    pub(crate) refused: Vec<PageRange>,
    /// The kernel leaves marks of protection on pages that move (mremap(2)): see [`crate::probe::marks_move`].
    pub(crate) marks_move: bool,
    pub(crate) released: bool,
}

/// A look at a mapping.
#[derive(Clone, Copy)]
struct Look<'a> {
    vma: &'a Vma,
    /// What is registered with it.
    span: PageRange,
    /// Its pages may be a file's.
    file: bool,
    /// Everything counts as written.
    all: bool,
}

/// How a mapping was found.
enum Found {
    /// Registered, `appeared` of it since the last round.
    Tracked {
        pages: Vec<PageRange>,
        appeared: Vec<PageRange>,
    },
    /// Not registered, and need not be.
    Nothing,
    Refused(Vec<PageRange>),
}

impl Process {
    /// Visits the process, and registers what it has.
    pub(crate) fn attach(pid: i32, kinds: &mut Kinds, marks_move: bool) -> Result<(Self, Attached)> {
        let handle = Handle::open(pid)?;
        let visit = inject::userfaultfd_of(pid, handle.pidfd.as_fd()).map_err(|e| {
            // Whatever it failed with.
            if handle.has_ended() { Error::Ended { pid } } else { e }
        })?;
        sys::uffd_agree(visit.uffd.as_fd()).map_err(|e| Error::Unsupported {
            why: format!("the kernel has no asynchronous write protection, which Linux 6.7 brought ({e})"),
        })?;
        let (covered, seen, refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut process = Self { handle, uffd: visit.uffd, covered, seen, refused, marks_move, released: false };
        let began = Instant::now();
        let registered = process.register_all(kinds)?;
        let attached = Attached {
            pid,
            stopped: visit.stopped,
            registering: began.elapsed(),
            mappings: registered.len(),
            bytes: range::total_bytes(&registered),
        };
        registered.into_iter().for_each(|mapping| range::push(&mut process.covered, mapping));
        Ok((process, attached))
    }

    /// The round under way has reached the caller.
    pub(crate) fn delivered(&mut self) {
        self.covered = std::mem::take(&mut self.seen);
    }

    /// What was written since the last round; with `all`, everything that is populated.
    pub(crate) fn round(&mut self, scanner: &mut Scanner, kinds: &mut Kinds, all: bool) -> Outcome<ProcessRound> {
        let vmas = self.handle.maps()?;
        let pagemap = self.handle.pagemap()?;
        let mut round = ProcessRound { pid: self.handle.pid, ..ProcessRound::default() };
        let mut covered = Vec::new();
        let known: Vec<_> = vmas.iter().map(|vma| (vma.range, self.is_registered(vma, kinds))).collect();
        let spans = spans(known);
        for vma in &vmas {
            let kind = kinds.of(self.handle.pid, vma);
            if !kind.is_private() {
                continue;
            }
            range::push(&mut covered, vma.range);
            let span = spans.iter().find(|span| span.start <= vma.range.start && vma.range.end <= span.end);
            let look = Look { vma, span: *span.unwrap_or(&vma.range), file: kind != Kind::Anonymous, all };
            let found = match self.look_at(look, kind == Kind::QuietFile, &pagemap, scanner) {
                // The memory that the file is of is gone.
                Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Err(NewMemory),
                other => other?,
            };
            let (pages, appeared) = match found {
                Err(NewMemory) => return Ok(Err(NewMemory)),
                Ok(Found::Nothing) => continue,
                Ok(Found::Tracked { pages, appeared }) => (pages, appeared),
                Ok(Found::Refused(pages)) => {
                    range::push(&mut round.refused, vma.range);
                    (pages, Vec::new())
                }
            };
            pages.into_iter().for_each(|pages| range::push(&mut round.written, pages));
            appeared.into_iter().for_each(|range| range::push(&mut round.appeared, range));
        }
        self.handle.check_alive()?;
        round.vanished = range::subtract(&self.covered, &covered);
        self.seen = covered;
        self.refused.clone_from(&round.refused);
        Ok(Ok(round))
    }

    fn look_at(&self, look: Look<'_>, quiet: bool, pagemap: &File, scanner: &mut Scanner) -> Outcome<Found> {
        let Look { vma: &Vma { range, .. }, file, .. } = look;
        let Some(mut pages) = scanner.written(pagemap, range, file)? else {
            let nothing = quiet && scanner.populated(pagemap, range, file)?.is_empty();
            return if nothing { Ok(Ok(Found::Nothing)) } else { self.look_at_new(look, pagemap, scanner) };
        };
        // Parts that a span reached before a round did.
        let appeared = range::subtract(&[range], &self.covered);
        if self.marks_move {
            for part in &appeared {
                if sys::uffd_unprotect(self.uffd.as_fd(), *part).is_err() {
                    return self.look_at_new(look, pagemap, scanner);
                }
                scanner.written(pagemap, *part, file)?;
                pages = range::union(pages, scanner.populated(pagemap, *part, file)?);
            }
        }
        if look.all {
            pages = scanner.populated(pagemap, range, file)?;
        } else if file {
            // What was given back has to be copied as it is now: CRIU would list it.
            pages = range::union(pages, scanner.swapped(pagemap, range)?);
        }
        Ok(Ok(Found::Tracked { pages, appeared }))
    }

    /// Registers, and takes all its pages for written.
    fn look_at_new(&self, look: Look<'_>, pagemap: &File, scanner: &mut Scanner) -> Outcome<Found> {
        let Look { vma: &Vma { range, .. }, file, .. } = look;
        let registered = match self.register(look.span, range)? {
            Err(NewMemory) => return Ok(Err(NewMemory)),
            Ok(registered) => registered,
        };
        // Protect first, list then: what is written in between is in the list, what is written after is found by the
        // next round. The list is of all pages, whatever this scan says: another before it may have come half way.
        let protected = scanner.written(pagemap, range, file)?.is_some();
        if registered && !protected && self.is_all_there(look.vma)? {
            return Ok(Err(NewMemory));
        }
        let pages = scanner.populated(pagemap, range, file)?;
        let appeared = vec![range];
        Ok(Ok(if registered && protected { Found::Tracked { pages, appeared } } else { Found::Refused(pages) }))
    }

    /// Whether a mapping is still as it was when the list was read.
    fn is_all_there(&self, vma: &Vma) -> Result<bool> {
        Ok(self.handle.maps()?.iter().any(|now| now.range == vma.range))
    }

    /// Undoes everything.
    pub(crate) fn detach(mut self, kinds: &mut Kinds) -> Result<()> {
        match self.unregister(kinds) {
            Err(Error::Ended { .. }) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released {
            let _ = self.unregister(&mut Kinds::default());
        }
    }
}
