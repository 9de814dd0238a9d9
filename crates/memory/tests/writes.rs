//! What a process writes is found, page for page, whatever it does to its mappings meanwhile.

mod world;

use godwit_memory::{PageRange, PageReader, Tracker, UntrackedKind, is_zero, total_bytes};
use world::{
    PAGE, Shadow, Subject, assert_written, by_write_protection, dumped_pages, freeze_and_compare, inside, pages,
    signal, supported_or_skip, untouched, witnesses,
};

fn tracked(subject: &Subject) -> Tracker {
    Tracker::attach(&[subject.pid]).unwrap()
}

#[test]
fn the_first_round_is_what_criu_would_dump() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let at = subject.written(100, 7);
    // Read only: the page of zeros. A hole. And the text of the program, and its libraries' relocated pages.
    let zeros = subject.place("map 50");
    subject.ask(format!("read {zeros:#x} 20"));
    let file = subject.place(format!("file {} 8", env!("CARGO_BIN_EXE_memory-subject")));
    subject.ask(format!("read {file:#x} 8"));
    subject.write(file + 2 * PAGE, 1, 3);
    signal(subject.pid, "STOP");
    let mut tracker = tracked(&subject);
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_eq!(round.number, 1);
    assert_eq!(round.processes[0].written, dumped_pages(subject.pid));
    assert_written(&round, pages(at, 100), &[pages(at, 100)]);
    assert_written(&round, pages(zeros, 50), &[]);
    assert_written(&round, pages(file, 8), &[pages(file + 2 * PAGE, 1)]);
    assert_eq!(tracker.populated().unwrap(), [(subject.pid, dumped_pages(subject.pid))]);
    // It does not run, so nothing more is written.
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_eq!(round.number, 2);
    assert!(round.bytes() <= witnesses(), "{round:x?}");
    assert!(round.processes[0].appeared.is_empty() && round.processes[0].vanished.is_empty());
    assert_eq!(tracker.populated().unwrap(), [(subject.pid, dumped_pages(subject.pid))]);
}

#[test]
fn pieces_are_all_that_is_populated_and_what_is_written_after_its_turn_is_found() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let at = subject.written(1000, 1);
    let mut tracker = tracked(&subject);
    signal(subject.pid, "STOP");
    let pieces = tracker.pieces(100 * PAGE).unwrap();
    let dumped = total_bytes(&dumped_pages(subject.pid));
    assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), dumped);
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.bytes <= 100 * PAGE), "{pieces:x?}");
    signal(subject.pid, "CONT");
    // Before its turn: it is in its piece, and not found again.
    subject.write(at + 700 * PAGE, 3, 2);
    let mut taken = Vec::new();
    for piece in &pieces {
        taken.extend(tracker.take(piece).unwrap());
    }
    assert_eq!(total_bytes(&inside(&taken, pages(at, 1000))), 1000 * PAGE);
    let new = subject.written(5, 3);
    subject.write(at + 20 * PAGE, 2, 4);
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(at, 1000), &[pages(at + 20 * PAGE, 2)]);
    assert_written(&round, pages(new, 5), &[pages(new, 5)]);
    // What is in no piece that was taken counts as written.
    tracker.detach().unwrap();
    let mut tracker = tracked(&subject);
    let pieces = tracker.pieces(100 * PAGE).unwrap();
    for piece in &pieces[pieces.len() / 2..] {
        tracker.take(piece).unwrap();
    }
    let left: u64 = pieces[..pieces.len() / 2].iter().map(|piece| piece.bytes).sum();
    assert!(tracker.round(&[subject.pid]).unwrap().bytes() >= left);
    // Of a process that has ended there is nothing.
    drop(subject);
    assert!(tracker.pieces(PAGE).unwrap().is_empty());
    assert!(tracker.take(&pieces[0]).unwrap().is_empty());
}

