//! Memory that goes ahead of its workload.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_criu::Member;
use godwit_memory::{
    NextStep, PageRange, PageReader, Piece, PreCopyBudget, Round, RoundStat, Tracker, decide, is_zero,
};
use godwit_migration::{PartError, Told};
use godwit_model::{Bytes, CopyRound};
use godwit_pages::remote::Ranges;
use godwit_pages::{PAGE, PageStore, StoreError};
use godwit_transport::{PageSink, Sender, StreamError};

use crate::source::part;
use crate::unit::unit_and_pid;

/// How often it is told how much of a round is sent.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How far pre-copy goes: it ends when so little is left, at the latest when it has sent this many times the memory.
const MAX_ROUNDS: u32 = 12;
const MAX_TIME: Duration = Duration::from_secs(30);
const STOP_BELOW: u64 = 2 << 20;
const MAX_TIMES_MEMORY: f64 = 1.25;
/// What is protected at once in the first copy.
const PIECE: u64 = 2 << 20;

fn memory(what: &'static str) -> impl FnOnce(godwit_memory::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

/// How often memory is copied while the workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounds {
    /// As long as it gets less.
    UntilLittleIsLeft,
    /// Once, and what was written meanwhile a second time if that leaves less: what is written then follows the workload.
    Two,
}

/// The source's memory on its way.
pub(crate) struct Copying {
    tracker: Tracker,
    readers: BTreeMap<i32, PageReader>,
    /// What was found written and is not sent yet, by the host's pid.
    pending: BTreeMap<i32, Found>,
}

#[derive(Debug, Default)]
struct Found {
    written: Vec<PageRange>,
    vanished: Vec<PageRange>,
}

/// Why a page did not get from the process into the stream.
pub(crate) enum Stopped {
    Read(godwit_memory::Error),
    Send(StreamError),
    Cancelled,
}

impl Stopped {
    pub(crate) fn into_error(self) -> PartError {
        match self {
            Self::Read(error) => memory("read its memory")(error),
            Self::Send(error) => PartError::caused_by("send memory", error),
            Self::Cancelled => PartError::new("cancelled"),
        }
    }
}

impl From<godwit_memory::Error> for Stopped {
    fn from(error: godwit_memory::Error) -> Self {
        Self::Read(error)
    }
}

impl Copying {
    /// Begins to track the processes.
    pub(crate) fn begin(members: &[Member]) -> Result<Self, PartError> {
        let tracker = Tracker::attach(&host_pids(members)).map_err(memory("track its memory"))?;
        Ok(Self { tracker, readers: BTreeMap::new(), pending: BTreeMap::new() })
    }

    /// All memory, then again and again what was written meanwhile, until it does not get less.
    pub(crate) fn rounds(
        &mut self,
        rounds: Rounds,
        members: &dyn Fn() -> godwit_criu::Result<Vec<Member>>,
        stream: &mut Sender,
        told: &mut dyn FnMut(Told) -> bool,
    ) -> Result<(), PartError> {
        let (start, begun) = (Instant::now(), stream.bytes());
        let max_rounds = if rounds == Rounds::Two { 2 } else { MAX_ROUNDS };
        let mut rounds: Vec<RoundStat> = Vec::new();
        let mut budget =
            PreCopyBudget { max_rounds, max_bytes: u64::MAX, max_time: MAX_TIME, stop_below_bytes: STOP_BELOW };
        loop {
            let now = members().map_err(part("find its processes"))?;
            let (pieces, found) = self.find(&now, &rounds)?;
            if rounds.is_empty() {
                budget.max_bytes = (found.bytes as f64 * MAX_TIMES_MEMORY) as u64;
            }
            rounds.push(found);
            if let NextStep::Freeze(why) = decide(&budget, &rounds, start.elapsed()) {
                tracing::debug!(?why, left = found.bytes, "pre-copy ends");
                return Ok(());
            }
            let expected = Bytes(stream.bytes().0 - begun.0 + found.bytes);
            let mut last = Instant::now();
            let mut tell = |sent: Bytes| {
                if last.elapsed() < TELL_EVERY {
                    return true;
                }
                last = Instant::now();
                told(Told::Sent { bytes: Bytes(sent.0 - begun.0), expected })
            };
            let round = match pieces {
                Some(pieces) => self.copy_pieces(&now, &pieces, stream, &mut tell)?,
                None => self.copy(&now, stream, &mut tell)?,
            };
            if let Some(last) = rounds.last_mut() {
                last.copying = Duration::from_secs_f64(round.ms / 1e3);
            }
            if !told(Told::Round(round)) {
                return Ok(());
            }
        }
    }

