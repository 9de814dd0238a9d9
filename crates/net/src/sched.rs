//! Getting a thread onto a processor at once, on a machine where others keep it busy.

#![allow(unsafe_code)] // sched_setattr(2) and prctl(2) have no safe wrapper

use std::fmt;
use std::io;

/// Low among the real-time priorities: above every ordinary thread, below the kernel's own.
const FIFO_PRIORITY: u32 = 10;

/// What the thread of a link runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Priority {
    /// `SCHED_FIFO`: ordinary load does not delay it.
    RealTime,
    /// Nice -20: load of other sessions or cgroups may delay it, since shares between groups go first.
    Nice,
    /// An ordinary thread: a busy machine adds milliseconds.
    Ordinary,
}

impl Priority {
    /// True if the delay holds on a busy machine too.
    pub const fn is_dependable(self) -> bool {
        matches!(self, Self::RealTime)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RealTime => "real-time (SCHED_FIFO)",
            Self::Nice => "nice -20",
            Self::Ordinary => "ordinary",
        })
    }
}

/// `struct sched_attr`, first version (48 bytes); see sched_setattr(2).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Raises the calling thread as far as is permitted, and makes its timers exact.
pub(crate) fn raise_current_thread() -> Priority {
    // SAFETY: PR_SET_TIMERSLACK takes its argument by value and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    let fifo = SchedAttr { policy: libc::SCHED_FIFO.cast_unsigned(), priority: FIFO_PRIORITY, ..SchedAttr::default() };
    // A short slice (Linux 6.12, ignored before) brings the thread to the front when it wakes.
    let nice = SchedAttr { nice: -20, runtime: 100_000, ..SchedAttr::default() };
    let nice_before_6_12 = SchedAttr { nice: -20, ..SchedAttr::default() };
    if set_attr(fifo).is_ok() {
        Priority::RealTime
    } else if set_attr(nice).is_ok() || set_attr(nice_before_6_12).is_ok() {
        Priority::Nice
    } else {
        Priority::Ordinary
    }
}

fn set_attr(mut attr: SchedAttr) -> io::Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: pid 0 is the calling thread; the kernel reads `size` bytes at the pointer, which is a live
    // sched_attr of that size.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
