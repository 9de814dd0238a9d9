//! The handler's thread: CRIU's protocol of handing over, and the loop of events, faults and filling.
//!
//! One thread does everything, so that no page can be put in a place that the process has just moved: between reading
//! an event and acting on it nothing else happens.
//!
//! CRIU connects once. For each process, in no order, it sends a pid (i32; negative for a zombie, which has no memory)
//! and then one byte with the userfaultfd (SCM_RIGHTS); when all processes are about to run, 0x52535446.

mod take_in;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, Shutdown, recvmsg, shutdown};

use crate::guard::Guard;
use crate::handler::{FillOptions, Phase, Shared};
use crate::images::Pagemap;
use crate::store::PageStore;
use crate::task::{Step, Task};
use crate::uffd::Uffd;

/// What CRIU sends when all processes are about to run.
const RESTORED: i32 = 0x5253_5446;

/// See the module.
pub(crate) struct Server {
    dir: PathBuf,
    listener: UnixListener,
    store: Arc<PageStore>,
    options: FillOptions,
    shared: Arc<Shared>,
    criu: Option<UnixStream>,
    tasks: Vec<Task>,
    /// Dropped after the tasks are.
    guard: Option<Guard>,
    /// CRIU has said that the processes run.
    released: bool,
    fill_start: Option<Instant>,
    /// When there was last nothing to answer.
    idle: Instant,
    /// Pages that were asked for, and since when.
    wanted: BTreeMap<(i32, u64), Instant>,
    /// All that is elsewhere has been asked for.
    flows: bool,
}

impl Server {
    pub(crate) fn new(
        dir: PathBuf,
        listener: UnixListener,
        store: Arc<PageStore>,
        options: FillOptions,
        shared: Arc<Shared>,
    ) -> Self {
        let idle = Instant::now();
        Self {
            guard: None,
            dir,
            listener,
            store,
            options,
            shared,
            criu: None,
            tasks: Vec::new(),
            released: false,
            fill_start: None,
            idle,
            wanted: BTreeMap::new(),
            flows: false,
        }
    }

