//! The handler: a thread that serves the memory of restored processes.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::PAGE;
use crate::apart::{HandlerProgram, Started};
use crate::error::{Context, Error, Result};
use crate::images::Pagemap;
use crate::remote::{PageSource, Ranges};
use crate::serve::Server;
use crate::store::PageStore;

/// CRIU's name for the socket on which a lazy restore expects whoever has the memory.
const SOCKET: &str = "lazy-pages.socket";

/// How long processes that are held may take to be handed over.
const HANDING_OVER: Duration = Duration::from_secs(5);

/// In which order to fill, and from where.
#[derive(Clone, Default)]
pub struct FillOptions {
    /// What to fill first, by the pids of the images: what was written to most recently is likely to be touched first.
    pub hot: Vec<(i32, Range<u64>)>,
    /// Where pages are that the store does not have; none: then they have to be in the store.
    pub remote: Option<Arc<dyn PageSource>>,
    /// How to start the handler as a process of its own, which goes on when this one is killed; none: a thread here serves. Not
    /// where pages are elsewhere.
    pub apart: Option<HandlerProgram>,
}

impl std::fmt::Debug for FillOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FillOptions")
            .field("hot", &self.hot.len())
            .field("remote", &self.remote.is_some())
            .field("apart", &self.apart)
            .finish()
    }
}

/// By which pages come to a handler while the processes run.
#[derive(Debug, Clone)]
pub struct Arrivals {
    store: Arc<PageStore>,
    shared: Arc<Shared>,
}

impl Arrivals {
    /// Whole pages of a process, by the addresses of the images.
    pub fn pages(&self, pid: i32, addr: u64, bytes: &[u8]) -> Result<(), String> {
        self.store.put(pid, addr, bytes).map_err(|e| e.to_string())?;
        self.there(pid, addr..addr + bytes.len() as u64);
        Ok(())
    }

    /// Pages that are zero.
    pub fn zero(&self, pid: i32, range: Range<u64>) -> Result<(), String> {
        self.store.put_zero(pid, range.clone()).map_err(|e| e.to_string())?;
        self.there(pid, range);
        Ok(())
    }

    /// What is missing will never come.
    pub fn failed(&self, why: String) {
        self.shared.state().lost = Some(why);
        self.shared.wake();
    }

    fn there(&self, pid: i32, range: Range<u64>) {
        self.shared.state().arrived.push_back((pid, range));
        self.shared.wake();
    }
}

/// What a handler has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Processes that were handed over, forked ones included.
    pub processes: u64,
    /// Page faults that were answered.
    pub faults: u64,
    /// The longest that a fault can have waited: from the last look at which there was none to its answer. When the
    /// handler was idle, from when it was woken.
    pub worst_fault: Duration,
    /// The sum of these.
    pub all_faults: Duration,
    /// Bytes that were put in place, by faults and otherwise.
    pub filled: u64,
    /// From the start of the filling to its end.
    pub fill: Duration,
    /// Faults that waited for a page from elsewhere.
    pub fetched: u64,
}

impl Stats {
    /// The mean time that a fault can have waited.
    pub fn mean_fault(&self) -> Duration {
        u32::try_from(self.faults.max(1)).map_or(Duration::ZERO, |n| self.all_faults / n)
    }
}

/// How far the handler is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No restore has connected.
    Waiting,
    /// Processes are being restored.
    Restoring,
    /// They run, or are about to.
    Released,
    /// All memory is in its place.
    Filled,
    /// The restore has gone away before it was through.
    Aborted,
    /// Something could not be served.
    Failed(String),
}

/// What the thread and its owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the thread.
    pub wake: EventFd,
    pub fill: AtomicBool,
    pub stop: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct State {
    pub phase: Phase,
    /// The processes that were handed over, by the pids of the images.
    pub pids: Vec<i32>,
    /// All of them have been filled.
    pub ready: bool,
    /// The processes, as we see them, for which a guard is asked; then, what has become of it.
    pub guard_asked: Option<Vec<i32>>,
    pub guarded: Option<Result<(), String>>,
    /// What has come from elsewhere, and is not in its place yet.
    pub arrived: VecDeque<(i32, Range<u64>)>,
    /// Why nothing more will come.
    pub lost: Option<String>,
    pub stats: Stats,
}

