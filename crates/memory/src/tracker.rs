//! The processes of a workload under tracking, and the rounds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::handle::Handle;
use crate::kind::{Kinds, UntrackedKind};
use crate::piece::{self, Piece};
use crate::probe::{self, Method};
use crate::process::NewMemory;
use crate::range::{self, PageRange};
use crate::scan::Scanner;
use crate::tracked::Tracked;

/// How often a process is attached anew that calls execve(2) meanwhile, in one round.
const EXECS_FOLLOWED: usize = 3;

/// What it took to attach a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The process.
    pub pid: i32,
    /// The most that one thread of it can have stood still for it. The others ran on.
    pub stopped: Duration,
    /// How long the registration of its mappings took; it ran meanwhile.
    pub registering: Duration,
    /// Mappings registered.
    pub mappings: usize,
    /// Their size in bytes, populated or not.
    pub bytes: u64,
}

/// What a round found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// 1 for the first.
    pub number: u32,
    /// From the start of the last round to the start of this one; none in the first.
    pub since_last: Option<Duration>,
    /// How long it took, visits to new processes included.
    pub took: Duration,
    /// The longest that one process stood still for it: nothing by write protection, see [`Method`].
    pub stopped: Duration,
    /// The processes, by pid.
    pub processes: Vec<ProcessRound>,
    /// Those attached in this round, because they were new, or had a new memory by execve(2).
    pub attached: Vec<Attached>,
    /// Those that are no longer tracked: ended, or not in the caller's list any more.
    pub left: Vec<i32>,
}

impl Round {
    /// Bytes written since the last round, or populated in the first.
    pub fn bytes(&self) -> u64 {
        self.processes.iter().map(|p| range::total_bytes(&p.written)).sum()
    }
}

/// What a round found in one process. All lists are sorted by address, neighbours joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessRound {
    /// The process.
    pub pid: i32,
    /// Pages written since the last round, and all populated pages of what is new.
    pub written: Vec<PageRange>,
    /// Addresses that are tracked from this round on: new, grown, or moved here. In the first round those that appeared
    /// since the process was attached, and read-only files with private pages.
    pub appeared: Vec<PageRange>,
    /// Addresses that were mapped privately in the last round and are not any more: what was copied of them is void.
    pub vanished: Vec<PageRange>,
    /// Mappings that the kernel would not register (MAP_DROPPABLE), or that changed under our hands: their pages are
    /// all in `written`, whether written or not.
    pub refused: Vec<PageRange>,
}

/// A mapping that no round reports, and that the dump has to deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untracked {
    /// The process.
    pub pid: i32,
    /// What it is.
    pub kind: UntrackedKind,
    /// Where it is.
    pub range: PageRange,
    /// Bytes of it that this process has touched. CRIU dumps of shared memory also what others have.
    pub populated: u64,
    /// Device and inode of its file: the same in all processes that share it.
    pub file: Option<(u64, u64)>,
    /// Its name in /proc/PID/maps.
    pub name: String,
}

/// Tracks what processes write to their private memory, while they run.
#[derive(Debug)]
pub struct Tracker {
    method: Method,
    processes: BTreeMap<i32, Tracked>,
    guests: BTreeMap<i32, Guest>,
    attached: Vec<Attached>,
    scanner: Scanner,
    kinds: Kinds,
    marks_move: bool,
    rounds: u32,
    last: Option<Instant>,
    /// The last round failed: what it had found did not reach the caller.
    lost: bool,
    /// The processes are frozen, so that new ones cannot be visited.
    frozen: bool,
}

impl Tracker {
    /// Attaches to processes (not threads): each has one of its threads stopped for some 100 microseconds. Those that
    /// have ended or are zombies are passed over. Any other failure undoes all: that workload has to be moved without.
    pub fn attach(pids: &[i32]) -> Result<Self> {
        let method = probe::supported().map_err(|why| Error::Unsupported { why })?;
        let mut tracker = Self {
            method,
            processes: BTreeMap::new(),
            guests: BTreeMap::new(),
            attached: Vec::new(),
            scanner: Scanner::new(),
            kinds: Kinds::default(),
            marks_move: method == Method::WriteProtection && probe::marks_move(),
            rounds: 0,
            last: None,
            lost: false,
            frozen: false,
        };
        for pid in pids {
            let attached = tracker.attach_one(*pid)?;
            tracker.attached.extend(attached);
        }
        Ok(tracker)
    }