#[test]
fn a_round_finds_the_pages_written_and_no_others() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let at = subject.written(1000, 1);
    let mut tracker = tracked(&subject);
    tracker.round(&[subject.pid]).unwrap();
    subject.write(at + 10 * PAGE, 3, 50);
    subject.write(at + 500 * PAGE, 1, 60);
    subject.ask(format!("read {at:#x} 1000"));
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(at, 1000), &[pages(at + 10 * PAGE, 3), pages(at + 500 * PAGE, 1)]);
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(at, 1000), &[]);
    // Written again, and by the kernel on its behalf.
    subject.write(at + 11 * PAGE, 1, 70);
    let read = subject.ask(format!("readinto /dev/zero {:#x} 2", at + 700 * PAGE));
    assert_eq!(read, (2 * PAGE).to_string());
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(at, 1000), &[pages(at + 11 * PAGE, 1), pages(at + 700 * PAGE, 2)]);
}

#[test]
fn mappings_that_come_and_go_are_followed() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let gone = subject.written(10, 1);
    let replaced = subject.written(10, 2);
    let moved = subject.written(10, 3);
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    shadow.take(&tracker.round(&[pid]).unwrap());
    // Something new, without and with a write; something unmapped; something else in the place of another.
    let empty = subject.place("map 10");
    let new = subject.written(10, 4);
    subject.ask(format!("unmap {gone:#x} 10"));
    subject.ask(format!("unmap {replaced:#x} 10"));
    subject.ask(format!("mapat {replaced:#x} 10"));
    subject.write(replaced + 5 * PAGE, 1, 9);
    let there = subject.place(format!("move {moved:#x} 10"));
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    let process = &round.processes[0];
    assert_written(&round, pages(new, 10), &[pages(new, 10)]);
    assert_written(&round, pages(empty, 10), &[]);
    assert_written(&round, pages(replaced, 10), &[pages(replaced + 5 * PAGE, 1)]);
    assert_written(&round, pages(there, 10), &[pages(there, 10)]);
    assert_eq!(inside(&process.appeared, pages(new, 10)), [pages(new, 10)]);
    for range in [pages(gone, 10), pages(moved, 10)] {
        let still = [new, empty, there].iter().any(|at| !inside(&[pages(*at, 10)], range).is_empty());
        assert!(still || inside(&process.vanished, range) == [range], "{range:x?} {process:x?}");
    }
    // What moved is tracked where it is now.
    subject.write(there + 3 * PAGE, 1, 77);
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    assert_written(&round, pages(there, 10), &[pages(there + 3 * PAGE, 1)]);
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn heap_and_stack_grow_under_tracking() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    shadow.take(&tracker.round(&[pid]).unwrap());
    for turn in 1..4u64 {
        let heap = subject.place(format!("grow 40 {turn}"));
        subject.ask(format!("stack {}", turn * 60));
        let round = tracker.round(&[pid]).unwrap();
        shadow.take(&round);
        assert_written(&round, pages(heap, 39), &[pages(heap, 39)]);
        assert!(round.bytes() > 90 * PAGE, "{}", round.bytes());
        subject.write(heap + 7 * PAGE, 1, 5);
        let round = tracker.round(&[pid]).unwrap();
        shadow.take(&round);
        assert_written(&round, pages(heap, 39), &[pages(heap + 7 * PAGE, 1)]);
    }
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn pages_given_back_and_taken_anew_are_found() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let at = subject.written(100, 1);
    let file = subject.place(format!("file {} 8", env!("CARGO_BIN_EXE_memory-subject")));
    subject.write(file, 8, 3);
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    shadow.take(&tracker.round(&[pid]).unwrap());
    subject.ask(format!("drop {at:#x} 50"));
    subject.ask(format!("drop {file:#x} 8"));
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    assert_written(&round, pages(at, 50), &[]);
    // Those of a file leave a mark that CRIU takes for a page: they come with what is in the file.
    let of_the_file = if by_write_protection() { vec![pages(file, 8)] } else { vec![] };
    assert_written(&round, pages(file, 8), &of_the_file);
    subject.write(at + 3 * PAGE, 2, 8);
    subject.ask(format!("read {at:#x} 50"));
    subject.write(file + PAGE, 1, 9);
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    assert_written(&round, pages(at, 50), &[pages(at + 3 * PAGE, 2)]);
    assert_written(&round, pages(file, 8), &[pages(file + PAGE, 1)]);
    subject.ask(format!("free {at:#x} 100"));
    subject.write(at + 60 * PAGE, 1, 11);
    subject.ask(format!("drop {file:#x} 8"));
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn changed_permissions_hide_nothing() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let at = subject.written(30, 1);
    let text = subject.place(format!("file {} 8", env!("CARGO_BIN_EXE_memory-subject")));
    subject.ask(format!("protect {text:#x} 8 r"));
    let none = subject.written(10, 2);
    subject.ask(format!("protect {none:#x} 10 none"));
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    let round = tracker.round(&[pid]).unwrap();
    assert_written(&round, pages(none, 10), &[pages(none, 10)]);
    shadow.take(&round);
    // Read-only, written in between, read-only again: before tracking knew it, and after.
    for seed in 5..8 {
        subject.ask(format!("protect {text:#x} 8 rw"));
        subject.write(text + 4 * PAGE, 1, seed);
        subject.ask(format!("protect {text:#x} 8 r"));
        subject.ask(format!("protect {none:#x} 10 rw"));
        subject.write(none + PAGE, 1, seed);
        subject.ask(format!("protect {none:#x} 10 none"));
        subject.write(at + 2 * PAGE, 1, seed);
        subject.ask(format!("protect {:#x} 1 r", at + seed * PAGE));
        let round = tracker.round(&[pid]).unwrap();
        shadow.take(&round);
        assert_written(&round, pages(text, 8), &[pages(text + 4 * PAGE, 1)]);
        assert_written(&round, pages(none, 10), &[pages(none + PAGE, 1)]);
        assert_written(&round, pages(at, 30), &[pages(at + 2 * PAGE, 1)]);
    }
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn children_and_execs_are_followed() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let at = subject.written(20, 1);
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    shadow.take(&tracker.round(&[pid]).unwrap());
    // After a fork all pages of both are shared until written; the child writes one, the parent another.
    let child: i32 = subject.ask(format!("fork {at:#x} 1 50")).parse().unwrap();
    subject.write(at + 9 * PAGE, 1, 60);
    world::wait_for("the child to pause", || world::states(child) == "S");
    let round = tracker.round(&[pid, child]).unwrap();
    shadow.take(&round);
    assert_eq!(round.attached.iter().map(|a| a.pid).collect::<Vec<_>>(), [child]);
    let of = |pid: i32| round.processes.iter().find(|p| p.pid == pid).unwrap();
    assert_eq!(inside(&of(pid).written, pages(at, 20)), [pages(at + 9 * PAGE, 1)]);
    assert_eq!(inside(&of(child).written, pages(at, 20)), [pages(at, 20)]);
    signal(child, "STOP");
    shadow.take(&tracker.round(&[pid, child]).unwrap());
    shadow.compare(child);
    subject.ask(format!("reap {child}"));
    let round = tracker.round(&[pid]).unwrap();
    assert_eq!(round.left, [child]);
    shadow.take(&round);
    // A new program in the same process: all of it counts.
    assert_eq!(subject.ask("exec"), "ready");
    let new = subject.written(30, 4);
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    assert!(!by_write_protection() || round.attached.iter().map(|a| a.pid).eq([pid]));
    assert_written(&round, pages(new, 30), &[pages(new, 30)]);
    subject.write(new, 1, 9);
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    assert_written(&round, pages(new, 30), &[pages(new, 1)]);
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn who_comes_as_late_as_the_freeze_is_looked_at_without_a_visit() {
    supported_or_skip!();
    let (mut first, mut late) = (Subject::start(), Subject::start());
    let at = first.written(10, 1);
    let mut tracker = tracked(&first);
    tracker.round(&[first.pid]).unwrap();
    first.write(at, 1, 2);
    let late_at = late.written(20, 3);
    for pid in [first.pid, late.pid] {
        signal(pid, "STOP");
    }
    let round = tracker.last_round(&[first.pid, late.pid]).unwrap();
    let written = |pid| &round.processes.iter().find(|process| process.pid == pid).unwrap().written;
    assert!(inside(written(first.pid), pages(at, 10)).iter().any(|range| range.start == at));
    assert!(!by_write_protection() || inside(written(first.pid), pages(at, 10)) == [pages(at, 1)]);
    assert_eq!(*written(late.pid), dumped_pages(late.pid));
    assert_eq!(inside(written(late.pid), pages(late_at, 20)), [pages(late_at, 20)]);
    assert!(round.attached.is_empty(), "{:?}", round.attached);
    assert_eq!(untouched(late.pid), Ok(()));
}

