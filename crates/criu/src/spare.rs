//! Dumping without touching the memory: CRIU is told that large anonymous mappings are empty, and we enter into the
//! images what is really in them.
//!
//! ```text
//!   CRIU ──PAGEMAP_SCAN of a mapping──► shim/spare.rs: in the table? ── yes ──► "no pages"
//!                                                                    └─ no ───► the kernel
//!   meanwhile, here:  PAGEMAP_SCAN of the same mappings, on another CPU
//!   afterwards:       pagemap-PID.img, with these pages as lazy ones
//! ```
//!
//! CRIU's own lazy dump puts every page into a pipe, for whoever may ask for it: 30 ms for a gigabyte. What is gained has
//! a price: a library inside CRIU. Where it cannot be loaded, CRIU's own way is taken.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Context, Result};
use crate::images::ImagesDir;
use crate::node::{NodeCommand, NodeEnv};
use crate::pagemap::{self, PAGE};
use crate::process::{self, Member};
use crate::scan;

/// Built by build.rs.
const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/spare.so"));

/// As in the shim: a row for "here", and those of mappings, of four words each.
const ROWS: usize = 1024;
const ROW: u64 = 32;

/// A mapping is worth it from this size on. Not less: smaller ones CRIU asks for in groups (PMC_SIZE).
const LARGE: u64 = 2 << 20;

/// What is shared with the library in CRIU.
#[derive(Debug)]
pub(crate) struct Spare {
    table: File,
    library: OwnedFd,
}

/// A mapping that CRIU shall find empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spared {
    member: Member,
    /// Its pid as CRIU sees it.
    node_pid: i32,
    range: Range<u64>,
}

impl Spare {
    pub(crate) fn new() -> Result<Self> {
        let made = |what: &'static str| move || format!("make a memory file for {what}");
        let table = memfd_create("godwit-spared", MFdFlags::MFD_CLOEXEC).context(made("the table"))?;
        let table = File::from(table);
        table.set_len(ROWS as u64 * ROW).context(made("the table"))?;
        let library = memfd_create("godwit-spare.so", MFdFlags::MFD_CLOEXEC).context(made("the library"))?;
        let library = File::from(library);
        library.write_all_at(SHIM, 0).context(made("the library"))?;
        Ok(Self { table, library: library.into() })
    }

    /// Makes a command load the library.
    pub(crate) fn load_into(&self, mut command: NodeCommand) -> Result<NodeCommand> {
        let (library, table) = (command.fd(&self.library)?, command.fd(&self.table)?);
        let preload = format!("/proc/self/fd/{library}");
        Ok(command.env("LD_PRELOAD", preload).env("GODWIT_SPARED", table.to_string()))
    }

    /// Whether it is there and of use.
    pub(crate) fn works(&self) -> bool {
        self.word(0, 0).is_ok_and(|here| here == 1) && scan::works()
    }

    /// Enters what CRIU shall find empty: large, private, anonymous mappings of frozen processes.
    pub(crate) fn enter(&self, env: &NodeEnv, members: &[Member]) -> Result<Vec<Spared>> {
        let mut spared = Vec::new();
        for member in members {
            let node_pid = process::node_pid(env, member.host_pid)?;
            // Locked memory is never restored lazily; which mapping it is would cost a look at every page.
            let locked = process::status_line(member.host_pid, "VmLck:").unwrap_or_else(|_| "0 kB".into());
            if locked == "0 kB" {
                let ranges = large_mappings(member.host_pid)?;
                spared.extend(ranges.into_iter().map(|range| Spared { member: *member, node_pid, range }));
            }
        }
        spared.truncate(ROWS - 2);
        for (n, one) in spared.iter().enumerate() {
            let row = [one.node_pid as u64, one.range.start, one.range.end, 0];
            let bytes: Vec<u8> = row.iter().flat_map(|word| word.to_ne_bytes()).collect();
            self.table.write_all_at(&bytes, (n as u64 + 1) * ROW).context(|| "write a memory file".into())?;
        }
        Ok(spared)
    }

    /// After the dump: enters what is in the mappings that CRIU found empty. What it did ask the kernel for is in the
    /// images.
    pub(crate) fn complete(&self, found: &[(Spared, Vec<Range<u64>>)], images: &ImagesDir) -> Result<()> {
        let mut pids: Vec<i32> = found.iter().map(|(one, _)| one.member.pid).collect();
        pids.dedup();
        for pid in pids {
            let mut lazy = Vec::new();
            for (n, (_, pages)) in found.iter().enumerate().filter(|(_, (one, _))| one.member.pid == pid) {
                if self.word(n as u64 + 1, 3).context(|| "read a memory file".into())? == 1 {
                    lazy.extend(pages.iter().cloned());
                }
            }
            pagemap::add_lazy(&images.path().join(format!("pagemap-{pid}.img")), &lazy)?;
        }
        Ok(())
    }

    fn word(&self, row: u64, word: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.table.read_exact_at(&mut bytes, row * ROW + word * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// What is in the mappings, by asking the kernel ourselves.
pub(crate) fn look(spared: &[Spared]) -> Result<Vec<(Spared, Vec<Range<u64>>)>> {
    let mut found = Vec::new();
    for one in spared {
        let path = format!("/proc/{}/pagemap", one.member.host_pid);
        let pagemap = File::open(&path).context(|| format!("open {path}"))?;
        let pages = scan::present(pagemap.as_fd(), one.range.clone()).context(|| format!("look through {path}"))?;
        found.push((one.clone(), pages));
    }
    Ok(found)
}

fn large_mappings(pid: i32) -> Result<Vec<Range<u64>>> {
    let path = format!("/proc/{pid}/maps");
    let text = fs::read_to_string(&path).context(|| format!("read {path}"))?;
    Ok(text.lines().filter_map(large_mapping).collect())
}

/// `START-END PERMS OFFSET DEV INODE [NAME]`
fn large_mapping(line: &str) -> Option<Range<u64>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let private = fields.next()?.ends_with('p');
    let anonymous = fields.nth(2)? == "0";
    // The first thread's stack grows, and CRIU moves its start; named ones are the kernel's, but for the heap.
    let plain = fields.next().is_none_or(|name| name == "[heap]" || name.starts_with("[anon:"));
    let large = range.end - range.start >= LARGE && range.start.is_multiple_of(PAGE);
    (private && anonymous && plain && large).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_private_anonymous_mappings_are_chosen() {
        let range = Some(0x7000_0000..0x7020_0000);
        assert_eq!(large_mapping("70000000-70200000 rw-p 00000000 00:00 0 "), range);
        assert_eq!(large_mapping("70000000-70200000 ---p 00000000 00:00 0 [heap]"), range);
        assert_eq!(large_mapping("70000000-701ff000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(large_mapping("70000000-70200000 rw-s 00000000 00:01 1032 /dev/zero (deleted)"), None);
        assert_eq!(large_mapping("70000000-70200000 rw-p 00000000 08:01 77 /lib/x.so"), None);
        assert_eq!(large_mapping("70000000-70200000 rw-p 00000000 00:00 0 [stack]"), None);
        assert_eq!(large_mapping("nonsense"), None);
    }
}
