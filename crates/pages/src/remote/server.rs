//! The source's side: reads the frozen processes and sends.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::order::Order;
use super::window::Window;
use super::wire::{self, Ask};
use super::{Ranges, broken};
use crate::PAGE;
use crate::store;

/// Sent in one frame: what a page that is waited for may have to wait for.
const CHUNK: u64 = 128 << 10;

/// Memory that stands still.
pub trait ReadPages: Send + Sync {
    /// Reads whole pages of a process of the images.
    fn read(&self, pid: i32, addr: u64, room: &mut [u8]) -> io::Result<()>;
}

impl<M: ReadPages + ?Sized> ReadPages for Arc<M> {
    fn read(&self, pid: i32, addr: u64, room: &mut [u8]) -> io::Result<()> {
        (**self).read(pid, addr, room)
    }
}

/// The memory of processes of this host, read as long as they are frozen.
#[derive(Debug)]
pub struct ProcessMemory(BTreeMap<i32, File>);

impl ProcessMemory {
    /// `pids`: of the images, and as we see them.
    pub fn open(pids: impl IntoIterator<Item = (i32, i32)>) -> io::Result<Self> {
        let open = |(pid, host_pid)| Ok((pid, File::open(format!("/proc/{host_pid}/mem"))?));
        pids.into_iter().map(open).collect::<io::Result<_>>().map(Self)
    }
}

impl ReadPages for ProcessMemory {
    fn read(&self, pid: i32, addr: u64, room: &mut [u8]) -> io::Result<()> {
        let ended = || io::Error::other(format!("process {pid} has ended on the source"));
        let memory = self.0.get(&pid).ok_or_else(ended)?;
        // Of a process that has ended there is nothing to be read: not an error, but no bytes.
        memory.read_exact_at(room, addr).map_err(|e| if e.kind() == io::ErrorKind::UnexpectedEof { ended() } else { e })
    }
}

/// What has been sent over a connection, or over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Bytes of pages, zero ones included.
    pub bytes: u64,
    /// Pages that were waited for.
    pub wanted: u64,
    /// The target has all that it lacked.
    pub done: bool,
}

/// Serves the memory of frozen processes, one connection after the other.
#[derive(Debug)]
pub struct PageServer<M> {
    memory: M,
    hot: Ranges,
    /// Bytes a second.
    cap: Option<u64>,
}

/// What the two threads of a connection share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    order: Order,
    urgent: VecDeque<(i32, u64)>,
    /// What was sent last is waited for.
    hurry: bool,
    /// More than what is waited for may go over.
    flows: bool,
    window: Window,
    pace: Option<Pace>,
    last_arrival: Instant,
    served: Served,
    /// The connection has ended, and how.
    ended: Option<io::Result<()>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long the cap holds back what nobody waits for.
    fn debt(&self) -> Duration {
        self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.until.saturating_duration_since(Instant::now()))
    }
}

/// When the next may go over so that no more than so many bytes a second do.
struct Pace {
    cap: f64,
    until: Instant,
}

impl Pace {
    fn new(cap: u64) -> Self {
        Self { cap: cap.max(1) as f64, until: Instant::now() }
    }

    fn sent(&mut self, bytes: u64) {
        self.until = self.until.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.cap);
    }
}

/// What the sender does next.
enum Next {
    Send(i32, Range<u64>),
    /// There is nothing to be sent at the moment, or what is gathered is waited for.
    Flush,
    End(io::Result<()>),
}

impl<M: ReadPages> PageServer<M> {
    /// `hot` is sent first: what was written last is likely to be touched first.
    pub fn new(memory: M, hot: Ranges) -> Self {
        Self { memory, hot, cap: None }
    }

    /// Pushes no more than so many bytes a second. What is waited for goes over at once, and counts.
    pub fn capped(self, cap: Option<u64>) -> Self {
        Self { cap, ..self }
    }

