//! The target's side: asks, receives, and connects anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::line::{Ends, Line};
use super::wire::{self, Answer, Ask};
use super::{PageSource, Ranges};
use crate::handler::Arrivals;
use crate::pending::Pending;

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a source may be away.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// It cannot be reached: the link is cut. The processes wait meanwhile.
    pub unreachable: Duration,
    /// Its host answers, but nobody serves there: who was killed is started again, and serves again.
    pub refused: Duration,
    /// Nothing comes while something is missing: the connection is held to be dead then, and made anew.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            unreachable: Duration::from_secs(600),
            refused: Duration::from_secs(60),
            silence: Duration::from_secs(3),
        }
    }
}

/// Fetches pages from a [`PageServer`](super::PageServer) until all are there.
#[derive(Debug, Default)]
pub struct RemotePages {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What has not arrived.
    left: BTreeMap<i32, Pending>,
    /// What processes wait for.
    wanted: BTreeSet<(i32, u64)>,
    /// To be said next.
    asks: Vec<Ask>,
    flows: bool,
    /// The connection of the writer that shall go on.
    connection: u64,
    stop: bool,
    reconnects: u64,
}

impl RemotePages {
    /// One that has not begun.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Begins to fetch `missing`. `connect` is called again whenever the connection breaks, and should have a time-out of
    /// a second or so. What arrives goes to `arrivals`; so does the reason when it is given up.
    pub fn begin<L: Line + 'static>(
        self: &Arc<Self>,
        missing: &Ranges,
        arrivals: Arrivals,
        patience: Patience,
        mut connect: impl FnMut() -> io::Result<L> + Send + 'static,
    ) -> io::Result<()> {
        let mut by_pid: BTreeMap<i32, Vec<Range<u64>>> = BTreeMap::new();
        for (pid, range) in missing {
            by_pid.entry(*pid).or_default().push(range.clone());
        }
        self.state().left = by_pid.into_iter().map(|(pid, ranges)| (pid, Pending::new(ranges))).collect();
        let this = Arc::clone(self);
        let fetch = move || {
            let mut connect = || connect().map(|line| Box::new(line) as Box<dyn Line>);
            if let Err(why) = this.fetch(&arrivals, patience, &mut connect) {
                arrivals.failed(why);
            }
        };
        thread::Builder::new().name("pages-from".into()).spawn(fetch).map(drop)
    }

    /// Fetches no more, without an error: when the handler has filled all, what has not come has been unmapped meanwhile.
    pub fn stop(&self) {
        self.state().stop = true;
        self.changed.notify_all();
    }

    /// Bytes that have not arrived.
    pub fn missing(&self) -> u64 {
        self.state().left.values().map(Pending::bytes).sum()
    }

    /// How often the connection was made anew.
    pub fn reconnects(&self) -> u64 {
        self.state().reconnects
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> bool {
        let state = self.state();
        state.stop || state.left.values().all(Pending::is_empty)
    }

    fn fetch(
        self: &Arc<Self>,
        arrivals: &Arrivals,
        patience: Patience,
        connect: &mut dyn FnMut() -> io::Result<Box<dyn Line>>,
    ) -> Result<(), String> {
        let mut away: Option<Instant> = None;
        loop {
            let error = match connect() {
                Ok(line) => match self.converse(&*line, arrivals, patience.silence, &mut away) {
                    Ok(()) => return Ok(()),
                    Err(Ended::Failed(why)) => {
                        return Err(format!("the source cannot read its memory any more: {why}"));
                    }
                    Err(Ended::Broken(e)) => e,
                },
                Err(e) => e,
            };
            if self.over() {
                return Ok(());
            }
            let refused = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset);
            let most = if refused { patience.refused } else { patience.unreachable };
            if away.get_or_insert_with(Instant::now).elapsed() > most {
                let missing = self.missing();
                return Err(format!("the source is gone, and {missing} bytes were only there: {error}"));
            }
            self.state().reconnects += 1;
            thread::sleep(PAUSE);
        }
    }

    fn converse(
        self: &Arc<Self>,
        line: &dyn Line,
        arrivals: &Arrivals,
        silence: Duration,
        away: &mut Option<Instant>,
    ) -> Result<(), Ended> {
        line.set_patience(silence)?;
        let (missing, number) = {
            let mut state = self.state();
            state.connection += 1;
            // What has been asked on a connection that is broken may not have been heard.
            state.asks = state.wanted.iter().map(|(pid, addr)| Ask::Want { pid: *pid, addr: *addr }).collect();
            if state.flows {
                state.asks.push(Ask::Flow);
            }
            let ranges = |(pid, left): (&i32, &Pending)| left.ranges().map(|range| (*pid, range)).collect::<Vec<_>>();
            (state.left.iter().flat_map(ranges).collect::<Ranges>(), state.connection)
        };
        wire::write_hello(&mut Ends(line), &missing)?;
        thread::scope(|scope| {
            let speaking = scope.spawn(|| self.speak(line, number));
            let heard = self.hear(line, arrivals, away);
            if heard.is_err() {
                line.shut_down();
            }
            self.state().connection += 1;
            self.changed.notify_all();
            let _ = speaking.join();
            if heard.is_ok() {
                part(line, silence);
            }
            heard
        })
    }

    fn speak(&self, line: &dyn Line, number: u64) {
        loop {
            let asks = {
                let mut state = self.state();
                while state.asks.is_empty() && state.connection == number && !state.stop {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stop {
                    // The source closes then, and so the reader does not wait for what does not come.
                    let _ = Ask::Done.write(&mut Ends(line));
                    return;
                }
                if state.connection != number {
                    return;
                }
                std::mem::take(&mut state.asks)
            };
            let mut frames = Vec::new();
            let written = asks.into_iter().try_for_each(|ask| ask.write(&mut frames));
            if written.and_then(|()| line.write_all(&frames)).is_err() {
                // The reader shall see it too.
                line.shut_down();
                return;
            }
        }
    }

    fn hear(&self, line: &dyn Line, arrivals: &Arrivals, away: &mut Option<Instant>) -> Result<(), Ended> {
        let mut from = BufReader::with_capacity(256 << 10, Ends(line));
        while !self.over() {
            let (pid, range) = match Answer::read(&mut from)? {
                Answer::Failed(why) => return Err(Ended::Failed(why)),
                Answer::Zero { pid, range } => {
                    arrivals.zero(pid, range.clone()).map_err(Ended::Failed)?;
                    (pid, range)
                }
                Answer::Pages { pid, addr, bytes } => {
                    arrivals.pages(pid, addr, &bytes).map_err(Ended::Failed)?;
                    (pid, addr..addr + bytes.len() as u64)
                }
            };
            *away = None;
            let mut state = self.state();
            if let Some(left) = state.left.get_mut(&pid) {
                left.remove(range.clone());
            }
            state.wanted.retain(|(of, addr)| *of != pid || !range.contains(addr));
            let len = (range.end - range.start) as u32;
            match state.asks.last_mut() {
                Some(Ask::Took(took)) => *took += len,
                _ => state.asks.push(Ask::Took(len)),
            }
            drop(state);
            self.changed.notify_all();
        }
        Ok(())
    }
}

