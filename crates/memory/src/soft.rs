//! One process under tracking by soft-dirty marks: for kernels that have these and no asynchronous write protection (before
//! Linux 6.7).
//!
//! ```text
//!   all threads stand still ─► read the marks ─► clear them (clear_refs, 4) ─► they go on
//! ```
//! Marks are read in one step and cleared in another, for the whole memory; a page that was written in between would be lost. So the
//! process stands still for both, some milliseconds a GiB in every round, where write protection costs nothing of the kind.
//! A mapping that is new is marked as a whole by the kernel, so nothing has to be registered, and nothing is left in the process
//! but cleared marks.
//!
//! The marks are not ours alone: whoever else clears them (another tracker, CRIU's own pre-dump) would hide writes from us. So a few
//! pages, drawn by chance, are marked by us after every clearing, the *witnesses*: if one's mark is gone at the next round,
//! everything counts as written. They are reported as written themselves.
//!
//! A huge page has one mark: a write to it counts for all its 512 pages.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::entries::{Sample, Which};
use crate::error::{Context, Error, Result};
use crate::handle::Handle;
use crate::kind::{Kind, Kinds};
use crate::procfs;
use crate::range::{self, PageRange};
use crate::scan::Scanner;
use crate::still::while_still;
use crate::tracker::{Attached, ProcessRound};

/// What clears the soft-dirty marks, written to /proc/PID/clear_refs.
const CLEAR_SOFT_DIRTY: &str = "4";
/// Two that clear each other's marks do not notice it only if what one has drawn the other has drawn too, or the process written.
const WITNESSES: usize = 4;

#[derive(Debug)]
pub(crate) struct SoftProcess {
    pub(crate) handle: Handle,
    /// The mappings of the last round that reached the caller, neighbours joined.
    covered: Vec<PageRange>,
    /// Those of the round under way.
    seen: Vec<PageRange>,
    /// Pages that have been marked since the marks were cleared last; none before the first round.
    witnesses: Vec<PageRange>,
}

/// What is found in a process that stands still.
struct Found {
    written: Vec<PageRange>,
    seen: Vec<PageRange>,
    witnesses: Vec<PageRange>,
}

impl SoftProcess {
    pub(crate) fn attach(pid: i32, kinds: &mut Kinds) -> Result<(Self, Attached)> {
        let handle = Handle::open(pid)?;
        let by = procfs::status(pid, "TracerPid")?;
        if by != 0 {
            return Err(Error::Traced { pid, by });
        }
        let began = Instant::now();
        let vmas = handle.maps()?;
        let tracked: Vec<_> = vmas.iter().filter(|vma| kinds.of(pid, vma).is_private()).map(|vma| vma.range).collect();
        let attached = Attached {
            pid,
            stopped: Duration::ZERO,
            registering: began.elapsed(),
            mappings: tracked.len(),
            bytes: range::total_bytes(&tracked),
        };
        let mut covered = Vec::new();
        tracked.into_iter().for_each(|range| range::push(&mut covered, range));
        Ok((Self { handle, covered, seen: Vec::new(), witnesses: Vec::new() }, attached))
    }

    /// The round under way has reached the caller.
    pub(crate) fn delivered(&mut self) {
        self.covered = std::mem::take(&mut self.seen);
    }

    /// Clears all marks; what is written from here on is found by the next round.
    pub(crate) fn clear(&mut self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<()> {
        self.witnesses.clear();
        let handle = &self.handle;
        let (found, _) = while_still(handle, || look(handle, scanner, kinds, &[]))?;
        self.witnesses = found?.witnesses;
        Ok(())
    }

    /// What was written since the last round; with `all`, everything that is populated. And how long it stood still
    /// for it: not at all if it is frozen.
    pub(crate) fn round(
        &mut self,
        scanner: &mut Scanner,
        kinds: &mut Kinds,
        all: bool,
        frozen: bool,
    ) -> Result<(ProcessRound, Duration)> {
        // Of a round that fails on its way the marks may be gone: the next one reports everything.
        let mut witnesses = std::mem::take(&mut self.witnesses);
        if all {
            witnesses.clear();
        }
        let handle = &self.handle;
        let (found, stood) = if frozen {
            (look(handle, scanner, kinds, &witnesses), Duration::ZERO)
        } else {
            while_still(handle, || look(handle, scanner, kinds, &witnesses))?
        };
        let Found { written, seen, witnesses } = found?;
        self.witnesses = witnesses;
        let round = ProcessRound {
            pid: self.handle.pid,
            written,
            appeared: range::subtract(&seen, &self.covered),
            vanished: range::subtract(&self.covered, &seen),
            refused: Vec::new(),
        };
        self.seen = seen;
        Ok((round, stood))
    }
}

/// Marked pages and private mappings, of a process that stands still; all pages if a witness has no mark any more. The marks
/// are cleared then.
fn look(handle: &Handle, scanner: &mut Scanner, kinds: &mut Kinds, witnesses: &[PageRange]) -> Result<Found> {
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    let pagemap = handle.pagemap()?;
    let vmas = handle.maps()?;
    let mut marks_are_ours = !witnesses.is_empty();
    for witness in witnesses {
        let marked = scanner.entries(&pagemap, *witness, false, Which::SoftDirty, &mut Sample::of(0))?;
        marks_are_ours &= marked == [*witness];
    }
    let which = if marks_are_ours { Which::SoftDirty } else { Which::Populated };
    let (mut sample, mut nobody) = (Sample::of(WITNESSES), Sample::of(0));
    for vma in &vmas {
        let kind = kinds.of(handle.pid, vma);
        if !kind.is_private() {
            continue;
        }
        let writable = kind == Kind::Anonymous && vma.readable && vma.writable;
        let sample = if writable { &mut sample } else { &mut nobody };
        let pages = scanner.entries(&pagemap, vma.range, kind != Kind::Anonymous, which, sample)?;
        pages.into_iter().for_each(|pages| range::push(&mut written, pages));
        range::push(&mut seen, vma.range);
    }
    let path = format!("/proc/{}/clear_refs", handle.pid);
    std::fs::write(&path, CLEAR_SOFT_DIRTY).context(|| format!("clear the soft-dirty marks ({path})"))?;
    mark(handle, &sample.pages)?;
    handle.check_alive().map(|()| Found { written, seen, witnesses: sample.pages })
}

/// Marks pages: a byte of each is written that it has already. Nobody else writes, for all stand still.
fn mark(handle: &Handle, pages: &[PageRange]) -> Result<()> {
    let what = || format!("mark pages of process {}", handle.pid);
    let path = format!("/proc/{}/mem", handle.pid);
    let memory = std::fs::OpenOptions::new().read(true).write(true).open(path).context(what)?;
    for page in pages {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, page.start).context(what)?;
        memory.write_all_at(&byte, page.start).context(what)?;
    }
    Ok(())
}