    /// What the next round has to carry. The first is of pieces, which are protected one by one.
    fn find(&mut self, members: &[Member], rounds: &[RoundStat]) -> Result<(Option<Vec<Piece>>, RoundStat), PartError> {
        let copying = Duration::ZERO;
        let Some(first) = rounds.first() else {
            let pieces = self.tracker.pieces(PIECE).map_err(memory("find its memory"))?;
            let bytes = pieces.iter().map(|piece| piece.bytes).sum();
            return Ok((Some(pieces), RoundStat { bytes, since_last: Duration::ZERO, copying }));
        };
        let round = self.scan(members)?;
        // The pieces were protected for half of their copy's time, on average.
        let since_last = round.since_last.unwrap_or(first.copying / 2);
        Ok((None, RoundStat { bytes: round.bytes(), since_last, copying }))
    }

    /// In the freeze: what was written last.
    pub(crate) fn last(&mut self, members: &[Member], stream: &mut Sender) -> Result<CopyRound, PartError> {
        self.scan_frozen(members)?;
        self.copy(members, stream, &mut |_| true)
    }

    /// In the freeze: what was written last stays here, and the target forgets what it has of it. Returns it, to be fetched.
    pub(crate) fn leave(&mut self, members: &[Member], stream: &mut Sender) -> Result<Ranges, PartError> {
        self.scan_frozen(members)?;
        let mut left = Ranges::new();
        for (host_pid, found) in std::mem::take(&mut self.pending) {
            let Some(member) = members.iter().find(|member| member.host_pid == host_pid) else { continue };
            let written = merged(found.written);
            for range in found.vanished.iter().chain(&written) {
                let told = stream.forget(member.pid, range.start, range.bytes());
                told.map_err(|error| PartError::caused_by("say which memory was written last", error))?;
            }
            left.extend(written.iter().map(|range| (member.pid, range.start..range.end)));
        }
        Ok(left)
    }

    fn scan(&mut self, members: &[Member]) -> Result<Round, PartError> {
        let round = self.tracker.round(&host_pids(members));
        self.found(round)
    }

    /// The same in the freeze, whatever processes there are by then.
    fn scan_frozen(&mut self, members: &[Member]) -> Result<Round, PartError> {
        let round = self.tracker.last_round(&host_pids(members));
        self.found(round)
    }

    fn found(&mut self, round: godwit_memory::Result<Round>) -> Result<Round, PartError> {
        let round = round.map_err(memory("find what it has written"))?;
        for process in &round.processes {
            let found = self.pending.entry(process.pid).or_default();
            found.written.extend(&process.written);
            found.vanished.extend(&process.vanished);
        }
        Ok(round)
    }

