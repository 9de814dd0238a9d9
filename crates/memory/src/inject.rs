//! A visit to a process: one of its threads is stopped for some 100 microseconds, makes a userfaultfd, and goes on as
//! if nothing had been.
//!
//! ```text
//!   SEIZE, INTERRUPT ─► stop (a) ─► userfaultfd ─ pidfd_getfd ─ close ─► INTERRUPT ─► stop (b) ─► DETACH
//!                       registers, signal mask, rseq saved      …and put back at the same place in the kernel
//! ```
//!
//! Both stops are at the point where the kernel looks for signals before it returns to the program. A system call that
//! the visit interrupted is taken up again from there by the kernel itself, by the rules that hold for a signal without
//! a handler; and if a signal has come meanwhile, by the rules for that one. The few calls that have no such rules and
//! return EINTR after any interruption (epoll_wait is one) get those of pause(2).
//!
//! What it does not touch: the program's text (the instruction that enters the kernel is found, not written), its
//! stack, and its other threads, which run on.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::arch;
use crate::entry;
use crate::error::{Context, Error, Result};
use crate::procfs;
use crate::ptrace::{self, Registers, Stop};
use crate::range::PageRange;
use crate::sys::{self, Iovecs};

/// How long a thread may take to stop. One that runs or sleeps does so at once; one that waits for a disk or for its
/// vfork(2) child does so after.
const STOP_WITHIN: Duration = Duration::from_millis(100);
/// How long a system call of ours may take, which takes microseconds.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait for the stop that everything is put back at. Not to get there is the worst that can happen.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// How many threads of a process are tried.
const THREADS_TRIED: usize = 4;

const RSEQ_CRITICAL_SECTION: u64 = 8;

/// What a visit brings home.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The userfaultfd of the process's memory; the process itself has none any more.
    pub uffd: OwnedFd,
    /// From the order to stop to the release: the most that the thread can have stood still.
    pub stopped: Duration,
}

/// Makes a userfaultfd in the process and fetches it.
pub(crate) fn userfaultfd_of(pid: i32, pidfd: BorrowedFd<'_>) -> Result<Visit> {
    arch::SUPPORTED.map_err(|why| Error::Unsupported { why: why.into() })?;
    let by = procfs::status(pid, "TracerPid")?;
    if by != 0 {
        return Err(Error::Traced { pid, by });
    }
    let mut threads = procfs::running_threads(pid)?;
    let instruction = entry::find(pid)?;
    threads.sort_by_key(|(_, state)| *state == 'D');
    let mut last = Error::DidNotStop { pid, after: STOP_WITHIN };
    for (tid, _) in threads.into_iter().take(THREADS_TRIED) {
        let visitor = || visit(pid, tid, pidfd, instruction);
        // A thread of our own for each: when it ends, the kernel lets go of what it had seized, stopped or not.
        let outcome = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("godwit-visit".into()).spawn_scoped(scope, visitor);
            thread.context(|| "start a thread".into()).map(|t| t.join())
        })?;
        match outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Err(e @ Error::DidNotStop { .. }) => last = e,
            other => return other,
        }
    }
    Err(last)
}

fn visit(pid: i32, tid: i32, pidfd: BorrowedFd<'_>, instruction: Option<u64>) -> Result<Visit> {
    seize(pid, tid)?;
    let began = Instant::now();
    ptrace::interrupt(tid).map_err(|e| gone(pid, e, "interrupt"))?;
    let thread = Thread { pid, tid, pidfd };
    // Signals that were on their way are delivered first, as they would have been.
    while let Stop::Signal(signal) = thread.wait(STOP_WITHIN)? {
        ptrace::resume(tid, signal).map_err(|e| gone(pid, e, "resume"))?;
    }
    let stopped = match Stopped::new(thread, instruction) {
        Ok(stopped) => stopped,
        Err(e) => {
            // Nothing was changed yet.
            let _ = ptrace::detach(tid);
            return Err(e);
        }
    };
    let fetched = stopped.fetch_userfaultfd();
    stopped.leave()?;
    let stood = began.elapsed();
    fetched.map(|uffd| Visit { uffd, stopped: stood })
}

