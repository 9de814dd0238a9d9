//! One restored process: its faults, its events, and what it still lacks.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use crate::PAGE;
use crate::pending::{Pending, Piece};
use crate::store::{PageStore, Run};
use crate::uffd::{Event, Filled, Uffd};

/// Filled around a fault, an aligned block: its neighbours are likely to be touched next.
const AROUND: u64 = 16 * PAGE;
/// Filled between two looks for faults: what a fault may have to wait for.
const CHUNK: u64 = 64 * PAGE;

/// What has become of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes were filled.
    Filled(u64),
    /// The store does not have what is next.
    Absent,
    /// There is nothing to be filled from the store.
    Idle,
    /// Its events have to be read first.
    Events,
    /// The process is gone.
    Gone,
}

/// What an event has led to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub faults: u64,
    pub filled: u64,
    pub children: Vec<Task>,
    pub gone: bool,
    /// A page that should be there and is not: the process that touches it is ended.
    pub poisoned: Option<u64>,
    /// Pages that have to be fetched, by the addresses of the images.
    pub wanted: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Task {
    /// One of this handler's own.
    pub id: u64,
    /// In the images, and so in the store.
    pub pid: i32,
    pub uffd: Uffd,
    pub pending: Pending,
    /// To fill first.
    hot: VecDeque<Range<u64>>,
    /// Where to fill next.
    cursor: u64,
    /// It may have changed its mappings.
    pub runs: bool,
    /// The process has ended.
    pub gone: bool,
    /// What the store does not have is fetched, not missing; only `hot` is filled from the store then.
    fetches: bool,
}

impl Task {
    pub(crate) fn new(
        id: u64,
        pid: i32,
        uffd: Uffd,
        pending: Pending,
        hot: VecDeque<Range<u64>>,
        fetches: bool,
    ) -> Self {
        Self { id, pid, uffd, pending, hot, cursor: 0, runs: false, gone: false, fetches }
    }

    /// Whether [`Task::fill_some`] may find something.
    pub(crate) fn is_busy(&self) -> bool {
        !self.pending.is_empty() && (!self.fetches || !self.hot.is_empty())
    }

    /// What is to be filled first.
    pub(crate) fn hot(&self) -> impl Iterator<Item = &Range<u64>> {
        self.hot.iter()
    }

