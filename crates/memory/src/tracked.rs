//! A process under tracking, by one method or the other.

use std::time::Duration;

use crate::error::Result;
use crate::handle::Handle;
use crate::kind::Kinds;
use crate::piece::Piece;
use crate::probe::Method;
use crate::process::{Outcome, Process};
use crate::range::PageRange;
use crate::scan::Scanner;
use crate::soft::SoftProcess;
use crate::tracker::{Attached, ProcessRound, Untracked};

#[derive(Debug)]
pub(crate) enum Tracked {
    Protected(Process),
    Marked(SoftProcess),
}

impl Tracked {
    pub(crate) fn attach(pid: i32, method: Method, kinds: &mut Kinds, marks_move: bool) -> Result<(Self, Attached)> {
        Ok(match method {
            Method::WriteProtection => {
                let (process, attached) = Process::attach(pid, kinds, marks_move)?;
                (Self::Protected(process), attached)
            }
            Method::SoftDirty => {
                let (process, attached) = SoftProcess::attach(pid, kinds)?;
                (Self::Marked(process), attached)
            }
        })
    }

    fn handle(&self) -> &Handle {
        match self {
            Self::Protected(process) => &process.handle,
            Self::Marked(process) => &process.handle,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.handle().has_ended()
    }

    pub(crate) fn delivered(&mut self) {
        match self {
            Self::Protected(process) => process.delivered(),
            Self::Marked(process) => process.delivered(),
        }
    }

    /// What was written since the last round (with `all`, all that is populated), and how long it stood still for it.
    /// `frozen`: it does not run anyhow.
    pub(crate) fn round(
        &mut self,
        scanner: &mut Scanner,
        kinds: &mut Kinds,
        all: bool,
        frozen: bool,
    ) -> Outcome<(ProcessRound, Duration)> {
        match self {
            Self::Protected(process) => {
                process.round(scanner, kinds, all).map(|found| found.map(|round| (round, Duration::ZERO)))
            }
            Self::Marked(process) => process.round(scanner, kinds, all, frozen).map(Ok),
        }
    }

    /// All that is populated, in pieces. Soft-dirty marks are cleared once for all of them, before.
    pub(crate) fn pieces(&mut self, scanner: &mut Scanner, kinds: &mut Kinds, most: u64) -> Result<Vec<Piece>> {
        if let Self::Marked(process) = self {
            process.clear(scanner, kinds)?;
        }
        self.handle().pieces(scanner, kinds, most)
    }

    /// The pages of a piece; what is written to them from here on is found by the next round.
    pub(crate) fn take(&self, scanner: &mut Scanner, piece: &Piece) -> Result<Vec<PageRange>> {
        match self {
            Self::Protected(process) => process.take(scanner, piece),
            Self::Marked(process) => process.handle.pages_of(scanner, piece),
        }
    }

    pub(crate) fn populated(&self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<Vec<PageRange>> {
        self.handle().populated(scanner, kinds)
    }

    pub(crate) fn untracked(&self, scanner: &mut Scanner, kinds: &mut Kinds) -> Result<Vec<Untracked>> {
        self.handle().untracked(scanner, kinds, |range| match self {
            Self::Protected(process) => process.refuses(range),
            Self::Marked(_) => false,
        })
    }

    pub(crate) fn detach(self, kinds: &mut Kinds) -> Result<()> {
        match self {
            Self::Protected(process) => process.detach(kinds),
            // Marks that are cleared tell nobody anything.
            Self::Marked(_) => Ok(()),
        }
    }
}