    /// Serves one connection to its end: [`Served::done`], or an error, after which the target may connect anew. `from` and
    /// `to` are its two directions; `close` ends both, so that nobody waits for them any more.
    pub fn serve(
        &self,
        from: impl Read + Send,
        to: impl Write,
        close: impl Fn() + Sync,
    ) -> Result<Served, (Served, io::Error)> {
        let mut from = BufReader::new(from);
        let missing = match wire::read_hello(&mut from) {
            Ok(missing) => missing,
            Err(e) => {
                close();
                return Err((Served::default(), e));
            }
        };
        let shared = Shared {
            state: Mutex::new(State {
                order: Order::new(&missing, &self.hot),
                urgent: VecDeque::new(),
                hurry: false,
                flows: false,
                window: Window::new(),
                pace: self.cap.map(Pace::new),
                last_arrival: Instant::now(),
                served: Served::default(),
                ended: None,
            }),
            changed: Condvar::new(),
        };
        let ended = thread::scope(|scope| {
            scope.spawn(|| hear(&mut from, &shared));
            let sent = self.send(to, &shared);
            close();
            sent
        });
        let mut served = shared.state().served;
        served.done = ended.is_ok();
        ended.map(|()| served).map_err(|e| (served, e))
    }

    fn send(&self, to: impl Write, shared: &Shared) -> io::Result<()> {
        let mut to = BufWriter::with_capacity(CHUNK as usize + 64, to);
        let mut room = vec![0; CHUNK as usize];
        let mut gathered = false;
        loop {
            let (pid, range) = match next(shared, gathered) {
                Next::Send(pid, range) => (pid, range),
                Next::Flush => {
                    to.flush()?;
                    gathered = false;
                    continue;
                }
                Next::End(result) => return result,
            };
            gathered = true;
            let room = &mut room[..(range.end - range.start) as usize];
            if let Err(e) = self.memory.read(pid, range.start, room) {
                wire::write_failed(&mut to, &e.to_string()).and_then(|()| to.flush())?;
                return Err(e);
            }
            let mut at = range.start;
            for (zero, pages) in store::runs(room) {
                let run = at..at + pages * PAGE;
                let bytes = &room[(run.start - range.start) as usize..(run.end - range.start) as usize];
                if zero {
                    wire::write_zero(&mut to, pid, &run)?
                } else {
                    wire::write_pages(&mut to, pid, at, bytes)?
                }
                at = run.end;
            }
        }
    }
}

/// What was `gathered` goes out before anything is waited for.
fn next(shared: &Shared, gathered: bool) -> Next {
    let mut state = shared.state();
    loop {
        if let Some(ended) = state.ended.take() {
            return Next::End(ended);
        }
        if gathered && std::mem::take(&mut state.hurry) {
            return Next::Flush;
        }
        let found = match state.urgent.pop_front() {
            Some((pid, addr)) => {
                state.hurry = state.urgent.is_empty();
                Some((pid, addr..addr + PAGE))
            }
            None if state.flows && state.window.is_open() && state.debt().is_zero() => state.order.next(CHUNK),
            None => None,
        };
        if let Some((pid, range)) = found {
            state.window.sent(range.end - range.start);
            state.pace.iter_mut().for_each(|pace| pace.sent(range.end - range.start));
            state.served.bytes += range.end - range.start;
            return Next::Send(pid, range);
        }
        if gathered {
            return Next::Flush;
        }
        state = match state.debt() {
            debt if debt.is_zero() => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            debt => shared.changed.wait_timeout(state, debt).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}

fn hear(from: &mut impl Read, shared: &Shared) {
    let ended = loop {
        match Ask::read(from) {
            Ok(Ask::Done) => break Ok(()),
            Ok(Ask::Flow) => shared.state().flows = true,
            Ok(Ask::Want { pid, addr }) => {
                let mut state = shared.state();
                state.served.wanted += 1;
                if state.order.want(pid, addr) {
                    state.urgent.push_back((pid, addr));
                }
            }
            Ok(Ask::Took(bytes)) => {
                let mut state = shared.state();
                let now = Instant::now();
                let since = now - std::mem::replace(&mut state.last_arrival, now);
                state.window.arrived(u64::from(bytes), since);
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                break Err(broken("the target has closed the connection"));
            }
            Err(e) => break Err(e),
        }
        shared.changed.notify_all();
    };
    shared.state().ended = Some(ended);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushing_keeps_to_its_cap_and_a_pause_saves_nothing_up() {
        let start = Instant::now();
        let mut pace = Pace { until: start - Duration::from_secs(10), ..Pace::new(1 << 20) };
        (0..4).for_each(|_| pace.sent(1 << 20));
        assert!(pace.until >= start + Duration::from_secs(4));
    }
}
