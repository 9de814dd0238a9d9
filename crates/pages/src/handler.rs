//! The handler: a thread that serves the memory of restored processes.

use std::fs;
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
use crate::error::{Context, Error, Result};
use crate::images::Pagemap;
use crate::serve::Server;
use crate::store::PageStore;

/// CRIU's name for the socket on which a lazy restore expects whoever has the memory.
const SOCKET: &str = "lazy-pages.socket";

/// How long processes that are held may take to be handed over.
const HANDING_OVER: Duration = Duration::from_secs(5);

/// In which order to fill.
#[derive(Debug, Clone, Default)]
pub struct FillOptions {
    /// What to fill first, by the pids of the images: what was written to most recently is likely to be touched first.
    pub hot: Vec<(i32, Range<u64>)>,
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
    pub stats: Stats,
}

impl Shared {
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

    fn wake(&self) {
        // It can only fail when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }
}

/// Serves the memory of the processes that CRIU restores from one directory of images. See the crate's documentation
/// for the order of calls.
///
/// Dropping it before the restore is through breaks the restore off; afterwards it waits until all is filled.
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
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).context(|| "make an eventfd".into())?;
        let state = State {
            phase: Phase::Waiting,
            pids: Vec::new(),
            ready: false,
            guard_asked: None,
            guarded: None,
            stats: Stats::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake,
            fill: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let server = Server::new(dir.to_path_buf(), listener, store.clone(), options, shared.clone());
        let thread = std::thread::Builder::new().name("pages".into()).spawn(move || server.run());
        let thread = thread.context(|| "start a thread".into())?;
        Ok(Self { dir: dir.to_path_buf(), store, shared, thread: Some(thread) })
    }

    /// Whether the restore may go beyond the commit point. To be called while it is held: every process of the images
    /// has been handed over, and every page that the images promise is in the store.
    pub fn check(&self) -> Result<()> {
        let pagemaps = Pagemap::read_all(&self.dir)?;
        check_complete(&self.store, &pagemaps)?;
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

    /// Starts a guard over the processes of a held restore, `host_pids` as this process sees them: a process of its own
    /// that ends them if this one is killed before they have all their memory. Without it they would run on, and what
    /// they lack would read as zero. Their children are ended where the first process of a pid namespace is among them.
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
        let deadline = Instant::now() + within;
        let mut state = self.shared.state();
        loop {
            self.healthy(&state)?;
            if done(&state) {
                return Ok(state.stats);
            }
            let left = deadline.saturating_duration_since(Instant::now());
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
