//! Which of a process's mappings are registered, and how.

use std::io;
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::kind::{Kind, Kinds};
use crate::process::{NewMemory, Outcome, Process};
use crate::procfs::Vma;
use crate::range::PageRange;
use crate::span::spans;
use crate::sys;

impl Process {
    /// Registers everything that is there, but for what is quiet; the mappings that are registered then.
    pub(crate) fn register_all(&mut self, kinds: &mut Kinds) -> Result<Vec<PageRange>> {
        let mut registered = Vec::new();
        // In the second turn without what was refused in the first.
        for _ in 0..2 {
            let vmas = self.handle.maps()?;
            let known: Vec<_> = vmas.iter().map(|vma| (vma.range, self.is_registered(vma, kinds))).collect();
            registered.clear();
            let refused = self.refused.len();
            for span in spans(known.iter().copied()) {
                let whole = sys::uffd_register(self.uffd.as_fd(), span);
                let inside =
                    known.iter().filter(|(range, of)| *of && span.start <= range.start && range.end <= span.end);
                for (range, _) in inside {
                    let one = if whole.is_ok() { Ok(()) } else { sys::uffd_register(self.uffd.as_fd(), *range) };
                    match one {
                        Ok(()) => registered.push(*range),
                        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                            return Err(Error::OwnUserfaultfd { pid: self.handle.pid });
                        }
                        Err(_) => self.refused.push(*range),
                    }
                }
            }
            if self.refused.len() == refused {
                break;
            }
        }
        if self.marks_move {
            // Of an earlier tracker. One that is gone meanwhile is none of ours any more.
            registered.iter().for_each(|range| drop(sys::uffd_unprotect(self.uffd.as_fd(), *range)));
        }
        Ok(registered)
    }

    /// Whether a mapping is one that is always registered.
    pub(crate) fn is_registered(&self, vma: &Vma, kinds: &mut Kinds) -> bool {
        matches!(kinds.of(self.handle.pid, vma), Kind::Anonymous | Kind::File) && !self.refuses(vma.range)
    }

    pub(crate) fn refuses(&self, range: PageRange) -> bool {
        self.refused.iter().any(|refused| refused.start <= range.start && range.end <= refused.end)
    }

    /// Whether the kernel took it: the whole span, or else the mapping alone.
    pub(crate) fn register(&self, span: PageRange, mapping: PageRange) -> Outcome<bool> {
        let uffd = self.uffd.as_fd();
        let busy = |e: &io::Error| e.raw_os_error() == Some(libc::EBUSY);
        let registered = sys::uffd_register(uffd, span)
            .or_else(|e| if busy(&e) { Err(e) } else { sys::uffd_register(uffd, mapping) })
            .and_then(|()| if self.marks_move { sys::uffd_unprotect(uffd, mapping) } else { Ok(()) });
        match registered {
            Ok(()) => Ok(Ok(true)),
            Err(e) if busy(&e) => Err(Error::OwnUserfaultfd { pid: self.handle.pid }),
            Err(_) => {
                // It must not stay half done: unregistered is what the next round recognises.
                let undone = sys::uffd_unregister(uffd, mapping);
                let no_memory = [libc::ENOMEM, libc::ESRCH];
                let gone = |e: io::Error| no_memory.contains(&e.raw_os_error().unwrap_or(0));
                let gone = undone.is_err_and(gone) && sys::uffd_unprotect(uffd, mapping).is_err_and(gone);
                Ok(if gone { Err(NewMemory) } else { Ok(false) })
            }
        }
    }

    /// Takes the protection away from everything. The descriptor is closed by the drop that follows, which does it too;
    /// but a copy of that may be in a child of ours that is just about to exec.
    pub(crate) fn unregister(&mut self, kinds: &mut Kinds) -> Result<()> {
        self.released = true;
        let vmas = self.handle.maps()?;
        let known: Vec<_> = vmas.iter().map(|vma| (vma.range, self.is_registered(vma, kinds))).collect();
        for span in spans(known.iter().copied()) {
            let whole = sys::uffd_unregister(self.uffd.as_fd(), span);
            // Something came meanwhile that was not registered.
            let inside =
                known.iter().filter(|(range, _)| whole.is_err() && span.start <= range.start && range.end <= span.end);
            inside.for_each(|(range, _)| drop(sys::uffd_unregister(self.uffd.as_fd(), *range)));
        }
        // Quiet ones may be registered. If they are not, this fails.
        let others = known.iter().filter(|(_, registered)| !registered);
        others.for_each(|(range, _)| drop(sys::uffd_unregister(self.uffd.as_fd(), *range)));
        Ok(())
    }
}