impl Shared {
    pub(crate) fn new(phase: Phase) -> io::Result<Self> {
        let state = State {
            phase,
            pids: Vec::new(),
            ready: false,
            guard_asked: None,
            guarded: None,
            arrived: VecDeque::new(),
            lost: None,
            stats: Stats::default(),
        };
        Ok(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            fill: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Plain data: whole even if a thread has panicked over it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.state().phase = phase;
        self.changed.notify_all();
    }

    pub(crate) fn took_over(&self, pid: i32) {
        let mut state = self.state();
        state.pids.push(pid);
        state.stats.processes += 1;
        self.changed.notify_all();
    }

    pub(crate) fn guarded(&self, result: Result<(), String>) {
        self.state().guarded = Some(result);
        self.changed.notify_all();
    }

    pub(crate) fn filled(&self, took: Duration) {
        let mut state = self.state();
        state.stats.fill = took;
        state.ready = true;
        self.changed.notify_all();
    }

    /// As a handler in another process has said.
    pub(crate) fn ready(&self, stats: Stats) {
        let mut state = self.state();
        state.stats = stats;
        state.ready = true;
        self.changed.notify_all();
    }

    pub(crate) fn wake(&self) {
        // It can only fail when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }
}

/// Serves the memory of the processes that CRIU restores from one directory of images. See the crate's documentation
/// for the order of calls.
///
/// Dropping it before the restore is through breaks the restore off; afterwards it waits until all is filled. Only where
/// pages come from elsewhere it does not wait: what has not come reads as zero then, so the processes have to be ended before.
#[derive(Debug)]
pub struct LazyHandler {
    dir: PathBuf,
    store: Arc<PageStore>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LazyHandler {
    /// Listens in `dir`, the directory into which the images will come, and serves from `store` (which may still be
    /// filled).
    pub fn listen(dir: &Path, store: Arc<PageStore>, options: FillOptions) -> Result<Self> {
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(0) as u64;
        if size != PAGE {
            return Err(Error::PageSize(size));
        }
        let path = dir.join(SOCKET);
        let _ = fs::remove_file(&path);
        // By its descriptor, because a socket's path must be short.
        let opened = fs::File::open(dir).context(|| format!("open {}", dir.display()))?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))
            .context(|| format!("listen on {}", path.display()))?;
        let shared = Arc::new(Shared::new(Phase::Waiting).context(|| "make an eventfd".into())?);
        let started = options.apart.as_ref().filter(|_| options.remote.is_none()).map(Started::start).transpose();
        let started = started.context(|| "start who puts memory in its place".into())?;
        let server = Server::new(dir.to_path_buf(), Some(listener), store.clone(), options, shared.clone());
        let server = server.with_started(started);
        let thread = std::thread::Builder::new().name("pages".into()).spawn(move || server.run());
        let thread = thread.context(|| "start a thread".into())?;
        Ok(Self { dir: dir.to_path_buf(), store, shared, thread: Some(thread) })
    }

    /// Whether the restore may go beyond the commit point. To be called while it is held: every process of the images
    /// has been handed over, and every page that the images promise is in the store.
    pub fn check(&self) -> Result<()> {
        check_complete(&self.store, &Pagemap::read_all(&self.dir)?)?;
        self.check_processes()
    }

    /// The same without the pages: for those that are fetched while the processes run.
    pub fn check_processes(&self) -> Result<()> {
        let pagemaps = Pagemap::read_all(&self.dir)?;
        // CRIU has sent them before it came to the hold, but our thread may not have been on a CPU since.
        let mut lazy = pagemaps.iter().filter(|pagemap| !pagemap.lazy.is_empty());
        let handed_over = |state: &State| lazy.clone().all(|pagemap| state.pids.contains(&pagemap.pid));
        match self.wait_until(HANDING_OVER, handed_over) {
            Err(Error::TimedOut { .. }) => {
                let state = self.shared.state();
                let pid = lazy.find(|pagemap| !state.pids.contains(&pagemap.pid)).map_or(0, |pagemap| pagemap.pid);
                Err(Error::Failed(format!("process {pid} was not handed over")))
            }
            result => result.map(drop),
        }
    }

    /// What the images promise and the store does not have: to be fetched. To be called when the images are there.
    pub fn missing(&self) -> Result<Ranges> {
        let of = |pagemap: &Pagemap| {
            let missing = pagemap.lazy.iter().flat_map(|range| self.store.missing(pagemap.pid, range.clone()));
            missing.map(|range| (pagemap.pid, range)).collect::<Vec<_>>()
        };
        Ok(Pagemap::read_all(&self.dir)?.iter().flat_map(of).collect())
    }

    /// By which fetched pages come.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals { store: Arc::clone(&self.store), shared: Arc::clone(&self.shared) }
    }