fn seize(pid: i32, tid: i32) -> Result<()> {
    let Err(e) = ptrace::seize(tid, true) else { return Ok(()) };
    let by = procfs::status(pid, "TracerPid")?;
    if by != 0 {
        return Err(Error::Traced { pid, by });
    }
    // Without the right to suspend filters (CAP_SYS_ADMIN, and none of our own), only a process without any.
    if procfs::status(pid, "Seccomp")? != 0 {
        return Err(Error::Unsupported {
            why: format!("the seccomp filter of process {pid} cannot be suspended ({e}): CAP_SYS_ADMIN is needed"),
        });
    }
    ptrace::seize(tid, false).map_err(|e| gone(pid, e, "trace"))
}

pub(crate) fn gone(pid: i32, e: std::io::Error, what: &str) -> Error {
    match e.raw_os_error() {
        Some(libc::ESRCH | libc::ECHILD) => Error::Ended { pid },
        _ => Error::Io { what: format!("{what} process {pid}"), source: e },
    }
}

/// A thread that we trace.
#[derive(Clone, Copy)]
struct Thread<'a> {
    pid: i32,
    tid: i32,
    pidfd: BorrowedFd<'a>,
}

impl Thread<'_> {
    fn wait(&self, within: Duration) -> Result<Stop> {
        let began = Instant::now();
        for turn in 0u32.. {
            if let Some(stop) = ptrace::wait(self.tid).map_err(|e| gone(self.pid, e, "wait for"))? {
                return Ok(stop);
            }
            // Most stops are there within microseconds, and every one that we wait is one that the thread stands.
            if turn < 200 {
                std::thread::yield_now();
                continue;
            }
            if sys::has_ended(self.pidfd) {
                return Err(Error::Ended { pid: self.pid });
            }
            if began.elapsed() > within {
                break;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Err(Error::DidNotStop { pid: self.pid, after: within })
    }

    fn err(&self, what: &'static str) -> impl Fn(std::io::Error) -> Error + use<> {
        let pid = self.pid;
        move |e| gone(pid, e, what)
    }
}

/// A thread at stop (a), and what has to be put back.
struct Stopped<'a> {
    thread: Thread<'a>,
    /// Address of an instruction that enters the kernel.
    instruction: u64,
    registers: Registers,
    signal_mask: u64,
    /// Address and content of its restartable sequence's descriptor pointer, when it is in one.
    rseq: Option<(u64, u64)>,
}

impl<'a> Stopped<'a> {
    /// Saves all, and blocks its signals: none may find the registers that we are going to set.
    fn new(thread: Thread<'a>, instruction: Option<u64>) -> Result<Self> {
        let Thread { pid, tid, .. } = thread;
        let registers = match ptrace::registers(tid) {
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {
                return Err(Error::Untrackable { pid, why: e.to_string() });
            }
            other => other.map_err(thread.err("read the registers of"))?,
        };
        if !arch::is_native(&registers) {
            return Err(Error::Untrackable { pid, why: "it is a 32-bit process".into() });
        }
        if ptrace::dispatches_syscalls(tid) {
            return Err(Error::Untrackable { pid, why: "it intercepts its own system calls".into() });
        }
        // Looked for before the stop, to keep that short; but it may have called execve since.
        let instruction = match instruction {
            Some(at) if entry::is_at(pid, at) => at,
            _ => entry::find(pid)?.ok_or_else(|| Error::Untrackable {
                pid,
                why: "no 64-bit system call instruction was found in its code".into(),
            })?,
        };
        let rseq = ptrace::rseq_pointer(tid).and_then(|at| critical_section(pid, at + RSEQ_CRITICAL_SECTION));
        let signal_mask = ptrace::signal_mask(tid).map_err(thread.err("read the signal mask of"))?;
        ptrace::set_signal_mask(tid, u64::MAX).map_err(thread.err("set the signal mask of"))?;
        Ok(Self { thread, instruction, registers, signal_mask, rseq })
    }

