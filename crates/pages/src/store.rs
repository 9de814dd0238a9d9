//! The store: pages of several processes, by their addresses.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::PAGE;
use crate::arena::{Arena, Reserve};
use crate::extents::{Extents, Kind};

/// Why a page could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Addresses and lengths are multiples of the page size.
    #[error("{what} {value:#x} is not a multiple of the page size")]
    Unaligned {
        /// "address" or "length".
        what: &'static str,
        /// The address or length.
        value: u64,
    },
    /// There is no memory for it.
    #[error("no memory for the pages of process {pid}")]
    NoMemory {
        /// Whose pages.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the store has of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// It is zero.
    Zero,
}

/// How many pages the store has of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Pages with bytes.
    pub stored: u64,
    /// Pages that are known to be zero.
    pub zero: u64,
}

/// What lies at an address of the store, as [`PageStore::with_run`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run<'a> {
    /// The bytes of one or more pages.
    Bytes(&'a [u8]),
    /// So many zero bytes.
    Zero(u64),
    /// Nothing is known of so many bytes.
    Absent(u64),
}

/// Pages of processes, by the pid that they have in CRIU's images and by address.
///
/// May be shared between threads: those that receive pages write while a handler serves.
///
/// ```
/// use godwit_pages::{Page, PageStore};
/// let store = PageStore::new();
/// store.put(1, 0x7000, &[7; 2 * 4096])?;
/// store.put(1, 0x8000, &[8; 4096])?;
/// store.put_zero(1, 0x9000..0xb000)?;
/// assert_eq!(store.ranges(1), [0x7000..0xb000]);
/// assert_eq!(store.get(1, 0x8000), Some(Page::Bytes(vec![8; 4096])));
/// assert_eq!(store.get(1, 0xa000), Some(Page::Zero));
/// # Ok::<(), godwit_pages::StoreError>(())
/// ```
#[derive(Debug, Default)]
pub struct PageStore {
    processes: RwLock<BTreeMap<i32, Arc<RwLock<Process>>>>,
    reserve: Arc<Reserve>,
}

#[derive(Debug, Default)]
struct Process {
    extents: Extents,
    arena: Arena,
}

