//! Who puts memory in its place is killed while it does: a process of its own, its guard, the agent that has started it.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agents::agent;
use crate::e2e::node::{Node, Process, processes, signal};
use crate::e2e::service::{Client, answering};
use crate::e2e::{Bed, until};
use crate::hold::{assert_unharmed, bed};

/// The strategies by which all memory is on the target at the commit.
const COMPLETE: [&str; 2] = ["stop-copy", "pre-copy"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Handler,
    Guard,
    Agent,
}

/// Migrates, kills as soon as memory is guarded, and so before all of it is in place. What came of it, and where it was to go.
fn killed(bed: &Bed, strategy: &str, victims: &[Victim]) -> (Value, &'static str) {
    let to = other(if bed.node_of("video") == "edge1" { "edge1" } else { "edge2" });
    let target = bed.node(to);
    let of_agent = agent(&target);
    let mut asked = bed.ask_to_migrate_by(strategy, "video", to);
    asked.until_phase("stage").expect("a migration that goes well");
    let handler = handler(&target);
    let Some(guard) = guard(&handler) else {
        // Too late, on a busy machine: it ended well, and the next one goes back.
        assert_eq!(asked.record()["outcome"], "done");
        return killed(bed, strategy, victims);
    };
    for victim in victims {
        let process = match victim {
            Victim::Handler => &handler,
            Victim::Guard => &guard,
            Victim::Agent => &of_agent,
        };
        assert!(signal(process, Signal::SIGKILL), "{victim:?} of {strategy}");
    }
    // Nobody but who was to be killed is stopped now.
    signal(&handler, Signal::SIGCONT);
    signal(&guard, Signal::SIGCONT);
    (asked.record(), to)
}

fn other(node: &str) -> &'static str {
    if node == "edge1" { "edge2" } else { "edge1" }
}

/// The process that waits to put memory in place.
fn handler(node: &Node) -> Process {
    until("who puts memory in place is there", || handlers(node).pop())
}

fn handlers(node: &Node) -> Vec<Process> {
    let is_it = |p: &Process| p.args.get(1).is_some_and(|arg| arg == "page-handler");
    node.processes().into_iter().filter(is_it).collect()
}

/// The handler's child, both stopped the moment it is there; none if the handler is through before it was seen.
fn guard(handler: &Process) -> Option<Process> {
    let children = format!("/proc/{pid}/task/{pid}/children", pid = handler.pid);
    loop {
        let child = fs::read_to_string(&children).ok()?;
        let Some(pid) = child.split_whitespace().next().and_then(|pid| pid.parse::<i32>().ok()) else { continue };
        signal(handler, Signal::SIGSTOP);
        let guard = processes().into_iter().find(|p| p.pid == pid);
        signal(guard.as_ref().unwrap_or(handler), if guard.is_some() { Signal::SIGSTOP } else { Signal::SIGCONT });
        return guard;
    }
}

pub fn anyone_is_killed_and_nothing_lost() {
    let bed = bed();
    for strategy in COMPLETE {
        for victims in [
            &[Victim::Handler][..],
            &[Victim::Guard],
            &[Victim::Agent],
            &[Victim::Handler, Victim::Agent],
            &[Victim::Guard, Victim::Agent],
        ] {
            let (record, to) = killed(&bed, strategy, victims);
            // Before the commit an agent that is killed is a reason to roll back.
            let at = match record["outcome"].as_str() {
                Some("done") => to,
                Some("rolled-back") if victims.contains(&Victim::Agent) => other(to),
                _ => panic!("{victims:?} of {strategy}: {record:#}"),
            };
            bed.assert_answers_as_ever();
            bed.assert_runs_only_on("video", at);
        }
    }
    let at = if bed.node_of("video") == "edge1" { "edge1" } else { "edge2" };
    assert_unharmed(&bed, at);
}

/// A page that it has locked, by mlock(2), which Perl knows by its number alone. Asked, it says whether a text in that page, and one in
/// a lot of other memory, are as they were.
const LOCKS: &str = r#"our $page = 'locked ' x 2000; our $big = join ' ', 1..2_000_000; my $nr = `uname -m` =~ /x86_64/ ? 149 : 228;
    syscall($nr, (unpack 'Q', pack 'P', $page) & ~4095, 4096) == 0 or die "mlock: $!";
    sub locked { open my $h, '<', '/proc/self/status'; (join '', <$h>) =~ /VmLck:\s+(\d+)/; $1 }
    sub check { join ' ', locked() > 0, $page eq 'locked ' x 2000, $big eq join ' ', 1..2_000_000 }"#;

/// What has locked memory is not restored lazily: by stop-copy all its memory is in the images, and nobody puts it in place later.
pub fn by_images_no_agent_that_is_killed_harms() {
    let bed = Bed::of(&answering(LOCKS));
    let mut client = Client::connect(&bed);
    assert_eq!(client.say("check()"), "1 1 1");
    for phase in ["freeze", "dump", "transfer", "restore", "switch", "drain"] {
        for source_s in [true, false] {
            let (from, to) = if bed.node_of("app") == "a" { ("a", "b") } else { ("b", "a") };
            let victim = agent(&bed.node(if source_s { from } else { to }));
            let mut asked = bed.ask_to_migrate("app", to);
            asked.until_phase("freeze").expect("a migration that goes well");
            assert!(handlers(&bed.node(to)).is_empty(), "its memory is not in the images");
            if phase != "freeze" && asked.until_phase(phase).is_err() {
                continue;
            }
            signal(&victim, Signal::SIGKILL);
            let record = asked.record();
            let at = match record["outcome"].as_str() {
                Some("done") => to,
                Some("rolled-back") => from,
                _ => panic!("killed in {phase}: {record:#}"),
            };
            assert_eq!(client.say("check()"), "1 1 1", "killed in {phase}: {record:#}");
            bed.assert_runs_only_on("app", at);
        }
    }
}

/// Nobody is left who could put the rest in place: before the commit the source goes on, after it the workload is ended before it
/// reads zeroes, which is told.
pub fn handler_and_guard_are_killed_at_once() {
    let bed = bed();
    let (record, to) = killed(&bed, "pre-copy", &[Victim::Guard, Victim::Handler]);
    match record["outcome"].as_str() {
        Some("lost") => {
            let error = record["error"].as_str().unwrap_or_default();
            assert!(error.contains("was killed, and its guard too"), "{record:#}");
            ["edge1", "edge2"].iter().for_each(|node| assert!(bed.node(node).copy_of("video").is_empty(), "on {node}"));
        }
        Some("rolled-back") => assert_unharmed(&bed, other(to)),
        _ => panic!("{record:#}"),
    }
}
