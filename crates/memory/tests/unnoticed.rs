//! The process does not notice that it is tracked: what it was about goes on, and nothing is left in it.

mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use godwit_memory::{Error, Hazard, Tracker, hazards};
use world::{
    PAGE, Subject, assert_written, by_write_protection, pages, signal, states, supported_or_skip, untouched, wait_for,
};

/// What a call has to return in the end, and how long it takes at least, in ms.
const CALLS: [(&str, i64, u64); 17] = [
    ("read", 1, 390),
    ("nanosleep", 0, 400),
    ("futex", 0, 390),
    ("futex-timeout", -(libc::ETIMEDOUT as i64), 400),
    ("epoll", 1, 390),
    ("epoll-timeout", 0, 400),
    ("epoll_pwait", 1, 390),
    ("epoll_pwait-signal", -(libc::EINTR as i64), 390),
    ("poll", 0, 400),
    ("ppoll", 0, 400),
    ("select", 0, 400),
    ("sigtimedwait", -(libc::EAGAIN as i64), 400),
    ("semtimedop", -(libc::EAGAIN as i64), 400),
    ("recv-timeout", -(libc::EAGAIN as i64), 400),
    ("waitpid", 1, 390),
    // These two end by a signal that has a handler, and would without us.
    ("pause", -(libc::EINTR as i64), 390),
    ("sleep-signal", -(libc::EINTR as i64), 390),
];

/// A tracker that has looked once.
fn visit(pid: i32) -> Tracker {
    let mut tracker = Tracker::attach(&[pid]).unwrap();
    if !by_write_protection() {
        // Which lets it stand still in rounds only.
        tracker.round(&[pid]).unwrap();
    }
    tracker
}

#[test]
fn interrupted_calls_are_taken_up_again() {
    supported_or_skip!();
    std::thread::scope(|scope| {
        for (call, want, least) in CALLS {
            scope.spawn(move || visit_in_call(call, want, least));
        }
    });
}

fn visit_in_call(call: &str, want: i64, least: u64) {
    let mut subject = Subject::start();
    subject.tell(&format!("block {call}"));
    assert_eq!(subject.hear(), "blocking");
    wait_for("the call to block", || states(subject.pid).starts_with('S'));
    let began = Instant::now();
    let mut visits = 0;
    while began.elapsed() < Duration::from_millis(300) {
        let tracker = visit(subject.pid);
        visits += tracker.attached().len();
        tracker.detach().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = subject.hear();
    let (ret, ms) = answer.split_once(' ').unwrap();
    assert_eq!(ret, want.to_string(), "{call} after {visits} visits");
    assert!(ms.parse::<u64>().unwrap() >= least, "{call} returned after {ms} ms");
    assert!(visits > 0, "{call} was not visited");
    untouched(subject.pid).unwrap();
}

#[test]
fn a_signal_that_comes_with_a_visit_is_not_lost() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let pid = subject.pid;
    const TIMES: u64 = 300;
    subject.tell(&format!("suspend {TIMES}"));
    assert_eq!(subject.hear(), "suspending");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let mut visits = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                drop(visit(pid));
                visits += 1;
            }
            visits
        });
        for nth in 1..=TIMES {
            signal(pid, "USR1");
            assert_eq!(subject.hear(), nth.to_string());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(visitor.join().unwrap() > 20);
    });
    // Its mask is what it was, too.
    assert_eq!(subject.hear(), "good 1");
}

#[test]
fn a_running_thread_computes_on() {
    supported_or_skip!();
    let mut subject = Subject::start();
    subject.tell("busy 1000");
    let began = Instant::now();
    let mut visits = 0;
    while began.elapsed() < Duration::from_millis(900) {
        drop(visit(subject.pid));
        visits += 1;
    }
    assert_eq!(subject.hear(), "good", "{visits} visits");
    assert!(visits > 0);
}

#[test]
fn a_restartable_sequence_is_begun_anew() {
    supported_or_skip!();
    let mut subject = Subject::start();
    subject.tell("sequence 1000");
    let answer = subject.hear();
    if answer == "no rseq" {
        eprintln!("SKIPPED: the C library of this host registers no rseq");
        return;
    }
    let mut visits = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        drop(visit(subject.pid));
        visits += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let restarts: u64 = subject.hear().parse().unwrap();
    assert!(visits > 0 && restarts >= visits, "{restarts} restarts in {visits} visits");
}