    /// `tell` hears what the stream has sent, and says whether to go on.
    fn copy(
        &mut self,
        members: &[Member],
        stream: &mut Sender,
        tell: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<CopyRound, PartError> {
        let (start, before) = (Instant::now(), stream.bytes());
        for (host_pid, found) in std::mem::take(&mut self.pending) {
            // A process that has ended has nothing to be carried.
            let Some(member) = members.iter().find(|member| member.host_pid == host_pid) else { continue };
            self.copy_process(member, found, stream, tell)?;
        }
        copied(start, before, stream)
    }

    /// The same of all memory, protected piece by piece.
    fn copy_pieces(
        &mut self,
        members: &[Member],
        pieces: &[Piece],
        stream: &mut Sender,
        tell: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<CopyRound, PartError> {
        let (start, before) = (Instant::now(), stream.bytes());
        for piece in pieces {
            let Some(member) = members.iter().find(|member| member.host_pid == piece.pid) else { continue };
            let written = self.tracker.take(piece).map_err(memory("protect its memory"))?;
            self.copy_process(member, Found { written, vanished: Vec::new() }, stream, tell)?;
        }
        copied(start, before, stream)
    }

    fn copy_process(
        &mut self,
        member: &Member,
        found: Found,
        stream: &mut Sender,
        tell: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<(), PartError> {
        let failed = |error| PartError::caused_by("send memory", error);
        for range in &found.vanished {
            stream.forget(member.pid, range.start, range.bytes()).map_err(failed)?;
        }
        let reader = match self.readers.entry(member.host_pid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => match PageReader::open(member.host_pid) {
                Ok(reader) => new.insert(reader),
                Err(error) => return unless_ended(error),
            },
        };
        let ranges = merged(found.written);
        let read = reader.read(&ranges, |chunk| {
            send(member.pid, chunk.start, chunk.bytes, stream).map_err(Stopped::Send)?;
            if tell(stream.bytes()) { Ok(()) } else { Err(Stopped::Cancelled) }
        });
        let report = match read {
            Ok(report) => report,
            Err(Stopped::Read(error)) => return unless_ended(error),
            Err(stopped) => return Err(stopped.into_error()),
        };
        for range in report.vanished {
            stream.forget(member.pid, range.start, range.bytes()).map_err(failed)?;
        }
        Ok(())
    }
}

/// What a round came to, once the target has it.
fn copied(start: Instant, before: Bytes, stream: &mut Sender) -> Result<CopyRound, PartError> {
    stream.sync().map_err(|e| PartError::caused_by("send memory", e))?;
    let bytes = Bytes(stream.bytes().0 - before.0);
    Ok(CopyRound { bytes, ms: start.elapsed().as_secs_f64() * 1e3 })
}

fn host_pids(members: &[Member]) -> Vec<i32> {
    members.iter().map(|member| member.host_pid).collect()
}

/// Servers end processes all the time: what was sent of one that has ended is no loss, and nobody asks for it.
fn unless_ended(error: godwit_memory::Error) -> Result<(), PartError> {
    match error {
        godwit_memory::Error::Ended { .. } => Ok(()),
        error => Err(memory("read its memory")(error)),
    }
}

/// Sorted and joined: what two scans have found is sent once.
fn merged(mut ranges: Vec<PageRange>) -> Vec<PageRange> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<PageRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Runs of pages that are zero go over as a range, the others as they are.
pub(crate) fn send(pid: i32, start: u64, bytes: &[u8], stream: &mut Sender) -> Result<(), StreamError> {
    let mut pages = bytes.chunks(PAGE as usize).map(is_zero).enumerate().peekable();
    while let Some((first, zero)) = pages.next() {
        let mut after = first + 1;
        while pages.next_if(|(_, same)| *same == zero).is_some() {
            after += 1;
        }
        let (from, to) = (first * PAGE as usize, (after * PAGE as usize).min(bytes.len()));
        let addr = start + from as u64;
        if zero { stream.zero(pid, addr, (to - from) as u64)? } else { stream.pages(pid, addr, &bytes[from..to])? }
    }
    Ok(())
}

/// The target's memory as it arrives.
pub(crate) struct Kept {
    /// Of each container.
    pub(crate) stores: Vec<Arc<PageStore>>,
    /// Hears of every file that has arrived.
    pub(crate) on_file: Box<dyn FnMut(&str) + Send>,
}

impl Kept {
    /// Whose pages these are, and the pid there.
    fn of(&self, pid: i32) -> Result<(&PageStore, i32), StreamError> {
        let (unit, pid) = unit_and_pid(pid);
        let store = self.stores.get(unit);
        Ok((store.ok_or_else(|| StreamError::Corrupt(format!("pages came of a container number {unit}")))?, pid))
    }
}

fn kept(result: Result<(), StoreError>) -> Result<(), StreamError> {
    result.map_err(|e| StreamError::Corrupt(e.to_string()))
}

impl PageSink for Kept {
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        let (store, pid) = self.of(pid)?;
        kept(store.put(pid, addr, pages))
    }
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        let (store, pid) = self.of(pid)?;
        kept(store.put_zero(pid, addr..addr + len))
    }
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        let (store, pid) = self.of(pid)?;
        kept(store.forget(pid, addr..addr + len))
    }
    fn file(&mut self, name: &str) {
        (self.on_file)(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn merged_ranges_cover_the_same_pages_once(ranges in prop::collection::vec((0u64..40, 1u64..6), 0..20)) {
            let ranges: Vec<PageRange> = ranges.into_iter().map(|(at, n)| PageRange::new(at * PAGE, (at + n) * PAGE)).collect();
            let pages = |ranges: &[PageRange]| -> Vec<u64> {
                ranges.iter().flat_map(|r| (r.start..r.end).step_by(PAGE as usize)).collect()
            };
            let mut all = pages(&ranges);
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(pages(&merged(ranges)), all);
        }
    }
}
