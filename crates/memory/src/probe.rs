//! Whether this host can do it.

use std::fs::File;
use std::os::fd::AsFd;

use crate::arch;
use crate::entries;
use crate::error::Error;
use crate::range::PageRange;
use crate::scan::Scanner;
use crate::sys::{self, Mapping};

/// What it takes to visit any process, and one with a seccomp filter. Their numbers are those of linux/capability.h.
const CAPABILITIES: [(u32, &str); 2] = [(19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// How what a process writes is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asynchronous write protection by userfaultfd, in Linux 6.7 and newer: the process runs on in every round.
    WriteProtection,
    /// Soft-dirty marks, in kernels with CONFIG_MEM_SOFT_DIRTY: in every round the process stands still while they are read and
    /// cleared, some milliseconds a GiB.
    SoftDirty,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WriteProtection => "by write protection",
            Self::SoftDirty => "by soft-dirty marks",
        })
    }
}

/// Whether memory can be tracked on this host by us, and by which method, tried on a few pages of our own; else what is
/// missing. Takes less than a millisecond.
pub fn supported() -> Result<Method, String> {
    may_look_into_processes()?;
    let Err(why) = write_protection_works() else { return Ok(Method::WriteProtection) };
    match entries::soft_dirty_works() {
        Ok(true) => Ok(Method::SoftDirty),
        Ok(false) => Err(format!("{why}; and the kernel has no soft-dirty marks (CONFIG_MEM_SOFT_DIRTY) either")),
        Err(e) => Err(format!("{why}; and /proc/self/pagemap cannot be read: {e}")),
    }
}

fn may_look_into_processes() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(failed("/proc/self/status"))?;
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    for (bit, name) in CAPABILITIES {
        if effective.unwrap_or(0) & 1 << bit == 0 {
            return Err(format!("{name} is needed to look into other processes"));
        }
    }
    Ok(())
}

fn write_protection_works() -> Result<(), String> {
    arch::SUPPORTED?;
    let page = sys::page_size();
    let mut memory = Mapping::new(4 * page).map_err(failed("mmap"))?;
    let uffd = sys::userfaultfd().map_err(failed("userfaultfd, in kernels with CONFIG_USERFAULTFD"))?;
    sys::uffd_agree(uffd.as_fd()).map_err(failed("asynchronous write protection, in Linux 6.7 and newer"))?;
    sys::uffd_register(uffd.as_fd(), memory.range()).map_err(failed("registration of memory with a userfaultfd"))?;
    let pagemap = File::open("/proc/self/pagemap").map_err(failed("/proc/self/pagemap"))?;
    let mut scanner = Scanner::new();
    let start = memory.range().start;
    // Nothing is there; the second page is written; it is not written again; it and the last are.
    let steps: [(&[u64], &[u64]); 4] = [(&[], &[]), (&[1], &[1]), (&[], &[]), (&[1, 3], &[1, 3])];
    for (write, want) in steps {
        write.iter().for_each(|nth| memory.write(nth * page));
        let found = scanner.written(&pagemap, memory.range(), false).map_err(|e| match e {
            Error::Io { what, source } => format!("{what}, in Linux 6.7 and newer: {source}"),
            other => other.to_string(),
        })?;
        let want: Vec<_> = want.iter().map(|p| PageRange::new(start + p * page, start + (p + 1) * page)).collect();
        if found.as_ref() != Some(&want) {
            return Err(format!("write protection finds {found:x?} instead of {want:x?}"));
        }
    }
    Ok(())
}

/// Whether pages keep their mark of protection when they move to where nothing is registered, as in Linux before 6.13 and
/// what was mended since. They would pass for not written there, once that is registered. Yes when in doubt.
pub(crate) fn marks_move() -> bool {
    let tried = || -> std::io::Result<bool> {
        let page = sys::page_size();
        let mut memory = Mapping::new(page)?;
        let uffd = sys::userfaultfd()?;
        sys::uffd_agree(uffd.as_fd())?;
        sys::uffd_register(uffd.as_fd(), memory.range())?;
        memory.write(0);
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut scanner = Scanner::new();
        let mut written = |of| scanner.written(&pagemap, of, false).map_err(std::io::Error::other);
        written(memory.range())?;
        memory.relocate()?;
        sys::uffd_register(uffd.as_fd(), memory.range())?;
        Ok(written(memory.range())? != Some(vec![memory.range()]))
    };
    tried().unwrap_or(true)
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |e| format!("{what}: {e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_move_only_on_kernels_of_then() {
        if supported() != Ok(Method::WriteProtection) {
            eprintln!("SKIPPED: no asynchronous write protection");
            return;
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        assert!(version < (6, 13) || !marks_move(), "{release}");
    }
}