impl PageStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one that uses what is in reserve first; several may share it.
    pub fn with_reserve(reserve: Arc<Reserve>) -> Self {
        Self { reserve, ..Self::default() }
    }

    /// Stores whole pages from `addr` on, in place of what was known of them. Pages of zeroes are only marked.
    pub fn put(&self, pid: i32, addr: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let first = aligned("address", addr)?;
        aligned("length", bytes.len() as u64)?;
        let process = self.process(pid);
        let mut process = write(&process);
        let mut done = 0;
        for (zero, pages) in runs(bytes) {
            let at = first + done;
            let result = if zero {
                process.forget(at..at + pages);
                process.extents.insert(at..at + pages, Kind::Zero);
                Ok(())
            } else {
                process.store(at, &bytes[(done * PAGE) as usize..((done + pages) * PAGE) as usize])
            };
            result.map_err(|source| StoreError::NoMemory { pid, source })?;
            done += pages;
        }
        Ok(())
    }

    /// Marks pages as zero.
    pub fn put_zero(&self, pid: i32, range: Range<u64>) -> Result<(), StoreError> {
        let pages = page_range(&range)?;
        let process = self.process(pid);
        let mut process = write(&process);
        process.forget(pages.clone());
        process.extents.insert(pages, Kind::Zero);
        Ok(())
    }

    /// Forgets what is known of a range: it is not mapped any more, or its content was dropped.
    pub fn forget(&self, pid: i32, range: Range<u64>) -> Result<(), StoreError> {
        let pages = page_range(&range)?;
        write(&self.process(pid)).forget(pages);
        Ok(())
    }

    /// Forgets a process.
    pub fn remove(&self, pid: i32) {
        write(&self.processes).remove(&pid);
    }

    /// What is known of the page at `addr`.
    pub fn get(&self, pid: i32, addr: u64) -> Option<Page> {
        self.with_run(pid, addr / PAGE * PAGE, PAGE, |run| match run {
            Run::Bytes(bytes) => Some(Page::Bytes(bytes.to_vec())),
            Run::Zero(_) => Some(Page::Zero),
            Run::Absent(_) => None,
        })
    }

    /// The ranges of which something is known, neighbours as one.
    pub fn ranges(&self, pid: i32) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let Some(process) = self.known(pid) else { return ranges };
        for extent in read(&process).extents.iter() {
            let range = extent.pages.start * PAGE..extent.pages.end * PAGE;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// The parts of `range` of which nothing is known.
    pub fn missing(&self, pid: i32, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut missing, end) = (Vec::new(), range.end.div_ceil(PAGE));
        let mut at = range.start / PAGE;
        let process = self.known(pid);
        let process = process.as_deref().map(read);
        while at < end {
            let known = process.as_ref().and_then(|p| p.extents.at(at));
            if let Some(extent) = known {
                at = extent.pages.end;
                continue;
            }
            let next = process.as_ref().and_then(|p| p.extents.next(at)).map_or(end, |next| next.min(end));
            missing.push(at * PAGE..next * PAGE);
            at = next;
        }
        missing
    }

    /// The processes of which something was stored.
    pub fn pids(&self) -> Vec<i32> {
        read(&self.processes).keys().copied().collect()
    }

    /// How many pages are known of a process.
    pub fn counts(&self, pid: i32) -> Counts {
        let mut counts = Counts::default();
        let Some(process) = self.known(pid) else { return counts };
        for extent in read(&process).extents.iter() {
            let pages = extent.pages.end - extent.pages.start;
            match extent.kind {
                Kind::Stored(_) => counts.stored += pages,
                Kind::Zero => counts.zero += pages,
            }
        }
        counts
    }

    /// Shows what is known from `addr` (of a page) on, in one piece of at most `most` bytes.
    pub(crate) fn with_run<T>(&self, pid: i32, addr: u64, most: u64, show: impl FnOnce(Run<'_>) -> T) -> T {
        let Some(process) = self.known(pid) else { return show(Run::Absent(most)) };
        let process = read(&process);
        let page = addr / PAGE;
        match process.extents.at(page) {
            None => {
                let next = process.extents.next(page).map_or(most, |next| (next * PAGE - addr).min(most));
                show(Run::Absent(next))
            }
            Some(extent) => {
                let pages = (extent.pages.end - page).min(most / PAGE);
                match extent.kind {
                    Kind::Zero => show(Run::Zero(pages * PAGE)),
                    Kind::Stored(slot) => show(Run::Bytes(process.arena.bytes(slot, pages))),
                }
            }
        }
    }

    /// Of how many bytes from `addr` on nothing is known.
    pub(crate) fn absent(&self, pid: i32, addr: u64, most: u64) -> u64 {
        self.with_run(pid, addr, most, |run| if let Run::Absent(len) = run { len } else { 0 })
    }

    /// Shows what another process needs to have the pages of `pid`: which there are, and the descriptor of their bytes.
    pub(crate) fn shared<T>(&self, pid: i32, show: impl FnOnce(&Extents, Option<RawFd>) -> T) -> T {
        let process = self.process(pid);
        let process = read(&process);
        show(&process.extents, process.arena.descriptor())
    }

    /// Takes over what another process has shown.
    pub(crate) fn receive(&self, pid: i32, extents: Extents, arena: Arena) {
        write(&self.processes).insert(pid, Arc::new(RwLock::new(Process { extents, arena })));
    }

    fn known(&self, pid: i32) -> Option<Arc<RwLock<Process>>> {
        read(&self.processes).get(&pid).cloned()
    }

    fn process(&self, pid: i32) -> Arc<RwLock<Process>> {
        let new = || Process { arena: Arena::new(Arc::clone(&self.reserve)), ..Process::default() };
        self.known(pid).unwrap_or_else(|| {
            write(&self.processes).entry(pid).or_insert_with(|| Arc::new(RwLock::new(new()))).clone()
        })
    }
}

impl Process {
    fn forget(&mut self, pages: Range<u64>) {
        for (slot, pages) in self.extents.remove(pages) {
            self.arena.give_up(slot, pages);
        }
    }

    /// Pages that have a slot are overwritten there, so that the index does not change.
    fn store(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let end = first + bytes.len() as u64 / PAGE;
        let mut at = first;
        while at < end {
            let (slot, pages) = match self.extents.at(at) {
                Some(extent) if extent.kind != Kind::Zero => {
                    let Kind::Stored(slot) = extent.kind else { unreachable!("not zero") };
                    (slot, extent.pages.end.min(end) - at)
                }
                known => {
                    let until = match known {
                        Some(zero) => zero.pages.end,
                        None => self.extents.next(at).unwrap_or(end),
                    };
                    let (slot, pages) = self.arena.take(until.min(end) - at)?;
                    self.forget(at..at + pages);
                    self.extents.insert(at..at + pages, Kind::Stored(slot));
                    (slot, pages)
                }
            };
            let from = ((at - first) * PAGE) as usize;
            self.arena.write(slot, &bytes[from..from + (pages * PAGE) as usize])?;
            at += pages;
        }
        Ok(())
    }
}