    /// The processes that [`Tracker::attach`] attached.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// All that is populated, in pieces of at most `most` bytes: for the first copy, before any round. Nothing is protected yet.
    pub fn pieces(&mut self, most: u64) -> Result<Vec<Piece>> {
        let mut all = Vec::new();
        for process in self.processes.values_mut() {
            match process.pieces(&mut self.scanner, &mut self.kinds, most) {
                Ok(pieces) => all.extend(pieces),
                // The next round says so.
                Err(error) if piece::is_over(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Protects a piece and returns its pages, which have to be read now: later they are found again only when they are
    /// written. What is populated meanwhile, and what is in no piece, is found by the next round.
    pub fn take(&mut self, piece: &Piece) -> Result<Vec<PageRange>> {
        let Some(process) = self.processes.get(&piece.pid) else { return Ok(Vec::new()) };
        match process.take(&mut self.scanner, piece) {
            Err(error) if piece::is_over(&error) => Ok(Vec::new()),
            taken => taken,
        }
    }

    /// What was written since the last round; the first time, all that is populated, unless it
    /// [was taken](Self::take). `pids` are the workload's processes
    /// now: new ones are attached, and all that they have counts as written.
    ///
    /// After an error nothing is lost: what this round would have reported, and more, is reported by the next.
    pub fn round(&mut self, pids: &[i32]) -> Result<Round> {
        let began = Instant::now();
        let all = std::mem::replace(&mut self.lost, true);
        let since_last = self.last.map(|last| began - last);
        let mut round = Round { number: self.rounds + 1, since_last, ..Round::default() };
        let gone = |(pid, process): (&i32, &Tracked)| (process.has_ended() || !pids.contains(pid)).then_some(*pid);
        round.left = self.processes.iter().filter_map(gone).collect();
        round.left.iter().for_each(|pid| drop(self.processes.remove(pid)));
        self.guests.retain(|pid, guest| pids.contains(pid) && guest.still_is(*pid));
        // New ones last: what they share memory with (vfork(2)) has to be there, and not to be there any more, first.
        let (known, new): (Vec<i32>, Vec<i32>) = pids.iter().partition(|pid| self.processes.contains_key(pid));
        for pid in known.into_iter().chain(new) {
            self.round_of(pid, all, &mut round)?;
        }
        self.processes.values_mut().for_each(Tracked::delivered);
        round.processes.sort_by_key(|process| process.pid);
        round.took = began.elapsed();
        self.rounds += 1;
        self.last = Some(began);
        self.lost = false;
        Ok(round)
    }

    /// The last round, of processes that are frozen. New ones cannot be attached; all that they have counts as written,
    /// and nothing of it is protected.
    pub fn last_round(&mut self, pids: &[i32]) -> Result<Round> {
        self.frozen = true;
        let round = self.round(pids);
        self.frozen = false;
        round
    }

    /// What a process has that came too late to be attached; none if it has ended, or shares the memory of another.
    fn look_at_late(&mut self, pid: i32) -> Result<Option<ProcessRound>> {
        if self.guests.contains_key(&pid) || Guest::of(pid, self.processes.keys().copied())?.is_some() {
            return Ok(None);
        }
        match Handle::open(pid).and_then(|late| late.populated(&mut self.scanner, &mut self.kinds)) {
            Ok(written) => Ok(Some(ProcessRound { pid, written, ..ProcessRound::default() })),
            Err(Error::Ended { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn round_of(&mut self, pid: i32, all: bool, round: &mut Round) -> Result<()> {
        let known = self.processes.contains_key(&pid);
        for _ in 0..=EXECS_FOLLOWED {
            if self.frozen && !self.processes.contains_key(&pid) {
                round.processes.extend(self.look_at_late(pid)?);
                return Ok(());
            }
            if !self.processes.contains_key(&pid) {
                round.attached.extend(self.attach_one(pid)?);
            }
            let Some(process) = self.processes.get_mut(&pid) else {
                round.left.extend(known.then_some(pid));
                return Ok(());
            };
            match process.round(&mut self.scanner, &mut self.kinds, all, self.frozen) {
                Ok(Ok((found, stood))) => {
                    round.processes.push(found);
                    round.stopped = round.stopped.max(stood);
                    return Ok(());
                }
                Ok(Err(NewMemory)) => drop(self.processes.remove(&pid)),
                Err(e) if !matches!(e, Error::Ended { .. }) && !process.has_ended() => return Err(e),
                Err(_) => {
                    self.processes.remove(&pid);
                    round.left.extend(known.then_some(pid));
                    return Ok(());
                }
            }
        }
        Err(Error::Untrackable { pid, why: "it calls execve again and again".into() })
    }

    /// None when there is nothing to attach to: it has ended, or it shares the memory of another.
    fn attach_one(&mut self, pid: i32) -> Result<Option<Attached>> {
        if self.processes.contains_key(&pid) || self.guests.contains_key(&pid) {
            return Ok(None);
        }
        // Not to be visited: the userfaultfd would be one of the other's memory.
        if let Some(guest) = Guest::of(pid, self.processes.keys().copied())? {
            self.guests.insert(pid, guest);
            return Ok(None);
        }
        match Tracked::attach(pid, self.method, &mut self.kinds, self.marks_move) {
            Ok((process, attached)) => {
                self.processes.insert(pid, process);
                Ok(Some(attached))
            }
            Err(Error::Ended { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All pages that a dump would take from private mappings now, by process; protects nothing and forgets nothing.
    /// Of a frozen workload these are the pages that the target has to have.
    pub fn populated(&mut self) -> Result<Vec<(i32, Vec<PageRange>)>> {
        let mut all = Vec::new();
        for (pid, process) in &self.processes {
            all.push((*pid, process.populated(&mut self.scanner, &mut self.kinds)?));
        }
        Ok(all)
    }

    /// What no round reports. Reads all mappings: for once before a dump, not for every round.
    pub fn untracked(&mut self) -> Result<Vec<Untracked>> {
        let mut all = Vec::new();
        for process in self.processes.values() {
            all.extend(process.untracked(&mut self.scanner, &mut self.kinds)?);
        }
        Ok(all)
    }

    /// Ends the tracking: nothing of it is left in any process, whether it runs, is stopped or is frozen. Dropping does
    /// the same without saying what went wrong, and so does the kernel when we die.
    pub fn detach(mut self) -> Result<()> {
        let mut outcome = Ok(());
        for process in std::mem::take(&mut self.processes).into_values() {
            outcome = outcome.and(process.detach(&mut self.kinds));
        }
        outcome
    }
}
