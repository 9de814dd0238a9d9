//! All threads of a process stand still for a moment, and go on as if nothing had been.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::arch;
use crate::error::{Context, Error, Result};
use crate::handle::Handle;
use crate::inject;
use crate::procfs;
use crate::ptrace::{self, Stop};
use crate::sys;

/// How often new threads are looked for. A process that starts more than it can stop is not stopped.
const TURNS: usize = 20;
/// How long all of them may take to stop, however many they are and whatever else the machine does.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Does `work` while no thread of the process runs, nor any other in its memory; what came of it, and how long it stood. Threads that do not run as it is,
/// because their control group is frozen, are left alone.
pub(crate) fn while_still<T: Send>(handle: &Handle, work: impl FnOnce() -> T + Send) -> Result<(T, Duration)> {
    let by = procfs::status(handle.pid, "TracerPid")?;
    if by != 0 {
        return Err(Error::Traced { pid: handle.pid, by });
    }
    // A thread of our own: when it ends, however it does, the kernel lets go of all that it had seized.
    std::thread::scope(|scope| {
        let stopping = move || {
            let began = Instant::now();
            let mut still = Still { handle, threads: BTreeMap::new() };
            still.stop_all()?;
            let done = work();
            drop(still);
            Ok((done, began.elapsed()))
        };
        let thread = std::thread::Builder::new().name("godwit-still".into()).spawn_scoped(scope, stopping);
        let joined = thread.context(|| "start a thread".into())?.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What has become of a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Told to stop.
    Stopping,
    /// At a stop of ours.
    Stopped,
    /// Told to stop, and stands in the kernel until its vfork(2) child, which stands too, lets it go.
    Waiting,
    /// It ends, or has ended, or is frozen.
    DoesNotRun,
}

#[derive(Clone, Copy)]
struct Thread {
    pid: i32,
    state: State,
}

struct Still<'a> {
    handle: &'a Handle,
    threads: BTreeMap<i32, Thread>,
}

impl Still<'_> {
    /// Stops all threads of the process, and of those that share its memory.
    fn stop_all(&mut self) -> Result<()> {
        let began = Instant::now();
        for _ in 0..TURNS {
            let mut new = false;
            for pid in self.processes() {
                let threads = match procfs::running_threads(pid) {
                    Err(Error::Ended { .. }) if pid != self.handle.pid => continue,
                    threads => threads?,
                };
                for (tid, state) in threads {
                    new |= self.order(pid, tid, state)?;
                }
            }
            if !new {
                return Ok(());
            }
            self.await_all(began)?;
        }
        Err(Error::DidNotStop { pid: self.handle.pid, after: began.elapsed() })
    }

    /// The process and its descendants in the same memory, which have not called exec after vfork(2), say.
    fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.handle.pid];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            all.extend(guests(pid));
            next += 1;
        }
        all
    }

    /// Tells a thread to stop; true if it was not known.
    fn order(&mut self, pid: i32, tid: i32, state: char) -> Result<bool> {
        let known = self.threads.get(&tid).map(|thread| thread.state);
        if known.is_some_and(|known| known != State::DoesNotRun) {
            return Ok(false);
        }
        let state = if matches!(state, 'Z' | 'X') || is_frozen(pid, tid) {
            State::DoesNotRun
        } else {
            match ptrace::seize(tid, false).and_then(|()| ptrace::interrupt(tid)) {
                Ok(()) => State::Stopping,
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => State::DoesNotRun,
                Err(e) => return Err(inject::gone(pid, e, "trace")),
            }
        };
        self.threads.insert(tid, Thread { pid, state });
        Ok(known != Some(state))
    }

    fn await_all(&mut self, began: Instant) -> Result<()> {
        for (tid, Thread { pid, state }) in &mut self.threads {
            let mut turn = 0u32;
            while *state == State::Stopping {
                *state = stop_of(*tid, *pid)?;
                turn += 1;
                if *state != State::Stopping || turn <= 50 {
                    std::thread::yield_now();
                } else if is_frozen(*pid, *tid) {
                    // Just now: its stop comes when it is thawed, and by then we have let go.
                    *state = State::DoesNotRun;
                } else if procfs::state(*pid, *tid) == Some('D') && !guests(*pid).is_empty() {
                    *state = State::Waiting;
                } else if sys::has_ended(self.handle.pidfd.as_fd()) {
                    return Err(Error::Ended { pid: self.handle.pid });
                } else if began.elapsed() > STOP_WITHIN {
                    return Err(Error::DidNotStop { pid: *pid, after: STOP_WITHIN });
                } else {
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
        }
        Ok(())
    }
}

/// Children that live in the process's memory.
fn guests(pid: i32) -> Vec<i32> {
    let children = procfs::children(pid);
    children.into_iter().filter(|child| sys::same_memory(pid, *child)).collect()
}

fn stop_of(tid: i32, pid: i32) -> Result<State> {
    match ptrace::wait(tid) {
        Ok(None) => Ok(State::Stopping),
        Ok(Some(Stop::Event)) => Ok(State::Stopped),
        Ok(Some(Stop::Syscall)) => resume(tid, 0, pid),
        // Signals that were on their way are delivered first, as they would have been; our order still holds.
        Ok(Some(Stop::Signal(signal))) => resume(tid, signal, pid),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ECHILD)) => Ok(State::DoesNotRun),
        Err(e) => Err(inject::gone(pid, e, "wait for")),
    }
}

fn resume(tid: i32, signal: i32, pid: i32) -> Result<State> {
    match ptrace::resume(tid, signal) {
        Ok(()) => Ok(State::Stopping),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(State::DoesNotRun),
        Err(e) => Err(inject::gone(pid, e, "resume")),
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        for (tid, Thread { pid, state }) in &self.threads {
            if *state == State::Stopped {
                take_up_again(*pid, *tid);
                // One that was killed meanwhile is nobody's any more.
                let _ = ptrace::detach(*tid);
            }
        }
        // Threads that have not stopped are let go of with the end of our own.
    }
}

/// A call that returns EINTR to the program only because we came is made again.
fn take_up_again(pid: i32, tid: i32) {
    let Ok(registers) = ptrace::registers(tid) else { return };
    if let Some((number, argument)) = arch::interrupted_call(&registers)
        && inject::restarts(pid, number, argument)
    {
        let _ = ptrace::set_registers(tid, &arch::restart_unless_handled(&registers));
    }
}

/// Whether the thread stands in a frozen control group of version 1, where no order to stop reaches it. (Those of
/// version 2 stop for a tracer all the same.)
fn is_frozen(pid: i32, tid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan")).is_ok_and(|place| place.contains("refrigerator"))
}
