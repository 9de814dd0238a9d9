//! The sockets of a namespace's processes, as descriptors of ours.

#![allow(unsafe_code)] // pidfd_open(2) and pidfd_getfd(2) have no safe wrapper

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::Netns;

/// Of these sockets, by their inodes, those that a process in the namespace has; and how many it has not.
pub(super) fn fetch<T>(ns: &Netns, wanted: Vec<(u32, T)>) -> io::Result<(Vec<(OwnedFd, T)>, usize)> {
    let (mut wanted, mut found): (HashMap<u32, T>, _) = (wanted.into_iter().collect(), Vec::new());
    if wanted.is_empty() {
        return Ok((found, 0));
    }
    for pid in processes(ns)? {
        for (fd, inode) in sockets_of(pid) {
            if let Some(told) = wanted.remove(&inode) {
                found.push((duplicate(pid, fd)?, told));
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    Ok((found, wanted.len()))
}

/// The processes whose network namespace it is.
fn processes(ns: &Netns) -> io::Result<Vec<i32>> {
    let inode = fs::metadata(ns.path())?.ino();
    let is_in = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|of| of.ino() == inode);
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_in).collect())
}

/// Descriptor and inode of a process's sockets.
fn sockets_of(pid: i32) -> Vec<(i32, u32)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let socket = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    };
    entries.filter_map(|entry| socket(entry.ok()?)).collect()
}

/// A descriptor of ours for a process's socket.
fn duplicate(pid: i32, fd: i32) -> io::Result<OwnedFd> {
    let owned = |fd: libc::c_long| match i32::try_from(fd) {
        // SAFETY: the kernel just made this descriptor for us, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: pidfd_open takes no pointer.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: pidfd_getfd takes no pointer.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}