    pub(crate) fn run(mut self) {
        let end = match self.serve() {
            Ok(phase) => phase,
            Err(why) => Phase::Failed(why),
        };
        if !self.released {
            self.refuse();
        }
        let failed = matches!(end, Phase::Failed(_));
        self.shared.set(end);
        if failed && self.released {
            // The processes run: without these descriptors what they lack would read as zeroes. Whoever is told of the
            // failure ends the processes and drops the handler.
            while !self.shared.stop.load(Ordering::SeqCst) {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        }
    }

    /// The restore must not go on without us. Closing would not do: a child that the caller has forked, and that has not
    /// yet begun its own program, has these descriptors too.
    fn refuse(&self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(criu) = &self.criu {
            let _ = shutdown(criu.as_raw_fd(), Shutdown::Both);
        }
    }

    fn serve(&mut self) -> Result<Phase, String> {
        loop {
            let stop = self.shared.stop.load(Ordering::SeqCst);
            if stop && (!self.released || self.options.remote.is_some()) {
                return Ok(Phase::Aborted);
            }
            if let Some(why) = self.shared.state().lost.take() {
                return Err(why);
            }
            let guard_asked = self.shared.state().guard_asked.take();
            if let Some(pids) = guard_asked {
                let uffds: Vec<_> = self.tasks.iter().map(|t| t.uffd.as_fd().as_raw_fd()).collect();
                let started = Guard::start(&uffds, &pids).map_err(|e| format!("no guard: {e}"));
                self.shared.guarded(started.map(|guard| self.guard = Some(guard)));
            }
            let filling = self.released || self.shared.fill.load(Ordering::SeqCst);
            self.take_in(filling)?;
            let missing = self.tasks.iter().any(|t| !t.pending.is_empty());
            if filling && !self.tasks.is_empty() {
                if !std::mem::replace(&mut self.flows, true)
                    && let Some(remote) = &self.options.remote
                {
                    remote.flow();
                }
                let start = *self.fill_start.get_or_insert_with(Instant::now);
                if !missing {
                    self.shared.filled(start.elapsed());
                    // Closing them takes what is left of userfaultfd out of the processes.
                    self.tasks.clear();
                    self.guard = None;
                }
            }
            if self.released && self.tasks.is_empty() {
                return Ok(Phase::Filled);
            }
            let block = !filling || !self.tasks.iter().any(Task::is_busy) && self.shared.state().arrived.is_empty();
            let ready = self.wait(block).map_err(|e| format!("cannot wait: {e}"))?;
            if block || ready.events.is_empty() {
                self.idle = Instant::now();
            }
            for n in ready.events {
                self.on_events(n)?;
            }
            if ready.listener {
                self.criu = Some(self.listener.accept().map_err(|e| format!("cannot accept: {e}"))?.0);
                self.shared.set(Phase::Restoring);
            }
            if ready.criu && !self.on_criu()? {
                return Ok(Phase::Aborted);
            }
            if filling {
                self.fill_some()?;
                // To whoever has been woken on this CPU: the scheduler alone would let it wait for milliseconds.
                std::thread::yield_now();
            }
            self.tasks.retain(|t| !t.gone);
        }
    }

    /// What there is to do.
    fn wait(&self, block: bool) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.tasks.iter().map(|t| PollFd::new(t.uffd.as_fd(), PollFlags::POLLIN)));
        match &self.criu {
            Some(criu) => fds.push(PollFd::new(criu.as_fd(), PollFlags::POLLIN)),
            None => fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)),
        }
        let timeout = if block { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let last = any(&fds[fds.len() - 1]);
        let events = (0..self.tasks.len()).filter(|n| any(&fds[n + 1])).collect();
        if any(&fds[0]) {
            let _ = self.shared.wake.read();
        }
        Ok(Ready { events, listener: last && self.criu.is_none(), criu: last && self.criu.is_some() })
    }

    fn on_events(&mut self, n: usize) -> Result<(), String> {
        let woken = self.idle;
        let task = &mut self.tasks[n];
        let outcome = task.on_events(&self.store).map_err(|e| format!("process {}: {e}", task.pid))?;
        task.gone |= outcome.gone;
        let pid = task.pid;
        let took = woken.elapsed();
        let mut state = self.shared.state();
        state.stats.faults += outcome.faults;
        state.stats.filled += outcome.filled;
        state.stats.processes += outcome.children.len() as u64;
        if outcome.faults > 0 {
            state.stats.worst_fault = state.stats.worst_fault.max(took);
            state.stats.all_faults += took * u32::try_from(outcome.faults).unwrap_or(u32::MAX);
        }
        drop(state);
        self.tasks.extend(outcome.children);
        for addr in outcome.wanted {
            if let (Some(remote), Entry::Vacant(new)) = (&self.options.remote, self.wanted.entry((pid, addr))) {
                new.insert(Instant::now());
                remote.want(pid, addr);
            }
        }
        match outcome.poisoned {
            Some(addr) => Err(format!("page {addr:#x} of process {pid} is not in the store")),
            None => Ok(()),
        }
    }

    fn fill_some(&mut self) -> Result<(), String> {
        let Some(task) = self.tasks.iter_mut().find(|t| t.is_busy()) else { return Ok(()) };
        match task.fill_some(&self.store).map_err(|e| format!("process {}: {e}", task.pid))? {
            Step::Absent => {
                let first = task.pending.next_from(0, 1).map_or(0, |p| p.at.start);
                return Err(format!("page {first:#x} of process {} is not in the store", task.pid));
            }
            Step::Filled(bytes) => self.shared.state().stats.filled += bytes,
            Step::Events | Step::Idle => {}
            Step::Gone => task.gone = true,
        }
        Ok(())
    }

    /// A message of CRIU's; false when it has gone away before it was through.
    fn on_criu(&mut self) -> Result<bool, String> {
        let Some(mut criu) = self.criu.as_ref() else { return Ok(true) };
        let mut pid = [0; 4];
        match criu.read_exact(&mut pid) {
            Ok(()) => {}
            Err(_) if self.released => {
                self.criu = None;
                return Ok(true);
            }
            Err(_) => return Ok(false),
        }
        match i32::from_ne_bytes(pid) {
            RESTORED => {
                self.released = true;
                self.tasks.iter_mut().for_each(|t| t.runs = true);
                self.shared.set(Phase::Released);
            }
            zombie if zombie < 0 => {}
            pid => {
                let uffd = descriptor(criu).map_err(|e| format!("no userfaultfd for process {pid}: {e}"))?;
                self.take_over(pid, uffd)?;
            }
        }
        Ok(true)
    }

    fn take_over(&mut self, pid: i32, uffd: Uffd) -> Result<(), String> {
        let pagemap = Pagemap::read(&self.dir, pid).map_err(|e| e.to_string())?;
        let mut hot: VecDeque<_> = self.options.hot.iter().filter(|(p, _)| *p == pid).map(|(_, r)| r.clone()).collect();
        let fetches = self.options.remote.is_some();
        if fetches {
            hot.extend(self.store.ranges(pid));
        }
        self.tasks.push(Task::new(pid, uffd, pagemap.lazy, hot, fetches));
        self.shared.took_over(pid);
        Ok(())
    }
}

struct Ready {
    /// Tasks that have events.
    events: Vec<usize>,
    listener: bool,
    criu: bool,
}

/// The descriptor that comes with the next byte.
fn descriptor(criu: &UnixStream) -> io::Result<Uffd> {
    let mut byte = [0];
    let mut room = [IoSliceMut::new(&mut byte)];
    let mut rights = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(criu.as_raw_fd(), &mut room, Some(&mut rights), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            return Ok(Uffd::received(*fd));
        }
    }
    Err(io::Error::other("none was sent"))
}
