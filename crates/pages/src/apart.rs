//! The handler in a process of its own: whoever is killed, the memory is filled.
//!
//! ```text
//!   owner ── tasks, store's index, descriptors · fill · stop ──► handler ── events of the processes ──► guard (its fork)
//!         ◄──── guarded · released · ready · the end ──────────     │     ◄──── its end is seen by ────────┘
//!                                                                   └── killed: the guard is the handler, with a new guard
//! ```
//! Up to there the handler is a thread of its owner. The process is started when there is time (another program, so that nothing
//! of its owner's threads matters); it gets what it needs while the restore is held. Owner, handler and guard all have the
//! userfaultfds and the store. The owner may be killed. So may the handler: its guard, which has heard of all that the
//! processes have done to their mappings, goes on. So may the guard: the handler forks another one. When handler and guard are
//! killed at once the owner tells that the processes have to be ended, and holds their memory until they are.

mod line;
mod owner;
mod standby;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::guard;
use crate::handler::{Phase, Shared, Stats};
use crate::serve::Server;

use line::{inherited, receive, receive_descriptors, send};
pub(crate) use owner::Started;
pub(crate) use standby::{Entry, Flags, Forked, Standby, heard, name};

/// The owner's words.
const FILL: u8 = 1;
const STOP: u8 = 2;

/// The handler's.
const RELEASED: u8 = 1;
const READY: u8 = 2;
const FILLED: u8 = 3;
const ABORTED: u8 = 4;
const FAILED: u8 = 5;
const GUARDED: u8 = 6;
/// It was the guard, and does not know what its owner wants.
const TOOK_OVER: u8 = 7;

/// The longest message.
const MOST: usize = 4096;

/// How to start a handler that is a process of its own: a program that calls [`serve_apart`].
#[derive(Debug, Clone)]
pub struct HandlerProgram {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// The whole life of a process that a [`HandlerProgram`] is: its standard input leads to whoever has started it. Needs a process
/// with a single thread.
pub fn serve_apart() -> ExitCode {
    match Server::received() {
        Ok(Some(server)) => server.run_apart(),
        // It was not needed.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit: the handler of a container's memory cannot begin: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for what the owner hands over: the way to the owner, and the descriptors. None if it does not need this process.
pub(crate) fn begin() -> io::Result<Option<(OwnedFd, Vec<OwnedFd>)>> {
    let owner = inherited();
    Ok(receive_descriptors(owner.as_fd())?.map(|descriptors| (owner, descriptors)))
}

/// Says why it cannot begin.
pub(crate) fn refuse(owner: BorrowedFd<'_>, why: &io::Error) {
    send(owner, &[&[FAILED], why.to_string().as_bytes()].concat());
}

/// What such a handler has beside the memory.
#[derive(Debug)]
pub(crate) struct Apart {
    /// None when the owner is gone.
    owner: Option<OwnedFd>,
    said: u8,
    /// The restored processes.
    processes: Vec<OwnedFd>,
    pub(crate) flags: &'static Flags,
    pub(crate) standby: Option<Standby>,
}

impl Apart {
    pub(crate) fn new(owner: OwnedFd, processes: Vec<OwnedFd>) -> io::Result<Self> {
        Ok(Self { owner: Some(owner), said: 0, processes, flags: Flags::map()?, standby: None })
    }

    pub(crate) fn line(&self) -> Option<BorrowedFd<'_>> {
        self.owner.as_ref().map(AsFd::as_fd)
    }

    /// The owner has spoken, or has gone: then there is nobody any more who would stop it.
    pub(crate) fn hear(&mut self, shared: &Shared) {
        let Some(owner) = &self.owner else { return };
        let mut room = [0];
        match receive(owner.as_fd(), &mut room) {
            Some(_) if room[0] == FILL => {
                self.flags.fill.store(true, Ordering::SeqCst);
                shared.fill.store(true, Ordering::SeqCst);
            }
            Some(_) => shared.stop.store(true, Ordering::SeqCst),
            None => self.owner = None,
        }
    }

    /// Tells the owner how far it is.
    pub(crate) fn tell(&mut self, shared: &Shared) {
        let (released, ready, stats) = {
            let state = shared.state();
            (state.phase == Phase::Released, state.ready, state.stats)
        };
        for (word, so) in [(RELEASED, released), (READY, ready)] {
            if so && self.said & word == 0 {
                self.said |= word;
                self.say(word, &encoded(&stats));
            }
        }
    }

    pub(crate) fn guarded(&self) {
        self.say(GUARDED, &[]);
    }

    /// The owner says again what it wants, and hears again what it has heard.
    pub(crate) fn took_over(&mut self) {
        self.said = 0;
        self.say(TOOK_OVER, &[]);
    }

    fn say(&self, word: u8, content: &[u8]) {
        if let Some(owner) = &self.owner {
            send(owner.as_fd(), &[&[word], content].concat());
        }
    }

    /// All is well: the guard is not needed any more, and is gone when this returns.
    pub(crate) fn dismiss_guard(&mut self) {
        self.flags.done.store(true, Ordering::SeqCst);
        self.standby = None;
    }

    /// Ends the restored processes. When this returns they are gone, and what reads their memory.
    pub(crate) fn end_processes(&self) {
        self.processes.iter().for_each(|process| guard::kill(process.as_raw_fd()));
        self.processes.iter().for_each(|process| guard::wait_for_end(process.as_raw_fd()));
    }

    /// The last word.
    pub(crate) fn told(&self, end: &Phase, stats: &Stats) {
        match end {
            Phase::Filled => self.say(FILLED, &encoded(stats)),
            Phase::Failed(why) => self.say(FAILED, &why.as_bytes()[..why.len().min(MOST - 1)]),
            _ => self.say(ABORTED, &[]),
        }
    }
}

pub(crate) fn encoded(stats: &Stats) -> Vec<u8> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let Stats { processes, faults, worst_fault, all_faults, filled, fill, fetched } = *stats;
    [processes, faults, nanos(worst_fault), nanos(all_faults), filled, nanos(fill), fetched]
        .iter()
        .flat_map(|n| n.to_ne_bytes())
        .collect()
}

pub(crate) fn decoded(bytes: &[u8]) -> Stats {
    let number = |n: usize| bytes.get(n * 8..n * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let time = |n| Duration::from_nanos(number(n));
    Stats {
        processes: number(0),
        faults: number(1),
        worst_fault: time(2),
        all_faults: time(3),
        filled: number(4),
        fill: time(5),
        fetched: number(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_arrive_as_they_were() {
        let stats = Stats {
            processes: 1,
            faults: 2,
            worst_fault: Duration::from_nanos(3),
            all_faults: Duration::from_secs(4),
            filled: 5,
            fill: Duration::from_millis(6),
            fetched: 7,
        };
        assert_eq!(decoded(&encoded(&stats)), stats);
    }
}