#[test]
fn a_round_that_failed_loses_nothing() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let pid = subject.pid;
    let at = subject.written(50, 1);
    let file = subject.place(format!("file {} 8", env!("CARGO_BIN_EXE_memory-subject")));
    subject.write(file, 2, 3);
    let mut tracker = tracked(&subject);
    shadow.take(&tracker.round(&[pid]).unwrap());
    // What this round finds does not come out: another process cannot be attached.
    let mut other = Subject::start();
    other.ask("leave");
    world::wait_for("the main thread to end", || world::states(other.pid).contains('Z'));
    subject.write(at + 7 * PAGE, 1, 2);
    let gone = subject.written(10, 3);
    subject.ask(format!("unmap {gone:#x} 10"));
    tracker.round(&[pid, other.pid]).unwrap_err();
    let round = tracker.round(&[pid]).unwrap();
    assert_eq!(round.number, 2);
    assert_written(&round, pages(at, 50), &[pages(at, 50)]);
    assert_written(&round, pages(file, 8), &[pages(file, 2)]);
    shadow.take(&round);
    subject.write(at + 9 * PAGE, 1, 2);
    let round = tracker.round(&[pid]).unwrap();
    assert_written(&round, pages(at, 50), &[pages(at + 9 * PAGE, 1)]);
    shadow.take(&round);
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn programs_started_by_vfork_are_followed() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let pid = subject.pid;
    subject.written(20, 1);
    let mut tracker = tracked(&subject);
    // While a vfork child has not called exec it lives in its parent's memory, and the parent does not run.
    subject.tell("spawn 1000");
    let (mut most, mut attached) = (0, 0);
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_millis(900) {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let pids: Vec<i32> = [pid].into_iter().chain(children.split_whitespace().map(|c| c.parse().unwrap())).collect();
        let round = tracker.round(&pids).unwrap();
        most = most.max(round.processes.len());
        attached += round.attached.len();
        shadow.take(&round);
    }
    assert!(subject.hear().parse::<u32>().unwrap() > 3);
    assert!(most > 1 && attached > 1, "{attached} children seen, at most {most} at once");
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn what_is_not_tracked_is_named() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let shared = subject.place("shared 10");
    subject.write(shared, 4, 1);
    let memfd = subject.place("memfd 6");
    subject.write(memfd, 2, 1);
    let droppable = subject.ask("droppable 8");
    let mut tracker = tracked(&subject);
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(shared, 10), &[]);
    let untracked = tracker.untracked().unwrap();
    let at = |at: u64| untracked.iter().find(|u| u.range.start == at).map(|u| (u.kind, u.range.bytes(), u.populated));
    assert_eq!(at(shared), Some((UntrackedKind::SharedMemory, 10 * PAGE, 4 * PAGE)));
    assert_eq!(at(memfd), Some((UntrackedKind::SharedMemory, 6 * PAGE, 2 * PAGE)));
    let Some(droppable) = droppable.strip_prefix("0x") else {
        eprintln!("SKIPPED in part: the kernel has no MAP_DROPPABLE ({droppable})");
        return;
    };
    // Refused by the kernel: reported in every round, in the doubt that it was written.
    if !by_write_protection() {
        eprintln!("SKIPPED in part: nothing is refused by soft-dirty marks");
        return;
    }
    let droppable = u64::from_str_radix(droppable, 16).unwrap();
    subject.write(droppable, 3, 1);
    for _ in 0..2 {
        let round = tracker.round(&[subject.pid]).unwrap();
        assert_written(&round, pages(droppable, 8), &[pages(droppable, 3)]);
        assert_eq!(inside(&round.processes[0].refused, pages(droppable, 8)), [pages(droppable, 8)]);
    }
    let untracked = tracker.untracked().unwrap();
    assert!(untracked.iter().any(|u| u.range.start == droppable && u.kind == UntrackedKind::Refused), "{untracked:?}");
}

