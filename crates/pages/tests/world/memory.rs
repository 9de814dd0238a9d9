//! Reading the memory of standing processes, in the simplest way.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use godwit_pages::{PAGE, PageStore};

/// Asked of the service: how many of its pages are wrong.
pub const CHECK: u64 = u64::MAX;
/// The same, after it has moved, dropped, unmapped and forked.
pub const STIR: u64 = u64::MAX - 1;

/// Private anonymous mappings: those that a lazy dump leaves out of the images.
pub fn mappings(pid: i32) -> Vec<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut found = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let special =
            fields.get(5).is_some_and(|name| ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(name));
        if fields[1].ends_with('p') && fields[4] == "0" && !special {
            let (start, end) = fields[0].split_once('-').expect("a range");
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            found.push(number(start)..number(end));
        }
    }
    found
}

/// The pages of a range that are there, in runs.
pub fn present(pid: i32, range: Range<u64>) -> Vec<Range<u64>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let mut entries = vec![0; ((range.end - range.start) / PAGE * 8) as usize];
    pagemap.read_exact_at(&mut entries, range.start / PAGE * 8).expect("entries");
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (n, entry) in entries.chunks_exact(8).enumerate() {
        let at = range.start + n as u64 * PAGE;
        // Present, or swapped out; but not a guard page (MADV_GUARD_INSTALL), which looks like it.
        if entry[7] & 0xc0 != 0 && entry[7] & 0x04 == 0 {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += PAGE,
                _ => runs.push(at..at + PAGE),
            }
        }
    }
    runs
}

/// Shows every piece of memory that is there.
pub fn each_piece(host_pid: i32, mut show: impl FnMut(u64, &[u8])) {
    let mem = File::open(format!("/proc/{host_pid}/mem")).expect("mem");
    let mut room = vec![0; 1 << 20];
    for range in mappings(host_pid).into_iter().flat_map(|m| present(host_pid, m)) {
        let mut at = range.start;
        while at < range.end {
            let len = ((range.end - at) as usize).min(room.len());
            mem.read_exact_at(&mut room[..len], at).expect("memory");
            show(at, &room[..len]);
            at += len as u64;
        }
    }
}

/// Copies all of a process's memory into the store.
pub fn store_all(store: &PageStore, pid: i32, host_pid: i32) {
    each_piece(host_pid, |addr, bytes| store.put(pid, addr, bytes).expect("stored"));
}

/// All of it, to compare.
pub fn snapshot(host_pid: i32) -> BTreeMap<u64, Vec<u8>> {
    let mut pages = BTreeMap::new();
    each_piece(host_pid, |addr, bytes| {
        let page = |(n, page): (usize, &[u8])| (addr + n as u64 * PAGE, page.to_vec());
        pages.extend(bytes.chunks_exact(PAGE as usize).enumerate().map(page));
    });
    pages
}