    /// Starts a guard over the processes of a held restore, `host_pids` as this process sees them: a process of its own
    /// that ends them if who fills them is killed before they have all their memory. Without it they would run on, and what
    /// they lack would read as zero. Their children are ended where the first process of a pid namespace is among them.
    ///
    /// With [`FillOptions::apart`] the handler is a process of its own from here on, which this one's end does not end, and its
    /// guard takes its place rather than end anything. The store must be complete: what comes into it later does not reach
    /// that process.
    pub fn guard(&self, host_pids: &[i32]) -> Result<()> {
        self.shared.state().guard_asked = Some(host_pids.to_vec());
        self.shared.wake();
        let mut state = self.shared.state();
        loop {
            self.healthy(&state)?;
            if let Some(result) = state.guarded.take() {
                return result.map_err(Error::Failed);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins to fill. To be called when the restore is held; without it filling begins when the processes run.
    pub fn start_filling(&self) {
        self.shared.fill.store(true, Ordering::SeqCst);
        self.shared.wake();
    }

    /// Waits until every process has all its memory and nothing of userfaultfd is left in it.
    pub fn wait_filled(&self, within: Duration) -> Result<Stats> {
        self.wait_until(within, |state| state.phase == Phase::Filled)
    }

    /// Waits until the processes of a held restore have all their memory, after [`LazyHandler::start_filling`]: they
    /// will then run without a single fault.
    pub fn wait_ready(&self, within: Duration) -> Result<Stats> {
        self.wait_until(within, |state| state.ready || state.phase == Phase::Filled)
    }

    fn wait_until(&self, within: Duration, done: impl Fn(&State) -> bool) -> Result<Stats> {
        // None: for ever.
        let deadline = Instant::now().checked_add(within);
        let mut state = self.shared.state();
        loop {
            self.healthy(&state)?;
            if done(&state) {
                return Ok(state.stats);
            }
            let left = deadline.map_or(Duration::from_secs(3600), |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::TimedOut { what: "filling the memory" });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.shared.state().stats
    }

    fn healthy(&self, state: &State) -> Result<()> {
        match &state.phase {
            Phase::Failed(why) => Err(Error::Failed(why.clone())),
            Phase::Aborted => Err(Error::Aborted),
            _ => Ok(()),
        }
    }
}

impl Drop for LazyHandler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(self.dir.join(SOCKET));
    }
}

/// Whether the store has every page that the images promise; the error says what is missing.
pub fn check_complete(store: &PageStore, pagemaps: &[Pagemap]) -> Result<()> {
    for pagemap in pagemaps {
        let ranges: Vec<Range<u64>> =
            pagemap.lazy.iter().flat_map(|range| store.missing(pagemap.pid, range.clone())).collect();
        if !ranges.is_empty() {
            return Err(Error::Missing { pid: pagemap.pid, ranges });
        }
    }
    Ok(())
}