#[test]
fn huge_pages_and_guards_are_followed() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let at = subject.place("map 2048").next_multiple_of(512 * PAGE);
    subject.ask(format!("huge {at:#x} 1024"));
    subject.write(at, 1024, 1);
    let guarded = subject.written(20, 5);
    let guard = subject.ask(format!("guard {guarded:#x} 10"));
    let mut tracker = tracked(&subject);
    let pid = subject.pid;
    shadow.take(&tracker.round(&[pid]).unwrap());
    subject.write(at + 100 * PAGE, 1, 9);
    let round = tracker.round(&[pid]).unwrap();
    shadow.take(&round);
    // A huge page is split by the first write to it when it is protected, and has one soft-dirty mark.
    let written = if by_write_protection() { pages(at + 100 * PAGE, 1) } else { pages(at, 512) };
    assert_written(&round, pages(at, 1024), &[written]);
    if guard == "ok" {
        assert_eq!(inside(&tracker.populated().unwrap()[0].1, pages(guarded, 20)), [pages(guarded + 10 * PAGE, 10)]);
    } else {
        eprintln!("SKIPPED in part: the kernel has no guard regions ({guard})");
    }
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn a_sparse_mapping_costs_no_page_tables() {
    supported_or_skip!();
    let mut subject = Subject::start();
    // 64 GiB, a page of it written.
    let at = subject.place("map 16777216");
    subject.write(at + (8 << 30), 1, 1);
    let tables = |pid: i32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|l| l.starts_with("VmPTE:")).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = tables(subject.pid);
    let mut tracker = tracked(&subject);
    for _ in 0..3 {
        tracker.round(&[subject.pid]).unwrap();
    }
    subject.write(at + (9 << 30), 1, 1);
    let round = tracker.round(&[subject.pid]).unwrap();
    assert_written(&round, pages(at, 16_777_216), &[pages(at + (9 << 30), 1)]);
    assert!(tables(subject.pid) < before + 200, "{before} and then {} KiB", tables(subject.pid));
}

