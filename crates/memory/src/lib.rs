//! The memory of running processes, tracked and read from outside: what pre-copy needs, on kernels with or without
//! soft-dirty marks.
//!
//! ```text
//!   Tracker::attach(pids)          one thread of each stands still for ~0.1 ms; nothing stays in the process
//!      │
//!      ├─ pieces() ─► all that is populated: take(piece) ─► PageReader ─► the target, piece by piece
//!      ├─ round(pids) ─► what was written since ─► PageReader ─► …                decide(): another, or
//!      ┊                                                                          freeze (the caller's)
//!      ├─ round(pids) ─► the last: what the freeze has to carry ─► PageReader
//!      └─ detach()                 as if nothing had been
//! ```
//!
//! How: a userfaultfd made *in* the process (by [ptrace(2)], fetched by pidfd_getfd(2)) write-protects its private
//! mappings in the asynchronous mode of Linux 6.7: the kernel itself lifts the protection from a page on its first
//! write, and [PAGEMAP_SCAN] lists those pages and protects them again in one step, under the page table's lock. Nobody
//! has to answer a fault, so nothing can hang.
//!
//! Where the kernel is older, and has soft-dirty marks (Debian 12's has), these are read and cleared while the process
//! stands still for a moment, in every round: [`Method::SoftDirty`], [`Round::stopped`]. [`supported`] says which it is.
//!
//! # What it guarantees
//!
//! - Nothing written to a tracked mapping is missed: it is in this round or in the next. The copy of the last round
//!   that was read *after* its scan is then the page's content, once the process is frozen and a last round has been.
//!   Writes by system calls are seen. What is not seen: [`hazards`].
//! - The first copy may as well be a round: then it is of all that is populated, and all of it is protected from its beginning,
//!   which costs the service twice the faults.
//! - What is in doubt counts as written: mappings that are new, moved, grown or changed under our hands, a process after
//!   execve(2), a child after fork(2), everything after a round that failed.
//! - A round reports exactly what CRIU takes from private mappings: pages that are present or swapped, not the page of
//!   zeros, and of files only private copies.
//! - Attaching changes nothing that a program can see, save for ~0.1 ms of one thread: system calls that it interrupts
//!   are taken up again. (Waiting with a time-out by epoll_wait(2), sigtimedwait(2), semtimedop(2) or io_getevents(2), or on
//!   a socket with SO_RCVTIMEO, begins anew with the whole time-out.)
//!   What one mmap(2) gives stays one mapping; but what several gave side by side may join only a round later than it
//!   would untracked, and mremap(2) of all of it fails until then.
//! - CRIU may dump a process that is still tracked (4.2 does), for no descriptor is left in it: to detach costs ~10 ms a
//!   GiB, and can wait until the process is frozen no more, or dead. What counts at the dump is what CRIU lists: the copy
//!   of a page that it does not list (given back by madvise(2), say) is void.
//! - When the [`Tracker`] goes, dropped or killed, all of it goes.
//!
//! # What it does not do
//!
//! Shared memory, hugetlbfs and files on disk are not tracked, see [`Tracker::untracked`]. Transparent huge pages are, page
//! by page: the first write to one after a round splits it. And if another thread forks in the ~50 microseconds in which
//! the visited one has the userfaultfd, the child keeps a copy of it: [`Hazard::Userfaultfd`].
//!
//! [ptrace(2)]: https://man7.org/linux/man-pages/man2/ptrace.2.html
//! [PAGEMAP_SCAN]: https://man7.org/linux/man-pages/man2/ioctl_pagemap_scan.2.html

mod arch;
mod budget;
mod entries;
mod entry;
mod error;
mod guest;
mod handle;
mod hazard;
mod inject;
mod kind;
mod piece;
mod probe;
mod process;
mod procfs;
mod ptrace;
mod range;
mod reader;
mod registration;
mod scan;
mod soft;
mod span;
mod still;
mod sys;
mod tracked;
mod tracker;

pub use budget::{NextStep, PreCopyBudget, RoundStat, WhyFreeze, decide, dirty_rate};
pub use error::{Error, Result};
pub use hazard::{Hazard, hazards};
pub use kind::UntrackedKind;
pub use piece::Piece;
pub use probe::{Method, supported};
pub use range::{PageRange, total_bytes};
pub use reader::{Chunk, PageReader, ReadReport, is_zero};
pub use tracker::{Attached, ProcessRound, Round, Tracker, Untracked};
