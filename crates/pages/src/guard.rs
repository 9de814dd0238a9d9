//! The guard: a process that outlives ours if ours is killed while pages are missing.
//!
//! When the last descriptor of a userfaultfd is closed the kernel lets what is missing be zero, and the processes would
//! run on with it. The guard holds the descriptors too, so that nothing becomes zero when our process dies, and then ends
//! the processes.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A running guard. Dropping it lets it leave without doing anything.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: i32,
    // Its other end is closed by our end, whatever that is.
    dismiss: OwnedFd,
}

impl Guard {
    /// Starts one that holds `uffds` and would end the processes `pids` (as we see them).
    pub(crate) fn start(uffds: &[RawFd], pids: &[i32]) -> io::Result<Self> {
        let targets = pids.iter().map(|pid| pidfd_open(*pid)).collect::<io::Result<Vec<_>>>()?;
        let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let targets: Vec<RawFd> = targets.iter().map(AsRawFd::as_raw_fd).collect();
        let mut kept: Vec<RawFd> = [uffds, &targets, &[theirs.as_raw_fd()]].concat();
        kept.sort_unstable();
        // SAFETY: the child only makes system calls on what was prepared here, and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(&kept, &targets, theirs.as_raw_fd()),
            pid => Ok(Self { pid, dismiss: ours }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It can only fail when the guard is gone.
        let _ = nix::unistd::write(self.dismiss.as_fd(), &[1]);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
    }
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Kills the process behind a descriptor. Only a system call, as the next.
pub(crate) fn kill(process: RawFd) {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes integers, and no information.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, libc::SIGKILL, info, 0) };
}

pub(crate) fn wait_for_end(process: RawFd) {
    let mut poll = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor to look at, on this stack.
    while unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {}
}

/// The guard's whole life. After the fork of a process with several threads only system calls are safe: no allocation, no
/// lock, no panic.
fn watch(kept: &[RawFd], targets: &[RawFd], dismissed: RawFd) -> ! {
    // SAFETY: all of these take integers, or buffers on this stack; the descriptors are this process's own copies.
    unsafe {
        // Not ended with our process group by a terminal's ^C.
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"godwit-guard".as_ptr());
        // Everything else: above all, the sockets by which others see that our process has ended.
        let mut from = 0;
        for fd in kept {
            if *fd > from {
                libc::syscall(libc::SYS_close_range, from, *fd - 1, 0);
            }
            from = *fd + 1;
        }
        libc::syscall(libc::SYS_close_range, from, u32::MAX, 0);
        let mut byte = [0u8; 1];
        loop {
            match libc::read(dismissed, byte.as_mut_ptr().cast(), 1) {
                1 => libc::_exit(0),
                0 => break,
                _ => {}
            }
        }
        targets.iter().for_each(|target| kill(*target));
        // The descriptors of the memory stay open until the processes are gone.
        targets.iter().for_each(|target| wait_for_end(*target));
        libc::_exit(0)
    }
}
