//! The handler's thread: CRIU's protocol of handing over, and the loop of events, faults and filling.
//!
//! One thread does everything, so that no page can be put in a place that the process has just moved: between reading
//! an event and acting on it nothing else happens.
//!
//! CRIU connects once. For each process, in no order, it sends a pid (i32; negative for a zombie, which has no memory)
//! and then one byte with the userfaultfd (SCM_RIGHTS); when all processes are about to run, 0x52535446.

mod alone;
mod handover;
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

use crate::apart::{Apart, Standby, Started};
use crate::guard::Guard;
use crate::handler::{FillOptions, Phase, Shared};
use crate::images::Pagemap;
use crate::pending::Pending;
use crate::store::PageStore;
use crate::task::{Step, Task};
use crate::uffd::{Event, Uffd};

/// What CRIU sends when all processes are about to run.
const RESTORED: i32 = 0x5253_5446;

/// See the module.
pub(crate) struct Server {
    dir: PathBuf,
    /// None once CRIU has come, in a process of its own.
    listener: Option<UnixListener>,
    store: Arc<PageStore>,
    options: FillOptions,
    shared: Arc<Shared>,
    criu: Option<UnixStream>,
    tasks: Vec<Task>,
    /// Dropped after the tasks are.
    guard: Option<Guard>,
    /// A process that is to go on from [`Server::start_guard`] on.
    started: Option<Started>,
    /// It has gone on.
    handed_over: bool,
    /// In that process.
    apart: Option<Apart>,
    /// Of the next task.
    next_id: u64,
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
        listener: Option<UnixListener>,
        store: Arc<PageStore>,
        options: FillOptions,
        shared: Arc<Shared>,
    ) -> Self {
        let idle = Instant::now();
        Self {
            guard: None,
            started: None,
            handed_over: false,
            apart: None,
            next_id: 0,
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

    pub(crate) fn with_started(self, started: Option<Started>) -> Self {
        Self { started, ..self }
    }

    pub(crate) fn run(mut self) {
        let end = self.serve().unwrap_or_else(Phase::Failed);
        if !self.released {
            self.refuse();
        }
        let failed = matches!(end, Phase::Failed(_));
        if !failed {
            // A handler that is a process of its own has closed its.
            self.tasks.clear();
        }
        self.shared.set(end);
        if failed && (self.released || self.handed_over) {
            // The processes may run: without these descriptors what they lack would read as zeroes. Whoever is told of the
            // failure ends the processes and drops the handler.
            while !self.shared.stop.load(Ordering::SeqCst) {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        }
    }

    /// The restore must not go on without us. Closing would not do: a child that the caller has forked, and that has not
    /// yet begun its own program, has these descriptors too.
    fn refuse(&self) {
        if let Some(listener) = &self.listener {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
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
            if let Some(pids) = guard_asked
                && let Some(end) = self.start_guard(&pids)
            {
                return Ok(end);
            }
            self.keep_guarded();
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
                    self.tell_guard(None);
                }
            }
            if self.released && self.tasks.is_empty() {
                return Ok(Phase::Filled);
            }
            let block = !filling || !self.tasks.iter().any(Task::is_busy) && self.shared.state().arrived.is_empty();
            if let Some(apart) = &mut self.apart {
                apart.tell(&self.shared);
            }
            let ready = self.wait(block).map_err(|e| format!("cannot wait: {e}"))?;
            if block || ready.events.is_empty() {
                self.idle = Instant::now();
            }
            for n in ready.events {
                self.on_events(n)?;
            }
            if let (true, Some(listener)) = (ready.listener, &self.listener) {
                self.criu = Some(listener.accept().map_err(|e| format!("cannot accept: {e}"))?.0);
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

    /// Starts a guard. Where another process goes on from here, this returns when that is through, with its end.
    fn start_guard(&mut self, pids: &[i32]) -> Option<Phase> {
        let Some(started) = self.started.take() else {
            let uffds: Vec<_> = self.tasks.iter().map(|t| t.uffd.as_fd().as_raw_fd()).collect();
            let guard = Guard::start(&uffds, pids).map_err(|e| format!("no guard: {e}"));
            self.shared.guarded(guard.map(|guard| self.guard = Some(guard)));
            return None;
        };
        let handed_over = self.to_hand_over(pids).and_then(|(_file, descriptors)| started.hand_over(&descriptors));
        match handed_over {
            Ok(owner) => {
                self.handed_over = true;
                self.shared.guarded(Ok(()));
                let tasks = &mut self.tasks;
                let end = owner.stand_for(&self.shared, || tasks.clear());
                self.released = self.shared.state().phase == Phase::Released;
                Some(end)
            }
            Err(error) => {
                let why = format!("its memory was not handed over: {error}");
                self.shared.guarded(Err(why.clone()));
                Some(Phase::Failed(why))
            }
        }
    }

    /// What there is to do.
    fn wait(&mut self, block: bool) -> io::Result<Ready> {
        let apart = self.apart.as_ref();
        let mut watched = vec![match apart {
            None => Some((Watched::Wake, self.shared.wake.as_fd())),
            Some(apart) => apart.line().map(|line| (Watched::Owner, line)),
        }];
        let guard = apart.and_then(|apart| apart.standby.as_ref()?.line());
        watched.push(guard.map(|line| (Watched::Guard, line.as_fd())));
        watched.push(match (&self.criu, &self.listener) {
            (Some(criu), _) => Some((Watched::Criu, criu.as_fd())),
            (None, listener) => listener.as_ref().map(|listener| (Watched::Listener, listener.as_fd())),
        });
        let tasks = self.tasks.iter().enumerate().map(|(n, task)| (Watched::Task(n), task.uffd.as_fd()));
        let watched: Vec<_> = watched.into_iter().flatten().chain(tasks).collect();
        let mut fds: Vec<_> = watched.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let timeout = if block { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let what: Vec<Watched> = watched.iter().zip(is_ready).filter(|(_, ready)| *ready).map(|(w, _)| w.0).collect();
        let mut ready = Ready { events: Vec::new(), listener: false, criu: false };
        for what in what {
            match what {
                Watched::Wake => _ = self.shared.wake.read(),
                Watched::Owner => self.apart.iter_mut().for_each(|apart| apart.hear(&self.shared)),
                Watched::Guard => self.guard_of_it().into_iter().for_each(Standby::end),
                Watched::Listener => ready.listener = true,
                Watched::Criu => ready.criu = true,
                Watched::Task(n) => ready.events.push(n),
            }
        }
        Ok(ready)
    }

    fn guard_of_it(&mut self) -> Option<&mut Standby> {
        self.apart.as_mut()?.standby.as_mut()
    }

    /// What a task has done, or that all are filled.
    fn tell_guard(&mut self, what: Option<(u64, &Event)>) {
        if let Some(guard) = self.guard_of_it() {
            guard.tell(what);
        }
    }

    /// Something is being read that nobody can read once more.
    fn busy(&self, so: bool) {
        if let Some(apart) = &self.apart {
            apart.flags.busy.store(so, Ordering::SeqCst);
        }
    }

    /// What a task has done; its guard knows it when this returns.
    fn read_events(&mut self, n: usize) -> io::Result<Vec<Event>> {
        self.busy(true);
        let events = self.tasks[n].uffd.events()?;
        for event in events.iter().filter(|event| !matches!(event, Event::Fault(_))) {
            self.tell_guard(Some((self.tasks[n].id, event)));
        }
        self.busy(false);
        Ok(events)
    }

    fn on_events(&mut self, n: usize) -> Result<(), String> {
        let woken = self.idle;
        let events = self.read_events(n);
        let task = &mut self.tasks[n];
        let outcome = events.and_then(|events| task.on_events(events, &self.store));
        let outcome = outcome.map_err(|e| format!("process {}: {e}", task.pid))?;
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
        self.adopt(outcome.children);
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
        self.busy(true);
        let read = criu.read_exact(&mut pid);
        if let (Some(apart), Ok(()), RESTORED) = (&self.apart, &read, i32::from_ne_bytes(pid)) {
            apart.flags.released.store(true, Ordering::SeqCst);
        }
        self.busy(false);
        match read {
            Ok(()) => {}
            Err(_) if self.released => {
                self.criu = None;
                return Ok(true);
            }
            Err(_) => return Ok(false),
        }
        match i32::from_ne_bytes(pid) {
            RESTORED => self.run_now(),
            zombie if zombie < 0 => {}
            pid => {
                let uffd = descriptor(criu).map_err(|e| format!("no userfaultfd for process {pid}: {e}"))?;
                self.take_over(pid, uffd)?;
            }
        }
        Ok(true)
    }

    fn run_now(&mut self) {
        self.released = true;
        self.tasks.iter_mut().for_each(|t| t.runs = true);
        self.shared.set(Phase::Released);
    }

    fn take_over(&mut self, pid: i32, uffd: Uffd) -> Result<(), String> {
        if self.apart.is_some() {
            return Err(format!("process {pid} comes after all others were handed over"));
        }
        let pagemap = Pagemap::read(&self.dir, pid).map_err(|e| e.to_string())?;
        let mut hot: VecDeque<_> = self.options.hot.iter().filter(|(p, _)| *p == pid).map(|(_, r)| r.clone()).collect();
        let fetches = self.options.remote.is_some();
        if fetches {
            hot.extend(self.store.ranges(pid));
        }
        self.tasks.push(Task::new(self.next_id, pid, uffd, Pending::new(pagemap.lazy), hot, fetches));
        self.next_id += 1;
        self.shared.took_over(pid);
        Ok(())
    }
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Watched {
    Wake,
    Owner,
    Guard,
    Listener,
    Criu,
    Task(usize),
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
