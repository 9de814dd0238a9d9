//! What stands against a move by pre-copy: writers that cause no page faults, mostly.
//!
//! A page that a device or the kernel writes to by an address of its own, taken earlier, is not seen as written: the
//! page was marked when the address was taken, and may have been scanned, copied and protected before the bytes came.
//! Soft-dirty tracking has the same hole.

use std::fmt;
use std::fs;

use crate::error::Result;
use crate::kind::{Kind, Kinds, UntrackedKind};
use crate::procfs;

/// Something of a process that may write to its memory unseen, or keeps CRIU from dumping it. A careful caller moves
/// such a process by another strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hazard {
    /// A file opened with O_DIRECT: a read that is in flight during a scan may end after the page was copied.
    DirectIo {
        /// The process.
        pid: i32,
        /// The file.
        file: String,
    },
    /// An io_uring, whose fixed buffers the kernel writes to by itself. CRIU does not dump it either.
    IoUring {
        /// The process.
        pid: i32,
    },
    /// An asynchronous I/O context, whose reads may be in flight.
    AsyncIo {
        /// The process.
        pid: i32,
    },
    /// A userfaultfd, which CRIU does not dump: its own, or the copy that a child got of one of our visits.
    Userfaultfd {
        /// The process.
        pid: i32,
    },
    /// A device that reads and writes memory itself: VFIO, InfiniBand, a GPU.
    Device {
        /// The process.
        pid: i32,
        /// The device's path.
        file: String,
    },
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DirectIo { pid, file } => write!(f, "process {pid} has {file} open for direct I/O"),
            Self::IoUring { pid } => write!(f, "process {pid} has an io_uring"),
            Self::AsyncIo { pid } => write!(f, "process {pid} has asynchronous I/O in hand"),
            Self::Userfaultfd { pid } => write!(f, "process {pid} has a userfaultfd"),
            Self::Device { pid, file } => write!(f, "process {pid} uses the device {file}"),
        }
    }
}

const DEVICES: [&str; 5] = ["/dev/vfio/", "/dev/infiniband/", "/dev/dri/", "/dev/kfd", "/dev/nvidia"];

/// The hazards of a process as it is now. Best asked twice: before pre-copy, and after the freeze.
pub fn hazards(pid: i32) -> Result<Vec<Hazard>> {
    let mut found = Vec::new();
    for fd in procfs::descriptors(pid)? {
        let Some(file) = procfs::descriptor(pid, fd) else { continue };
        if file == "anon_inode:[io_uring]" {
            found.push(Hazard::IoUring { pid });
        } else if file == "anon_inode:[userfaultfd]" {
            found.push(Hazard::Userfaultfd { pid });
        } else if DEVICES.iter().any(|device| file.starts_with(device)) {
            found.push(Hazard::Device { pid, file });
        } else if file.starts_with('/') && is_direct(pid, fd) {
            found.push(Hazard::DirectIo { pid, file });
        }
    }
    let mut kinds = Kinds::default();
    let ring = Kind::Untracked(UntrackedKind::AioRing);
    if procfs::maps(pid)?.iter().any(|vma| kinds.of(pid, vma) == ring) {
        found.push(Hazard::AsyncIo { pid });
    }
    Ok(found)
}

fn is_direct(pid: i32, fd: u64) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| i64::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & i64::from(libc::O_DIRECT) != 0)
}
