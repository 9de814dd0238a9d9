//! A process that does what it is told, a copy of its memory made from rounds, and the comparison of the two.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use godwit_memory::{Error, Method, PageRange, PageReader, Round, Tracker, supported};

pub const PAGE: u64 = 4096;

/// Whether a tracker leaves marks in the process that others can see, and sees new programs by these.
pub fn by_write_protection() -> bool {
    supported() == Ok(Method::WriteProtection)
}

/// Leaves a test that this host cannot run, loudly.
macro_rules! supported_or_skip {
    () => {
        if let Err(why) = godwit_memory::supported() {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
}
pub(crate) use supported_or_skip;

/// Bytes that a round by soft-dirty marks may report of its own.
pub fn witnesses() -> u64 {
    if by_write_protection() { 0 } else { 4 * PAGE }
}

/// The process under test. Killed when dropped.
pub struct Subject {
    child: Child,
    /// Its number here; the child's own where nothing stands between.
    pub pid: i32,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Subject {
    pub fn start() -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_memory-subject")), |child| child.id() as i32)
    }

    /// In a pid namespace of its own, where it has the number 1.
    pub fn start_in_pid_namespace() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_memory-subject")]);
        Self::start_by(command, |child| {
            let pid = child.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            children.trim().parse().unwrap()
        })
    }

    fn start_by(mut command: Command, pid: impl FnOnce(&Child) -> i32) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = pid(&child);
        Self { child, pid, input, output }
    }

    /// Gives an order, without waiting for the answer.
    pub fn tell(&mut self, order: &str) {
        writeln!(self.input, "{order}").unwrap();
    }

    /// The next line that it says.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "it died, and last said {line:?}");
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, order: impl AsRef<str>) -> String {
        self.tell(order.as_ref());
        self.hear()
    }

    /// An order that answers with an address.
    pub fn place(&mut self, order: impl AsRef<str>) -> u64 {
        let answer = self.ask(order.as_ref());
        let hex = answer.strip_prefix("0x").unwrap_or_else(|| panic!("{}: {answer}", order.as_ref()));
        u64::from_str_radix(hex, 16).unwrap()
    }

    /// New memory, all of it written.
    pub fn written(&mut self, pages: u64, seed: u64) -> u64 {
        let at = self.place(format!("map {pages}"));
        assert_eq!(self.ask(format!("write {at:#x} {pages} {seed}")), "ok");
        at
    }

    pub fn write(&mut self, at: u64, pages: u64, seed: u64) {
        assert_eq!(self.ask(format!("write {at:#x} {pages} {seed}")), "ok");
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // What stands between takes it along (unshare --kill-child).
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// kill(1), and waits for what SIGSTOP is for.
pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success() || name == "KILL");
    if name == "STOP" {
        wait_for("all threads to stop", || states(pid).chars().all(|state| state == 'T'));
    }
}

