//! The workload of the tests and benchmarks: a TCP server with memory that can be checked.
//!
//! `pages-service PORT MIB PAGES_PER_MS [child]`: answers every 8-byte number with that number and how many it has
//! answered in all its life, while it dirties pages of its MIB of memory. It answers [`CHECK`] with how many of its
//! pages are wrong, and so it does [`STIR`], after it has moved, dropped, unmapped and forked parts of its memory.
//! `pages-service page-handler` is no workload, but who puts the memory of one in its place.
//! With `child` a second process does the same, with memory of its own, on the next port.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PAGE: usize = 4096;
const CHECK: u64 = u64::MAX;
const STIR: u64 = u64::MAX - 1;

static ANSWERED: AtomicU64 = AtomicU64::new(0);
static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "page-handler") {
        _ = godwit_pages::serve_apart();
        return;
    }
    let number = |i: usize| args[i].parse::<usize>().expect("a number");
    let (mut port, mib, pages_per_ms) = (number(1), number(2), number(3));
    if args.get(4).is_some_and(|a| a == "child") {
        // SAFETY: no other thread exists yet.
        if unsafe { libc::fork() } == 0 {
            port += 1;
        }
    }
    *MEMORY.lock().expect("alone") = Some(Memory::new(mib, port as u64));
    std::thread::spawn(move || {
        loop {
            if let Some(memory) = MEMORY.lock().expect("no panic").as_mut() {
                (0..pages_per_ms).for_each(|_| memory.dirty());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).expect("a free port");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("nodelay");
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let answer = match u64::from_le_bytes(number) {
            CHECK => MEMORY.lock().expect("no panic").as_mut().map_or(0, Memory::wrong),
            STIR => MEMORY.lock().expect("no panic").as_mut().map_or(0, Memory::stir),
            _ => ANSWERED.fetch_add(1, Ordering::SeqCst) + 1,
        };
        if stream.write_all(&[number, answer.to_le_bytes()].concat()).is_err() {
            return;
        }
    }
}

/// Pages, each with its number in it: words 0 and 1 say which it is, 2 how often it was written to, 3 the same.
#[derive(Clone, Copy)]
struct Area {
    base: usize,
    pages: usize,
    /// Added to the numbers of its pages.
    id: u64,
}

struct Memory {
    main: Area,
    /// Every 17th page is written to.
    sparse: Area,
    /// Written to, and then made zero.
    zeroed: Area,
    /// Written to, and then made inaccessible.
    closed: Area,
    /// The program's own file, privately mapped; every other page was written to.
    file: Area,
    shared: Area,
    next: usize,
    written: u64,
    /// Pages of `main` before this one have been dropped.
    dropped: usize,
}

fn hash(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Area {
    fn map(pages: usize, id: u64, flags: i32, fd: i32) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, prot, flags, fd, 0) };
        assert!(base != libc::MAP_FAILED, "no memory");
        Self { base: base as usize, pages, id: id << 32 }
    }

    fn anonymous(pages: usize, id: u64) -> Self {
        Self::map(pages, id, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn words(&self, page: usize) -> &'static mut [u64] {
        assert!(page < self.pages);
        // SAFETY: within the mapping, which is never unmapped while it is an area's, and accessed under the lock.
        unsafe { std::slice::from_raw_parts_mut((self.base + page * PAGE) as *mut u64, PAGE / 8) }
    }

    fn fill(&self, page: usize) {
        let id = self.id + page as u64;
        self.words(page)[..4].copy_from_slice(&[hash(id), !hash(id), 0, hash(0)]);
        self.words(page)[PAGE / 8 - 1] = hash(id);
    }

    fn is_right(&self, page: usize) -> bool {
        let (words, id) = (self.words(page), self.id + page as u64);
        words[..2] == [hash(id), !hash(id)] && words[3] == hash(words[2]) && words[PAGE / 8 - 1] == hash(id)
    }

    fn is_zero(&self, page: usize) -> bool {
        self.words(page).iter().all(|w| *w == 0)
    }

    fn protect(&self, prot: i32) {
        // SAFETY: our own mapping; it is opened again before it is read.
        let ret = unsafe { libc::mprotect(self.base as *mut libc::c_void, self.pages * PAGE, prot) };
        assert_eq!(ret, 0);
    }
}