/// Divides bytes into runs of zero and of other pages: whether zero, and how many pages.
pub(crate) fn runs(bytes: &[u8]) -> Vec<(bool, u64)> {
    let mut runs: Vec<(bool, u64)> = Vec::new();
    for page in bytes.chunks_exact(PAGE as usize) {
        let zero = is_zero(page);
        match runs.last_mut() {
            Some((last, pages)) if *last == zero => *pages += 1,
            _ => runs.push((zero, 1)),
        }
    }
    runs
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages that are not zero show it soon.
    page[..64].iter().all(|b| *b == 0)
        && page.chunks_exact(8).all(|word| u64::from_ne_bytes(word.try_into().unwrap_or([1; 8])) == 0)
}

fn aligned(what: &'static str, value: u64) -> Result<u64, StoreError> {
    if value.is_multiple_of(PAGE) { Ok(value / PAGE) } else { Err(StoreError::Unaligned { what, value }) }
}

fn page_range(range: &Range<u64>) -> Result<Range<u64>, StoreError> {
    Ok(aligned("address", range.start)?..aligned("address", range.end)?)
}

// A thread that panicked has left the maps whole: what is behind the locks is changed by methods that do not panic.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unaligned_addresses_and_lengths_are_refused() {
        let store = PageStore::new();
        assert!(matches!(store.put(1, 1, &[0; 4096]), Err(StoreError::Unaligned { what: "address", .. })));
        assert!(matches!(store.put(1, 0, &[0; 4095]), Err(StoreError::Unaligned { what: "length", .. })));
        assert!(store.forget(1, 0..5).is_err());
    }

    #[test]
    fn what_is_missing_of_a_range_is_told_exactly() {
        let store = PageStore::new();
        store.put(3, 0x2000, &[1; 4096]).unwrap();
        store.put_zero(3, 0x5000..0x6000).unwrap();
        assert_eq!(store.missing(3, 0x1000..0x8000), [0x1000..0x2000, 0x3000..0x5000, 0x6000..0x8000]);
        assert_eq!(store.missing(4, 0x1000..0x3000).len(), 1);
        assert!(store.missing(3, 0x2000..0x3000).is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u64, Vec<u8>),
        Zero(u64, u64),
        Forget(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = 0u64..40;
        prop_oneof![
            (pages.clone(), proptest::collection::vec(0u8..4, 1..12)).prop_map(|(at, fill)| Step::Put(at, fill)),
            (pages.clone(), 0u64..12).prop_map(|(at, n)| Step::Zero(at, n)),
            (pages, 0u64..12).prop_map(|(at, n)| Step::Forget(at, n)),
        ]
    }

    proptest! {
        /// The store says what a plain map from page to content would say.
        #[test]
        fn it_is_a_map_from_address_to_the_latest_content(steps in proptest::collection::vec(step(), 1..40)) {
            let (store, mut model) = (PageStore::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(at, fill) => {
                        let bytes: Vec<u8> = fill.iter().flat_map(|b| [*b; PAGE as usize]).collect();
                        store.put(1, at * PAGE, &bytes).unwrap();
                        model.extend(fill.iter().enumerate().map(|(i, b)| (at + i as u64, *b)));
                    }
                    Step::Zero(at, n) => {
                        store.put_zero(1, at * PAGE..(at + n) * PAGE).unwrap();
                        model.extend((at..at + n).map(|page| (page, 0)));
                    }
                    Step::Forget(at, n) => {
                        store.forget(1, at * PAGE..(at + n) * PAGE).unwrap();
                        model.retain(|page, _| !(at..at + n).contains(page));
                    }
                }
                let known: u64 = store.ranges(1).iter().map(|r| (r.end - r.start) / PAGE).sum();
                prop_assert_eq!(known, model.len() as u64);
                let counts = store.counts(1);
                prop_assert_eq!(counts.stored + counts.zero, known);
                prop_assert_eq!(counts.zero, model.values().filter(|b| **b == 0).count() as u64);
            }
            for page in 0..60 {
                let expected = model.get(&page).map(|b| match b {
                    0 => Page::Zero,
                    b => Page::Bytes(vec![*b; PAGE as usize]),
                });
                prop_assert_eq!(store.get(1, page * PAGE), expected);
                prop_assert_eq!(store.missing(1, page * PAGE..(page + 1) * PAGE).is_empty(), model.contains_key(&page));
            }
        }
    }
}