/// What each of its threads does, a letter each.
pub fn states(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn pages(at: u64, count: u64) -> PageRange {
    PageRange::new(at, at + count * PAGE)
}

/// The written ranges of the only process, cut down to those inside `of`.
pub fn written_in(round: &Round, of: PageRange) -> Vec<PageRange> {
    let [process] = &round.processes[..] else { panic!("{round:?}") };
    inside(&process.written, of)
}

/// What a round has to say of `of`: these pages, and at most the witnesses besides.
#[track_caller]
pub fn assert_written(round: &Round, of: PageRange, want: &[PageRange]) {
    let found = written_in(round, of);
    let holds = |page: u64, list: &[PageRange]| list.iter().any(|range| range.start <= page && page < range.end);
    let every = |list: &[PageRange]| -> Vec<u64> {
        list.iter().flat_map(|range| (range.start..range.end).step_by(PAGE as usize)).collect()
    };
    let missed: Vec<u64> = every(want).into_iter().filter(|page| !holds(*page, &found)).collect();
    let more = every(&found).into_iter().filter(|page| !holds(*page, want)).count() as u64;
    assert!(missed.is_empty() && more * PAGE <= witnesses(), "{found:x?} instead of {want:x?}");
}

pub fn inside(ranges: &[PageRange], of: PageRange) -> Vec<PageRange> {
    let cut = ranges.iter().map(|r| PageRange::new(r.start.max(of.start), r.end.min(of.end)));
    cut.filter(|r| !r.is_empty()).collect()
}

/// Copies of pages, kept as a target would: by process and address.
#[derive(Default)]
pub struct Shadow {
    pages: BTreeMap<(i32, u64), Vec<u8>>,
    pub bytes: u64,
    pub vanished: u64,
}

impl Shadow {
    /// Copies what a round found.
    pub fn take(&mut self, round: &Round) {
        for process in &round.processes {
            for range in &process.vanished {
                self.pages.retain(|(pid, at), _| *pid != process.pid || *at < range.start || *at >= range.end);
            }
            let mut reader = match PageReader::with_buffer(process.pid, 256 << 10) {
                Err(Error::Ended { .. }) => continue,
                other => other.unwrap(),
            };
            let copied = reader.read(&process.written, |chunk| {
                for (at, page) in (chunk.start..).step_by(PAGE as usize).zip(chunk.bytes.chunks(PAGE as usize)) {
                    self.pages.insert((process.pid, at), page.to_vec());
                }
                Ok::<_, Error>(())
            });
            match copied {
                Ok(report) => {
                    self.bytes += report.bytes;
                    self.vanished += report.vanished.iter().map(|r| r.bytes()).sum::<u64>();
                }
                Err(Error::Ended { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Compares with a process that does not run: every page that CRIU would dump has to be there, byte by byte. Which
    /// pages these are, and what they contain, is found out in another way than the crate's.
    pub fn compare(&self, pid: i32) -> u64 {
        let dumped = dumped_pages(pid);
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut want = vec![0; PAGE as usize];
        let mut compared = 0;
        for at in dumped.iter().flat_map(|r| (r.start..r.end).step_by(PAGE as usize)) {
            memory.read_exact_at(&mut want, at).unwrap();
            let have = self.pages.get(&(pid, at)).unwrap_or_else(|| panic!("page {at:#x} was never copied"));
            let differs = have.iter().zip(&want).position(|(have, want)| have != want);
            assert_eq!(differs, None, "page {at:#x} is not as it was copied last: a write was missed");
            compared += PAGE;
        }
        compared
    }
}

/// The pages of private mappings that CRIU would dump, by /proc/PID/pagemap and the rules of its should_dump_page.
pub fn dumped_pages(pid: i32) -> Vec<PageRange> {
    const PRESENT_OR_SWAPPED: u64 = 3 << 62;
    const FILE: u64 = 1 << 61;
    const GUARD: u64 = 1 << 58;
    const FRAME: u64 = (1 << 55) - 1;
    let zero = zero_frame();
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut found: Vec<PageRange> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let special = |name: &&str| ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"].contains(name);
        let huge = |name: &&str| name.starts_with("/anon_hugepage");
        if !fields[1].ends_with('p') || fields.get(5).is_some_and(|name| special(name) || huge(name)) {
            continue;
        }
        let (start, end) = fields[0].split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut entries = vec![0; ((end - start) / PAGE * 8) as usize];
        pagemap.read_exact_at(&mut entries, start / PAGE * 8).unwrap();
        for (page, entry) in (start..end).step_by(PAGE as usize).zip(entries.chunks(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap());
            let of_a_file = fields[4] != "0" && entry & FILE != 0;
            if entry & PRESENT_OR_SWAPPED != 0 && entry & GUARD == 0 && !of_a_file && entry & FRAME != zero {
                match found.last_mut() {
                    Some(last) if last.end == page => last.end += PAGE,
                    _ => found.push(pages(page, 1)),
                }
            }
        }
    }
    found
}

/// The number of the page of zeros, as a page that was only read has it.
fn zero_frame() -> u64 {
    // So large that the allocator maps it anew, whatever it has seen before.
    let untouched = vec![0u8; 64 << 20];
    let at = (untouched.as_ptr() as u64).next_multiple_of(PAGE);
    std::hint::black_box(untouched[(at - untouched.as_ptr() as u64) as usize]);
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, at / PAGE * 8).unwrap();
    let entry = u64::from_ne_bytes(entry) & ((1 << 55) - 1);
    assert_ne!(entry, 0, "page frame numbers are for CAP_SYS_ADMIN only");
    entry
}

/// Whether anything of a tracker is left in the process: an error says what.
pub fn untouched(pid: i32) -> Result<(), String> {
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        if target.to_string_lossy().contains("userfaultfd") {
            return Err(format!("{} is a userfaultfd", fd.path().display()));
        }
    }
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        if line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "uw" || flag == "um") {
            return Err(line.to_owned());
        }
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let tracer = status.lines().find(|line| line.starts_with("TracerPid:")).unwrap();
    if tracer.split_whitespace().nth(1) == Some("0") { Ok(()) } else { Err(tracer.to_owned()) }
}

/// Stops the process, as a freeze would; a last round; and the comparison of what a dump would take, while it is tracked
/// and after, when nothing is left behind. How many bytes were compared.
pub fn freeze_and_compare(mut tracker: Tracker, shadow: &mut Shadow, pid: i32) -> u64 {
    signal(pid, "STOP");
    shadow.take(&tracker.round(&[pid]).unwrap());
    shadow.compare(pid);
    tracker.detach().unwrap();
    untouched(pid).unwrap();
    shadow.compare(pid)
}