    /// Follows what the process has done, and answers its faults.
    pub(crate) fn on_events(&mut self, events: Vec<Event>, store: &PageStore) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        for event in events {
            match event {
                Event::Fault(addr) => self.on_fault(addr, store, &mut outcome)?,
                Event::Fork(uffd) => {
                    let (pending, hot) = (self.pending.clone(), self.hot.clone());
                    outcome.children.push(Self {
                        id: self.id,
                        pid: self.pid,
                        uffd,
                        pending,
                        hot,
                        cursor: self.cursor,
                        runs: true,
                        gone: false,
                        fetches: self.fetches,
                    });
                }
                Event::Remap { from, to, len } => {
                    self.pending.moved(from, to, len);
                    if self.fetches {
                        self.hot.push_back(to..to.saturating_add(len));
                    }
                }
                Event::Gone { start, end } => self.pending.remove(start..end),
            }
        }
        Ok(outcome)
    }

    fn on_fault(&mut self, addr: u64, store: &PageStore, outcome: &mut Outcome) -> io::Result<()> {
        outcome.faults += 1;
        let filled = match self.pending.piece(addr, PAGE) {
            // Nothing was there when it was dumped, or it was dropped since.
            None => self.uffd.zero(addr, PAGE)?,
            Some(piece) => match self.put(&piece, store)? {
                Some(filled) => filled,
                None if self.fetches => {
                    outcome.wanted.push(piece.origin);
                    return Ok(());
                }
                None => {
                    outcome.poisoned = Some(addr);
                    self.pending.remove(piece.at);
                    self.uffd.poison(addr)?
                }
            },
        };
        match filled {
            Filled::Bytes(len) => outcome.filled += len,
            // By a fault of another thread.
            Filled::There => self.uffd.wake(addr),
            // The fault is tried again by the kernel, or nobody waits any more.
            Filled::Changing | Filled::NotMapped => self.uffd.wake(addr),
            Filled::Gone => outcome.gone = true,
        }
        self.cursor = addr / AROUND * AROUND;
        if let Step::Filled(len) = self.fill(AROUND, store)? {
            outcome.filled += len;
        }
        Ok(())
    }

    /// Fills the next piece of what is missing.
    pub(crate) fn fill_some(&mut self, store: &PageStore) -> io::Result<Step> {
        while let Some(hot) = self.hot.front_mut() {
            let piece = self.pending.next_from(hot.start, CHUNK).filter(|p| hot.contains(&p.at.start));
            let Some(piece) = piece else {
                self.hot.pop_front();
                continue;
            };
            self.cursor = piece.at.start;
            let step = self.fill(piece.at.end - piece.at.start, store)?;
            if let Some(hot) = self.hot.front_mut() {
                hot.start = self.cursor;
            }
            if step != Step::Absent || !self.fetches {
                return Ok(step);
            }
        }
        if self.fetches { Ok(Step::Idle) } else { self.fill(CHUNK, store) }
    }

    /// Puts what has come of a range of the images in its place, wherever that is now.
    pub(crate) fn arrived(&mut self, range: &Range<u64>, store: &PageStore) -> io::Result<Step> {
        let mut filled = 0;
        for piece in self.pending.pieces_of(range) {
            self.cursor = piece.at.start;
            let end = piece.at.end;
            while self.cursor < end && self.pending.piece(self.cursor, end - self.cursor).is_some() {
                match self.fill(end - self.cursor, store)? {
                    Step::Filled(len) => filled += len,
                    // Forgotten, for it has been put in its place before: it is not missing.
                    step => return Ok(step),
                }
            }
        }
        Ok(Step::Filled(filled))
    }

    /// Fills at most `most` bytes in a row from the cursor on.
    fn fill(&mut self, most: u64, store: &PageStore) -> io::Result<Step> {
        let Some(mut piece) = self.pending.next_from(self.cursor, most) else { return Ok(Step::Filled(0)) };
        loop {
            let Some(filled) = self.put(&piece, store)? else {
                let absent = store.absent(self.pid, piece.origin, piece.at.end - piece.at.start);
                self.cursor = piece.at.start + absent.max(PAGE);
                return Ok(Step::Absent);
            };
            let len = match filled {
                Filled::Bytes(len) => len,
                Filled::There => {
                    self.pending.remove(piece.at.start..piece.at.start + PAGE);
                    PAGE
                }
                // Too long for the mapping, or no mapping any more.
                Filled::NotMapped if piece.at.end - piece.at.start > PAGE => {
                    let half = (piece.at.end - piece.at.start) / PAGE / 2 * PAGE;
                    piece.at.end = piece.at.start + half;
                    continue;
                }
                // A process that has not run yet has unmapped nothing.
                Filled::NotMapped if !self.runs => {
                    let at = piece.at.start;
                    return Err(io::Error::other(format!("page {at:#x} was not registered for lazy filling")));
                }
                Filled::NotMapped => {
                    self.pending.remove(piece.at.clone());
                    PAGE
                }
                Filled::Changing => return Ok(Step::Events),
                Filled::Gone => return Ok(Step::Gone),
            };
            self.cursor = piece.at.start + len;
            return Ok(Step::Filled(len));
        }
    }

    /// Puts a piece, or its beginning, in its place; none if the store does not have its first page.
    fn put(&mut self, piece: &Piece, store: &PageStore) -> io::Result<Option<Filled>> {
        let (addr, most) = (piece.at.start, piece.at.end - piece.at.start);
        let filled = store.with_run(self.pid, piece.origin, most, |run| match run {
            Run::Bytes(bytes) => self.uffd.copy(addr, bytes).map(Some),
            Run::Zero(len) => self.uffd.zero(addr, len).map(Some),
            Run::Absent(_) => Ok(None),
        })?;
        if let Some(Filled::Bytes(len)) = filled {
            self.pending.remove(addr..addr + len);
        }
        Ok(filled)
    }
}