#[test]
fn a_frozen_process_is_not_waited_for_and_a_tracked_one_may_be_frozen() {
    supported_or_skip!();
    let group = std::path::PathBuf::from(format!("/sys/fs/cgroup/freezer/godwit-memory-{}", std::process::id()));
    if let Err(e) = std::fs::create_dir(&group) {
        eprintln!("SKIPPED: no freezer of cgroup v1 here: {e}");
        return;
    }
    let mut subject = Subject::start();
    let pid = subject.pid;
    let at = subject.written(100, 1);
    let mut tracker = Tracker::attach(&[pid]).unwrap();
    tracker.round(&[pid]).unwrap();
    subject.write(at + 3 * PAGE, 1, 5);
    std::fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    std::fs::write(group.join("freezer.state"), "FROZEN").unwrap();
    wait_for("the freeze", || std::fs::read_to_string(group.join("freezer.state")).unwrap() == "FROZEN\n");
    let last = tracker.round(&[pid]);
    let detached = tracker.detach();
    let left = untouched(pid);
    let again = Tracker::attach(&[pid]);
    std::fs::write(group.join("freezer.state"), "THAWED").unwrap();
    let answer = subject.ask("userfaultfd");
    drop(subject);
    wait_for("the group to be empty", || std::fs::remove_dir(&group).is_ok());
    assert_written(&last.unwrap(), pages(at, 100), &[pages(at + 3 * PAGE, 1)]);
    detached.unwrap();
    left.unwrap();
    if by_write_protection() {
        assert!(matches!(again, Err(Error::DidNotStop { .. })), "{again:?}");
    } else {
        assert_eq!(again.unwrap().attached().len(), 1);
    }
    assert_eq!(answer, "0", "it runs on");
}

#[test]
fn nothing_is_left_after_detach_or_drop() {
    supported_or_skip!();
    let mut subject = Subject::start();
    subject.ask("sleepers 4");
    let at = subject.written(500, 1);
    let pid = subject.pid;
    let flags = |flag: &str| {
        let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        smaps.lines().filter(|l| l.starts_with("VmFlags:") && l.split_whitespace().any(|f| f == flag)).count()
    };
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = descriptors();
    let mut tracker = Tracker::attach(&[pid]).unwrap();
    tracker.round(&[pid]).unwrap();
    assert!(!by_write_protection() || flags("uw") > 3);
    assert_eq!(descriptors(), before, "the userfaultfd is ours alone");
    tracker.detach().unwrap();
    untouched(pid).unwrap();
    let mut tracker = Tracker::attach(&[pid]).unwrap();
    tracker.round(&[pid]).unwrap();
    subject.write(at, 1, 3);
    drop(tracker);
    untouched(pid).unwrap();
    subject.write(at, 500, 4);
}

#[test]
fn a_tracker_that_is_killed_leaves_nothing() {
    supported_or_skip!();
    if let Ok(pid) = std::env::var("TRACK_AND_WAIT") {
        let pid = pid.parse().unwrap();
        let mut tracker = Tracker::attach(&[pid]).unwrap();
        tracker.round(&[pid]).unwrap();
        println!("tracking");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut subject = Subject::start();
    let at = subject.written(500, 1);
    let mut tracker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_tracker_that_is_killed_leaves_nothing", "--nocapture"])
        .env("TRACK_AND_WAIT", subject.pid.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tracker.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap() == "tracking"));
    assert!(!by_write_protection() || untouched(subject.pid).is_err());
    tracker.kill().unwrap();
    tracker.wait().unwrap();
    untouched(subject.pid).unwrap();
    subject.write(at, 500, 2);
    // And another can take over.
    Tracker::attach(&[subject.pid]).unwrap().round(&[subject.pid]).unwrap();
}