#[test]
fn a_read_skips_what_is_gone_and_goes_on() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let at = subject.written(300, 1);
    subject.ask(format!("unmap {:#x} 100", at + 100 * PAGE));
    subject.ask(format!("protect {:#x} 20 none", at + 50 * PAGE));
    let mut reader = PageReader::with_buffer(subject.pid, 16 * PAGE as usize).unwrap();
    let mut seen: Vec<PageRange> = Vec::new();
    let report = reader.read(&[pages(at, 150), pages(at + 180 * PAGE, 120)], |chunk| {
        assert!(!is_zero(chunk.bytes));
        match seen.last_mut() {
            Some(last) if last.end == chunk.start => last.end += chunk.bytes.len() as u64,
            _ => seen.push(PageRange::new(chunk.start, chunk.start + chunk.bytes.len() as u64)),
        }
        Ok::<_, godwit_memory::Error>(())
    });
    let report = report.unwrap();
    assert_eq!(seen, [pages(at, 100), pages(at + 200 * PAGE, 100)]);
    assert_eq!(report.bytes, 200 * PAGE);
    assert_eq!(report.vanished, [pages(at + 100 * PAGE, 50), pages(at + 180 * PAGE, 20)]);
}

#[test]
fn who_else_clears_the_marks_hides_nothing() {
    supported_or_skip!();
    if by_write_protection() {
        eprintln!("SKIPPED: only where memory is tracked by soft-dirty marks");
        return;
    }
    let mut subject = Subject::start();
    let pid = subject.pid;
    let at = subject.written(50, 1);
    let (mut one, mut other) = (tracked(&subject), tracked(&subject));
    one.round(&[pid]).unwrap();
    other.round(&[pid]).unwrap();
    // Each clears the marks of what the other has not seen yet, and notices it.
    subject.write(at + 3 * PAGE, 1, 2);
    assert_written(&one.round(&[pid]).unwrap(), pages(at, 50), &[pages(at, 50)]);
    assert_written(&other.round(&[pid]).unwrap(), pages(at, 50), &[pages(at, 50)]);
    drop(one);
    subject.write(at + 4 * PAGE, 1, 2);
    assert_written(&other.round(&[pid]).unwrap(), pages(at, 50), &[pages(at + 4 * PAGE, 1)]);
}