impl PageSource for RemotePages {
    fn want(&self, pid: i32, addr: u64) {
        let mut state = self.state();
        state.wanted.insert((pid, addr));
        // Before what only says how far we are.
        state.asks.insert(0, Ask::Want { pid, addr });
        drop(state);
        self.changed.notify_all();
    }

    fn flow(&self) {
        let mut state = self.state();
        state.flows = true;
        state.asks.push(Ask::Flow);
        drop(state);
        self.changed.notify_all();
    }
}

/// Says that all is there, and hears the source out: to close with something unread would take back what was said. Should it not
/// be heard all the same: who has all does not come again.
fn part(line: &dyn Line, most: Duration) {
    let until = Instant::now() + most;
    let mut room = vec![0; 64 << 10];
    if Ask::Done.write(&mut Ends(line)).is_ok() {
        while Instant::now() < until && line.read(&mut room).is_ok_and(|n| n > 0) {}
    }
}

/// How a connection ended before all was there.
enum Ended {
    Broken(io::Error),
    Failed(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::remote::{PageServer, ReadPages};
    use crate::{FillOptions, LazyHandler, PageStore};

    struct Sevens;

    impl ReadPages for Sevens {
        fn read(&self, _: i32, _: u64, room: &mut [u8]) -> io::Result<()> {
            room.fill(7);
            Ok(())
        }
    }

    #[test]
    fn a_source_hears_that_no_more_is_wanted_whatever_is_on_its_way() {
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let serving = thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                PageServer::new(Sevens, Ranges::new()).serve(&stream, &stream, || stream.shut_down())
            });
            let dir = tempfile::tempdir().unwrap();
            let handler = LazyHandler::listen(dir.path(), Arc::new(PageStore::new()), FillOptions::default()).unwrap();
            let pages = RemotePages::new();
            let all = 256 << 20;
            pages
                .begin(&vec![(1, 0..all)], handler.arrivals(), Patience::default(), move || TcpStream::connect(address))
                .unwrap();
            pages.flow();
            while pages.missing() > all - (1 << 20) {
                thread::yield_now();
            }
            pages.stop();
            let served = serving.join().unwrap().expect("heard, and not cut off");
            assert!(served.done && served.bytes < all, "{served:?}");
        }
    }
}
