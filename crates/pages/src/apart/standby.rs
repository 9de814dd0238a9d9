//! The handler's guard: a fork of it, which knows what it knows, and takes its place.
//!
//! What a process does to its mappings (mremap, munmap, fork …) is told once, to whoever reads its userfaultfd. So the handler
//! tells its guard of it. A handler that is killed between the two leaves [`Flags::busy`] behind: then nobody knows what was
//! read, and the processes are ended rather than filled wrongly. What the handler has put in place the guard puts there once
//! more; the kernel refuses to overwrite a page.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicBool;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::line::{pair, receive_with, send_at_once};
use crate::uffd::{Event, Uffd};

/// What handler and guard both see.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Flags {
    /// Something is being read that nobody can read once more.
    pub busy: AtomicBool,
    /// CRIU has said that the processes run.
    pub released: AtomicBool,
    /// The owner wants it filled.
    pub fill: AtomicBool,
    /// The handler has ended in good order.
    pub done: AtomicBool,
}

impl Flags {
    /// In memory that children share.
    pub(crate) fn map() -> io::Result<&'static Self> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Self>(), prot, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: mapped for as long as the process lives, aligned to a page, and zeroes are what it can be.
        Ok(unsafe { &*map.cast::<Self>() })
    }
}

/// A running guard. Dropped when the handler is done, it ends; else it takes the handler's place.
#[derive(Debug)]
pub(crate) struct Standby {
    /// None when it does not hear any more.
    line: Option<OwnedFd>,
    pid: Pid,
}

/// Which of the two a fork has made.
pub(crate) enum Forked {
    Handler(Standby),
    /// With the end of its line to the handler.
    Guard(OwnedFd),
}

/// What the handler tells: of which of its tasks, and what that has done.
#[derive(Debug)]
pub(crate) enum Entry {
    Event {
        task: u64,
        event: Event,
    },
    /// All tasks are filled, and their descriptors closed.
    Filled,
}

impl Standby {
    /// Forks. Safe because this process has one thread.
    pub(crate) fn fork() -> io::Result<Forked> {
        let (ours, theirs) = pair()?;
        // SAFETY: there is no other thread, whose locks nobody would release in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                name(c"godwit-guard");
                Ok(Forked::Guard(theirs))
            }
            pid => Ok(Forked::Handler(Self { line: Some(ours), pid: Pid::from_raw(pid) })),
        }
    }

    pub(crate) fn line(&self) -> Option<&OwnedFd> {
        self.line.as_ref()
    }

    /// Tells it what a task has done, or that all are filled. Whoever does not hear that cannot take over any more, and is ended.
    pub(crate) fn tell(&mut self, what: Option<(u64, &Event)>) {
        let (message, descriptor) = encoded(what);
        if self.line.as_ref().is_some_and(|line| !send_at_once(line.as_fd(), &message, descriptor)) {
            self.end();
        }
    }

    /// Whether it still hears.
    pub(crate) fn hears(&self) -> bool {
        self.line.is_some()
    }

    /// Its line says something, which it never does: it is gone.
    pub(crate) fn end(&mut self) {
        // SAFETY: takes integers. It is a child that has not been waited for.
        unsafe { libc::kill(self.pid.as_raw(), libc::SIGKILL) };
        self.line = None;
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.line = None;
        let _ = waitpid(self.pid, None);
    }
}

/// What the handler has told; none is its end.
pub(crate) fn heard(line: &OwnedFd) -> io::Result<Option<Entry>> {
    let mut room = [0; MESSAGE];
    let Some((len, descriptors)) = receive_with(line.as_fd(), &mut room)? else { return Ok(None) };
    decoded(&room[..len], descriptors).map(Some)
}

const FORK: u64 = 1;
const REMAP: u64 = 2;
const GONE: u64 = 3;
const FILLED: u64 = 4;
const MESSAGE: usize = 5 * 8;

fn encoded(what: Option<(u64, &Event)>) -> ([u8; MESSAGE], Option<RawFd>) {
    let (numbers, descriptor) = match what {
        None => ([0, FILLED, 0, 0, 0], None),
        Some((task, Event::Fault(_))) => ([task, 0, 0, 0, 0], None),
        Some((task, Event::Fork(uffd))) => ([task, FORK, 0, 0, 0], Some(uffd.as_fd().as_raw_fd())),
        Some((task, Event::Remap { from, to, len })) => ([task, REMAP, *from, *to, *len], None),
        Some((task, Event::Gone { start, end })) => ([task, GONE, *start, *end, 0], None),
    };
    let mut message = [0; MESSAGE];
    for (place, number) in message.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    (message, descriptor)
}

fn decoded(message: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Entry> {
    let number = |n: usize| message.get(n * 8..n * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let event = match number(1) {
        FILLED => return Ok(Entry::Filled),
        FORK => {
            let uffd = descriptors.into_iter().next().ok_or_else(|| io::Error::other("a fork without its memory"))?;
            Event::Fork(Uffd::from(uffd))
        }
        REMAP => Event::Remap { from: number(2), to: number(3), len: number(4) },
        GONE => Event::Gone { start: number(2), end: number(3) },
        other => return Err(io::Error::other(format!("unknown entry {other}"))),
    };
    Ok(Entry::Event { task: number(0), event })
}

/// How this process is called.
pub(crate) fn name(name: &std::ffi::CStr) {
    // SAFETY: reads a string that ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_as_it_was_and_the_end_too() {
        let (ours, theirs) = pair().unwrap();
        let zero = std::fs::File::open("/dev/zero").unwrap();
        for event in [
            Event::Remap { from: 1, to: 2, len: 3 },
            Event::Gone { start: 4, end: 5 },
            Event::Fork(Uffd::from(OwnedFd::from(zero))),
        ] {
            let (message, descriptor) = encoded(Some((7, &event)));
            assert!(send_at_once(ours.as_fd(), &message, descriptor));
        }
        let heard = || heard(&theirs).unwrap();
        assert!(matches!(heard(), Some(Entry::Event { task: 7, event: Event::Remap { from: 1, to: 2, len: 3 } })));
        assert!(matches!(heard(), Some(Entry::Event { task: 7, event: Event::Gone { start: 4, end: 5 } })));
        assert!(matches!(heard(), Some(Entry::Event { task: 7, event: Event::Fork(_) })));
        drop(ours);
        assert!(heard().is_none());
    }
}