    fn fetch_userfaultfd(&self) -> Result<OwnedFd> {
        let fd = self.call("userfaultfd", libc::SYS_userfaultfd, [sys::UFFD_FLAGS as u64, 0, 0])?;
        let ours = sys::pidfd_getfd(self.thread.pidfd, fd as i32)
            .context(|| format!("fetch a descriptor of process {}", self.thread.pid));
        // Its own number is closed at once: the tracking hangs on ours. Nothing is left there for a dump to stumble over.
        self.call("close", libc::SYS_close, [fd, 0, 0])?;
        ours
    }

    /// Makes the thread call the kernel.
    fn call(&self, name: &'static str, number: i64, arguments: [u64; 3]) -> Result<u64> {
        let Thread { pid, tid, .. } = self.thread;
        let registers = arch::with_call(&self.registers, self.instruction, number, arguments);
        ptrace::set_registers(tid, &registers).map_err(self.thread.err("set the registers of"))?;
        self.to_syscall()?;
        self.to_syscall()?;
        let registers = ptrace::registers(tid).map_err(self.thread.err("read the registers of"))?;
        let result = arch::result(&registers);
        u64::try_from(result).map_err(|_| {
            let errno = i32::try_from(-result).unwrap_or(libc::EIO);
            Error::Injected { pid, call: name, source: std::io::Error::from_raw_os_error(errno) }
        })
    }

    fn to_syscall(&self) -> Result<()> {
        let mut signal = 0;
        loop {
            ptrace::resume_to_syscall(self.thread.tid, signal).map_err(self.thread.err("resume"))?;
            signal = match self.thread.wait(STEP_WITHIN)? {
                Stop::Syscall => return Ok(()),
                // The process is or was stopped (SIGSTOP), which nothing blocks: the thread goes on for us alone.
                Stop::Event => 0,
                Stop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                Stop::Signal(signal) => {
                    let why = format!("its system call ended in signal {signal}");
                    return Err(Error::Untrackable { pid: self.thread.pid, why });
                }
            };
        }
    }

    /// Goes to stop (b), puts everything back, and lets go.
    fn leave(self) -> Result<()> {
        let Thread { pid, tid, .. } = self.thread;
        ptrace::interrupt(tid).map_err(self.thread.err("interrupt"))?;
        let mut signal = 0;
        loop {
            // It fails when a step timed out and the thread does not stand; the order to stop holds all the same.
            let _ = ptrace::resume(tid, signal);
            signal = match self.thread.wait(LEAVE_WITHIN)? {
                Stop::Event => break,
                Stop::Syscall => 0,
                Stop::Signal(signal) => signal,
            };
        }
        if let Some((address, section)) = self.rseq {
            // The kernel forgets a sequence when it sees the thread outside. With this it sees it inside, interrupted.
            ptrace::poke(tid, address, section).map_err(self.thread.err("write to"))?;
        }
        let registers = match arch::interrupted_call(&self.registers) {
            Some((number, argument)) if restarts(pid, number, argument) => {
                arch::restart_unless_handled(&self.registers)
            }
            _ => self.registers,
        };
        ptrace::set_registers(tid, &registers).map_err(self.thread.err("set the registers of"))?;
        ptrace::set_signal_mask(tid, self.signal_mask).map_err(self.thread.err("set the signal mask of"))?;
        ptrace::detach(tid).map_err(self.thread.err("let go of"))
    }
}

/// Whether a call that returned EINTR did so because of us, has done nothing, and can be made again.
pub(crate) fn restarts(pid: i32, number: i64, argument: u64) -> bool {
    let of_a_socket = || procfs::descriptor(pid, argument).is_some_and(|d| d.starts_with("socket:"));
    arch::EINTR_OF_THEIR_OWN.contains(&number) || (arch::EINTR_WITH_A_TIMEOUT.contains(&number) && of_a_socket())
}

/// The address that the descriptor pointer is at, and its content, when it has any.
fn critical_section(pid: i32, address: u64) -> Option<(u64, u64)> {
    let mut word = [0; 8];
    let range = PageRange::new(address, address + 8);
    let n = sys::process_vm_read(pid, &[range], &mut word, &mut Iovecs::default()).ok()?;
    let section = u64::from_ne_bytes(word);
    (n == word.len() && section != 0).then_some((address, section))
}