impl Memory {
    fn new(mib: usize, port: u64) -> Self {
        use std::os::fd::AsRawFd;
        let id = port << 4;
        let exe = std::fs::File::open("/proc/self/exe").expect("our own file");
        let memory = Self {
            main: Area::anonymous((mib << 20) / PAGE, id),
            sparse: Area::anonymous(4096, id + 1),
            zeroed: Area::anonymous(600, id + 2),
            closed: Area::anonymous(300, id + 3),
            file: Area::map(20, id + 4, libc::MAP_PRIVATE, exe.as_raw_fd()),
            shared: Area::map(100, id + 5, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            next: 0,
            written: 0,
            dropped: 0,
        };
        for area in [memory.main, memory.zeroed, memory.closed, memory.shared] {
            (0..area.pages).for_each(|page| area.fill(page));
        }
        (0..memory.sparse.pages).step_by(17).for_each(|page| memory.sparse.fill(page));
        (0..memory.file.pages).step_by(2).for_each(|page| memory.file.fill(page));
        (0..memory.zeroed.pages).for_each(|page| memory.zeroed.words(page).fill(0));
        memory.closed.protect(libc::PROT_NONE);
        memory
    }

    fn dirty(&mut self) {
        let pages = self.main.pages - self.dropped;
        self.next = (self.next + 7919) % pages;
        let words = self.main.words(self.dropped + self.next);
        words[2] += 1;
        words[3] = hash(words[2]);
        self.written += 1;
    }

    /// How many pages are not what they should be.
    fn wrong(&mut self) -> u64 {
        let mut wrong = 0;
        self.closed.protect(libc::PROT_READ);
        for area in [self.main, self.closed, self.shared] {
            let first = if area.id == self.main.id { self.dropped } else { 0 };
            wrong += (first..area.pages).filter(|page| !area.is_right(*page)).count();
        }
        self.closed.protect(libc::PROT_NONE);
        wrong += (0..self.dropped).filter(|page| !self.main.is_zero(*page)).count();
        wrong += (0..self.zeroed.pages).filter(|page| !self.zeroed.is_zero(*page)).count();
        let sparse =
            |page: usize| if page.is_multiple_of(17) { self.sparse.is_right(page) } else { self.sparse.is_zero(page) };
        wrong += (0..self.sparse.pages).filter(|page| !sparse(*page)).count();
        wrong += (0..self.file.pages).step_by(2).filter(|page| !self.file.is_right(*page)).count();
        let seen: u64 = (self.dropped..self.main.pages).map(|page| self.main.words(page)[2]).sum();
        wrong as u64 + u64::from(self.dropped == 0 && seen != self.written)
    }

    /// Moves, drops, unmaps and forks; then checks, here and in the child.
    fn stir(&mut self) -> u64 {
        let (pages, quarter) = (self.main.pages, self.main.pages / 4);
        // SAFETY: our own mappings; `main` follows where it goes, and what is unmapped is taken out of it.
        unsafe {
            let anywhere = Area::anonymous(pages, 0).base as *mut libc::c_void;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let base = self.main.base as *mut libc::c_void;
            assert_eq!(libc::mremap(base, pages * PAGE, pages * PAGE, flags, anywhere), anywhere);
            self.main.base = anywhere as usize;
            assert_eq!(libc::madvise(anywhere, quarter * PAGE, libc::MADV_DONTNEED), 0);
            self.dropped = quarter;
            let end = self.main.base + (pages - quarter) * PAGE;
            assert_eq!(libc::munmap(end as *mut libc::c_void, quarter * PAGE), 0);
            self.main.pages = pages - quarter;
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from(self.wrong() > 0));
            }
            let wrong = self.wrong();
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            wrong + if status == 0 { 0 } else { 1_000_000 }
        }
    }
}
