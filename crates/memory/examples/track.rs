//! What tracking costs: the stop, the scans, and the service's own speed.
//!
//! ```text
//! cargo run --release -p godwit-memory --example track [-- 16 256 1024]        sizes in MiB
//! ```
//! The service dirties 4 pages every millisecond, as in the measurements of migration, in an order that jumps over all of
//! its memory; and, in a second run, as many as it can. It is this program again, told so by its first argument.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use godwit_memory::{Error, PageReader, Tracker, is_zero};

const PAGE: usize = 4096;
const PAGES_PER_MS: u32 = 4;
const VISITS: usize = 100;
const ROUNDS: usize = 10;
const WINDOW: Duration = Duration::from_secs(2);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, mib, pace] = &arguments[..]
        && role == "service"
    {
        serve(mib.parse().expect("MiB"), pace == "flat-out");
        return Ok(());
    }
    if let Err(why) = godwit_memory::supported() {
        eprintln!("not on this host: {why}");
        return Ok(());
    }
    let sizes = arguments.iter().map(|a| a.parse().expect("sizes in MiB")).collect::<Vec<usize>>();
    for mib in if sizes.is_empty() { vec![16, 256, 1024] } else { sizes } {
        println!("\n{mib} MiB");
        costs(mib)?;
        for pace in ["4 pages/ms", "flat-out"] {
            slowdown(mib, pace)?;
        }
    }
    Ok(())
}

/// The stop, the scans, the copies.
fn costs(mib: usize) -> Result<(), Error> {
    let service = Service::start(mib, "4 pages/ms");
    let mut stops: Vec<Duration> = Vec::new();
    for _ in 0..VISITS {
        let tracker = Tracker::attach(&[service.pid])?;
        stops.extend(tracker.attached().iter().map(|a| a.stopped));
    }
    stops.sort();
    let [median, most, worst] = [VISITS / 2, VISITS * 9 / 10, VISITS - 1].map(|nth| stops[nth]);
    println!(
        "  stop of one thread             median {median:?}, 9 of 10 {most:?}, worst {worst:?}, of {VISITS} visits"
    );
    let mut tracker = Tracker::attach(&[service.pid])?;
    for a in tracker.attached() {
        println!(
            "  registration                   {:?} for {} mappings, {} MiB",
            a.registering,
            a.mappings,
            a.bytes >> 20
        );
    }
    let mut reader = PageReader::open(service.pid)?;
    for _ in 0..5 {
        let round = tracker.round(&[service.pid])?;
        let began = Instant::now();
        let (mut zeros, mut copied) = (0, 0);
        for process in &round.processes {
            let report = reader.read(&process.written, |chunk| {
                zeros += chunk.bytes.chunks(PAGE).filter(|page| is_zero(page)).count();
                Ok::<_, Error>(())
            })?;
            copied += report.bytes;
        }
        let took = began.elapsed();
        println!(
            "  round {}: scan {:?}, {:.1} MiB written since {:?}; read in {took:?} ({:.1} GB/s), {zeros} pages of zeros",
            round.number,
            round.took,
            copied as f64 / f64::from(1 << 20),
            round.since_last.unwrap_or_default(),
            copied as f64 / took.as_secs_f64() / 1e9,
        );
    }
    let began = Instant::now();
    tracker.detach()?;
    println!("  detach, while it lives         {:?}", began.elapsed());
    Ok(())
}

/// The service's own figures, without and with tracking, in turns: other work on the machine hits both alike.
fn slowdown(mib: usize, pace: &str) -> Result<(), Error> {
    let mut service = Service::start(mib, pace);
    let (mut without, mut with) = (Figures::default(), Figures::default());
    for _ in 0..3 {
        service.figures();
        std::thread::sleep(WINDOW);
        without.add(service.figures());
        let mut tracker = Tracker::attach(&[service.pid])?;
        service.figures();
        for _ in 0..ROUNDS {
            tracker.round(&[service.pid])?;
            std::thread::sleep(WINDOW / ROUNDS as u32);
        }
        with.add(service.figures());
        drop(tracker);
    }
    println!(
        "  {pace:<12} without: {without}; with a round every {:?}: {with}; pages/s {:+.1} %, CPU time a page {:+.1} %",
        WINDOW / ROUNDS as u32,
        100.0 * (with.pages_per_second() / without.pages_per_second() - 1.0),
        100.0 * (with.cpu_per_page() / without.cpu_per_page() - 1.0),
    );
    Ok(())
}

struct Service {
    child: Child,
    pid: i32,
    output: BufReader<ChildStdout>,
}

impl Service {
    fn start(mib: usize, pace: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("our own path"))
            .args(["service", &mib.to_string(), pace])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut service = Self { pid: child.id() as i32, child, output };
        service.figures();
        service
    }

    /// What it has done since the last question.
    fn figures(&mut self) -> Figures {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("the service lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the service answers");
        let numbers: Vec<f64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        Figures { pages: numbers[0], seconds: numbers[1], cpu: numbers[2] }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Figures {
    pages: f64,
    seconds: f64,
    cpu: f64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.seconds += other.seconds;
        self.cpu += other.cpu;
    }

    fn pages_per_second(&self) -> f64 {
        self.pages / self.seconds
    }

    fn cpu_per_page(&self) -> f64 {
        self.cpu / self.pages
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} pages/s at {:.2} us of CPU each", self.pages_per_second(), self.cpu_per_page() * 1e6)
    }
}

/// Dirties pages, and answers each line with: pages dirtied, seconds, seconds of CPU, since the last.
fn serve(mib: usize, flat_out: bool) {
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().for_each(|_| ask.send(()).expect("it writes")));
    let pages = mib * 1024 * 1024 / PAGE;
    // No page of zeros, none equal to another.
    let mut memory: Vec<u64> =
        (0..(pages * PAGE / 8) as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).collect();
    let (mut page, mut written) = (0, 0u64);
    let (mut since, mut cpu) = (Instant::now(), cpu_seconds());
    let mut tick = Instant::now();
    loop {
        for _ in 0..PAGES_PER_MS {
            page = (page + pages * 5 / 8 + 1) % pages;
            let words = &mut memory[page * PAGE / 8..(page + 1) * PAGE / 8];
            // Reads and writes all of it: a page's work, a small one.
            let sum = words.iter().fold(written, |sum, word| sum.rotate_left(5) ^ word);
            words.iter_mut().for_each(|word| *word = word.wrapping_add(sum | 1));
            written += 1;
        }
        if asked.try_recv().is_ok() {
            let now = cpu_seconds();
            println!("{written} {} {}", since.elapsed().as_secs_f64(), now - cpu);
            (written, since, cpu) = (0, Instant::now(), now);
        }
        if !flat_out {
            tick += Duration::from_millis(1);
            // Late by a lot: start anew, do not rush.
            if tick.elapsed() > Duration::from_millis(100) {
                tick = Instant::now();
            }
            std::thread::sleep(tick.saturating_duration_since(Instant::now()));
        }
    }
}

/// CPU time of this process so far, user and system, faults included.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("a kernel with schedstat");
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") / 1e9
}
