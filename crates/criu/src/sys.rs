//! The few system calls that neither std nor nix wraps.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn cvt(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: only called with the result of a system call that has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// A path as C wants it.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// pidfd_open(2): readable when the process has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(owned)
}

/// pidfd_getfd(2): a duplicate of descriptor `fd` of the process, close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers and touches no memory of ours.
    cvt(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) }).map(owned)
}

/// pidfd_send_signal(2): no race with a reused pid.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: integers, and a null pointer that the call allows for "as kill(2) would".
    let ret = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    cvt(ret).map(|_| ())
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount (and those below it) at `path`.
pub(crate) fn clone_mount(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    cvt(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }).map(owned)
}

/// move_mount(2): attaches a detached mount at `path`.
pub(crate) fn attach_mount(mount: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let empty = c"";
    // SAFETY: both strings are NUL-terminated and outlive the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    cvt(ret).map(|_| ())
}

/// An integer socket option.
pub(crate) fn get_sockopt(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are ours, and len says how large value is.
    let ret = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw mut value).cast::<libc::c_void>(), &raw mut len)
    };
    cvt(ret.into()).map(|_| value)
}

/// Sets an integer socket option.
pub(crate) fn set_sockopt(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: value lives through the call and the length is its own.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<libc::c_void>(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    cvt(ret.into()).map(|_| ())
}

/// What a process does between fork and exec to stand in another node: everything is opened before the fork,
/// so that only async-signal-safe calls are left for after it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `cgroup.procs` files to write ourselves into, opened by path while the old mount namespace is still ours.
    pub cgroup_procs: Vec<CString>,
    /// Namespaces to join, in this order.
    pub namespaces: Vec<OwnedFd>,
    /// Root directory of the node.
    pub root: Option<OwnedFd>,
    /// Descriptors to hand on, each under its own number: moving them to other numbers could hit the pipe by
    /// which std reports a failed exec.
    pub fds: Vec<OwnedFd>,
}

impl Entry {
    /// Runs in the child. Async-signal-safe: system calls only, no allocation.
    pub(crate) fn enter(&self) -> io::Result<()> {
        for procs in &self.cgroup_procs {
            join_cgroup(procs)?;
        }
        for ns in &self.namespaces {
            // SAFETY: two integers.
            cvt(unsafe { libc::setns(ns.as_raw_fd(), 0) }.into())?;
        }
        if let Some(root) = &self.root {
            let here = c".";
            // SAFETY: integers and a static NUL-terminated string.
            cvt(unsafe { libc::fchdir(root.as_raw_fd()) }.into())?;
            // SAFETY: as above.
            cvt(unsafe { libc::chroot(here.as_ptr()) }.into())?;
        }
        for fd in &self.fds {
            // SAFETY: integers only. Clears close-on-exec in this child alone.
            cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }.into())?;
        }
        Ok(())
    }
}

fn join_cgroup(procs: &CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated string; the descriptor is closed below.
    let fd = cvt(unsafe { libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) }.into())? as RawFd;
    // SAFETY: one byte of a static string.
    let ret = unsafe { libc::write(fd, c"0".as_ptr().cast::<libc::c_void>(), 1) };
    let result = cvt(ret as libc::c_long).map(|_| ());
    // SAFETY: ours, and not used after.
    unsafe { libc::close(fd) };
    result
}

/// Makes `command` run [`Entry::enter`] between fork and exec.
pub(crate) fn enter_before_exec(command: &mut std::process::Command, entry: Entry) {
    use std::os::unix::process::CommandExt;
    // SAFETY: Entry::enter only makes system calls on things prepared before the fork.
    unsafe { command.pre_exec(move || entry.enter()) };
}