#[test]
fn seccomp_filters_stand_in_nobodys_way() {
    supported_or_skip!();
    for profile in ["errno", "kill"] {
        let mut subject = Subject::start();
        subject.ask(format!("seccomp {profile}"));
        let at = subject.written(10, 1);
        let mut tracker = Tracker::attach(&[subject.pid]).unwrap();
        tracker.round(&[subject.pid]).unwrap();
        subject.write(at, 1, 2);
        assert_written(&tracker.round(&[subject.pid]).unwrap(), pages(at, 10), &[pages(at, 1)]);
        // And it is in force again.
        if profile == "errno" {
            assert_eq!(subject.ask("userfaultfd"), (-libc::EPERM).to_string());
        }
    }
}

#[test]
fn a_process_in_another_pid_namespace_is_tracked() {
    supported_or_skip!();
    let mut subject = Subject::start_in_pid_namespace();
    let at = subject.written(10, 1);
    let mut tracker = Tracker::attach(&[subject.pid]).unwrap();
    tracker.round(&[subject.pid]).unwrap();
    subject.write(at + PAGE, 1, 2);
    assert_written(&tracker.round(&[subject.pid]).unwrap(), pages(at, 10), &[pages(at + PAGE, 1)]);
    tracker.detach().unwrap();
    untouched(subject.pid).unwrap();
}

#[test]
fn a_stopped_process_stays_stopped() {
    supported_or_skip!();
    let mut subject = Subject::start();
    subject.ask("sleepers 2");
    signal(subject.pid, "STOP");
    let mut tracker = Tracker::attach(&[subject.pid]).unwrap();
    assert!(tracker.round(&[subject.pid]).unwrap().bytes() > 0);
    wait_for("the stop to be in force again", || states(subject.pid) == "TTT");
    tracker.detach().unwrap();
    assert_eq!(states(subject.pid), "TTT");
    signal(subject.pid, "CONT");
    assert_eq!(subject.ask("userfaultfd"), "0");
}

#[test]
fn what_cannot_be_tracked_says_why() {
    supported_or_skip!();
    // It ended, or never was.
    let gone = {
        let subject = Subject::start();
        subject.pid
    };
    assert!(Tracker::attach(&[gone]).unwrap().attached().is_empty());
    // Its main thread ended.
    let mut subject = Subject::start();
    subject.ask("leave");
    wait_for("the main thread to end", || states(subject.pid).contains('Z'));
    let error = Tracker::attach(&[subject.pid]).unwrap_err();
    assert!(matches!(error, Error::Untrackable { .. }), "{error}");
    // It is a tracker's already: of ours.
    let subject = Subject::start();
    let first = Tracker::attach(&[subject.pid]).unwrap();
    if by_write_protection() {
        let error = Tracker::attach(&[subject.pid]).unwrap_err();
        assert!(matches!(error, Error::OwnUserfaultfd { .. }), "{error}");
    }
    drop(first);
    Tracker::attach(&[subject.pid]).unwrap();
}

#[test]
fn a_process_under_a_debugger_is_left_alone() {
    supported_or_skip!();
    let subject = Subject::start();
    let Ok(mut strace) =
        Command::new("strace").args(["-qq", "-o", "/dev/null", "-p", &subject.pid.to_string()]).spawn()
    else {
        eprintln!("SKIPPED: no strace here");
        return;
    };
    wait_for("strace to attach", || untouched(subject.pid).is_err());
    let error = Tracker::attach(&[subject.pid]).unwrap_err();
    assert!(matches!(error, Error::Traced { by, .. } if by == strace.id() as i32), "{error}");
    strace.kill().unwrap();
    strace.wait().unwrap();
}

#[test]
fn hazards_are_named() {
    let mut subject = Subject::start();
    assert_eq!(hazards(subject.pid).unwrap(), []);
    let file = env!("CARGO_BIN_EXE_memory-subject");
    if subject.ask(format!("direct {file}")) != "ok" {
        eprintln!("SKIPPED: the file system of {file} knows no direct I/O");
        return;
    }
    assert_eq!(hazards(subject.pid).unwrap(), [Hazard::DirectIo { pid: subject.pid, file: file.into() }]);
    assert_eq!(subject.ask("userfaultfd"), "0");
    assert_eq!(hazards(subject.pid).unwrap()[1..], [Hazard::Userfaultfd { pid: subject.pid }]);
}
