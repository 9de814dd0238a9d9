//! `godwit migrate` under load.

use std::thread;

use serde_json::json;

use crate::e2e::service::{Client, echo, scenario};
use crate::e2e::{Bed, Call, STRATEGIES, call, until};

pub fn a_hundred_times_back_and_forth_under_load_on_one_connection() {
    let bed = Bed::up();
    bed.assert_answers_as_ever();
    for round in 0..50 {
        for to in ["edge2", "edge1"] {
            // Each way by each strategy.
            let record = bed.migrate_by(["auto", "stop-copy", "pre-copy", "post-copy"][round % 4], "video", to);
            assert_eq!(record["to"], to, "{round}: {record:#}");
            assert!(record["gap_ms"].is_number() && record["freeze_ms"].as_f64().unwrap() > 0.0, "{record:#}");
            bed.assert_answers_as_ever();
        }
    }
    bed.assert_runs_only_on("video", "edge1");
}

pub fn the_container_is_an_ordinary_one_of_its_new_node() {
    let bed = Bed::up();
    bed.migrate("video", "edge3");
    bed.assert_runs_only_on("video", "edge3");
    let node = bed.node("edge3");
    let inside = node.run(["runc", "exec", "video", "cat", "/proc/1/cmdline"]).code(0).out;
    assert!(inside.contains("service") && inside.contains("--listen"), "{inside:?}");
    let sockets = node.run(["runc", "exec", "video", "cat", "/proc/net/tcp", "/proc/net/tcp6"]).code(0).out;
    assert!(sockets.lines().any(|line| line.contains(":15B3") && line.contains(" 0A ")), "it listens: {sockets}");
    // Its runc can do with it what a runc can.
    node.run(["runc", "pause", "video"]).code(0);
    assert_eq!(node.containers(), [("video".to_owned(), "paused".to_owned())]);
    node.run(["runc", "resume", "video"]).code(0);
    assert_eq!(bed.until_it_answers(), 0);
    // Nothing of the way is left on either side: images, work files.
    for name in ["edge1", "edge3"] {
        assert_eq!(bed.node(name).images(), "", "on {name}");
    }
    bed.migrate("video", "edge1");
    assert_eq!(bed.until_it_answers(), 0);
}

pub fn a_foreign_service_moves_with_its_state_and_its_connections() {
    let bed = Bed::of(&echo(""));
    let mut client = Client::connect(&bed);
    client.ask();
    for (to, strategy) in [("b", "auto"), ("a", "stop-copy"), ("b", "pre-copy"), ("a", "post-copy"), ("b", "post-copy")]
    {
        let record = bed.migrate_by(strategy, "app", to);
        if strategy == "auto" {
            assert!(record["strategy_why"].is_string(), "what was chosen is explained: {record:#}");
        } else {
            assert_eq!(record["strategy"], strategy);
        }
        assert_eq!(record["gap_ms"], json!(null), "nobody measures it: {record:#}");
        client.ask();
        bed.assert_runs_only_on("app", to);
    }
    // The listener came along as well.
    drop(client);
    let text = bed.call(&["migrate", "app", "a"]).code(0);
    text.prints("app runs on a now; it stood still for ").prints("phases in ms: preflight ");
    let status = bed.status();
    assert_eq!(status["clients"], json!([]));
    bed.call(&["status"]).code(0).prints("app");
}

pub fn pre_copy_sends_memory_while_the_service_runs() {
    let bed = Bed::up();
    bed.until_it_answers();
    let record = bed.migrate_by("pre-copy", "video", "edge2");
    let phases: Vec<_> = record["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(phases[..4], ["preflight", "stage", "pre-copy", "freeze"], "{record:#}");
    let rounds = record["rounds"].as_array().unwrap();
    assert!(rounds.len() >= 2 && rounds[0]["bytes"].as_u64().unwrap() > 16 << 20, "{record:#}");
    let last = rounds.last().unwrap()["bytes"].as_u64().unwrap();
    assert!(last < 16 << 20, "little is left for the freeze: {record:#}");
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge2");
    assert_eq!((bed.node("edge1").images(), bed.node("edge2").images()), (String::new(), String::new()));
}

pub fn the_journal_tells_of_each_migration() {
    let bed = Bed::up();
    bed.until_it_answers();
    assert_eq!(bed.call(&["journal", "--json"]).code(0).json().as_array().unwrap().len(), 0);
    bed.migrate_by("pre-copy", "video", "edge2");
    let mut asked = bed.ask_to_migrate("video", "edge3");
    asked.until_phase("stage").unwrap();
    let open = bed.call(&["journal", "--json", "--last", "1"]).code(0).json();
    assert_eq!((&open[0]["to"], &open[0]["strategy"]), (&json!("edge3"), &json!("stop-copy")), "{open:#}");
    asked.record();
    let all = bed.call(&["journal", "--json"]).code(0).json();
    assert_eq!(all.as_array().unwrap().len(), 2, "{all:#}");
    for (row, (from, to)) in all.as_array().unwrap().iter().zip([("edge1", "edge2"), ("edge2", "edge3")]) {
        assert_eq!((&row["from"], &row["to"], &row["outcome"]), (&json!(from), &json!(to), &json!("done")), "{all:#}");
        let at = |field: &str| row[field].as_u64().unwrap();
        assert!(at("begun_ms") <= at("committed_ms") && at("committed_ms") <= at("ended_ms"), "{all:#}");
    }
    bed.call(&["journal"]).code(0).prints("pre-copy").prints("stop-copy").prints("done");
}

pub fn no_more_is_sent_than_the_bandwidth_allows() {
    let bed = Bed::up();
    bed.until_it_answers();
    let args = ["migrate", "video", "edge2", "--strategy", "pre-copy", "--bandwidth", "8MiB/s", "--json"];
    let record = bed.call(&args).code(0).json();
    // 16 MiB of memory that is no zeroes and no duplicates: its time has a lower bound, whatever the machine does.
    let copied = &record["phases"].as_array().unwrap()[2];
    assert!(copied["phase"] == "pre-copy" && copied["ms"].as_f64().unwrap() > 1000.0, "{record:#}");
    let wire = record["wire_bytes"].as_u64().unwrap();
    assert!(wire > 16 << 20, "{record:#}");
    bed.assert_answers_as_ever();
    // What follows its workload is held back, too, and comes all the same.
    let args = ["migrate", "video", "edge1", "--strategy", "post-copy", "--bandwidth", "64Mbit"];
    bed.call(&args).code(0).prints("on the wire");
    bed.assert_answers_as_ever();
    let slow = bed.call(&["migrate", "video", "edge2", "--bandwidth", "0MiB/s"]).code(2);
    slow.says("a size a second such as 100Mbit or 50MiB/s");
}

pub fn post_copy_lets_it_run_before_all_its_memory_is_there() {
    let bed = Bed::up();
    bed.until_it_answers();
    let record = bed.migrate_by("post-copy", "video", "edge2");
    let phases: Vec<_> = record["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(phases[..4], ["preflight", "stage", "pre-copy", "freeze"], "{record:#}");
    let rounds = record["rounds"].as_array().unwrap();
    // The second only if much was written during the first; no more, whatever is left: the rest follows.
    assert!((1..=2).contains(&rounds.len()), "{record:#}");
    assert!(record["error"].is_null(), "{record:#}");
    // Its pages are checked by the client.
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge2");
    assert_eq!((bed.node("edge1").images(), bed.node("edge2").images()), (String::new(), String::new()));
}

pub fn two_workloads_pass_each_other() {
    let scenario = "version: 1\nname: two\nduration: 60s\n\
         nodes: [ { name: a }, { name: b } ]\n\
         users: [ { name: car, rtt: { a: 1ms, b: 2ms } }, { name: bus, rtt: { a: 2ms, b: 1ms } } ]\n\
         workloads:\n  - { name: one, node: a, users: [car, bus], memory: 32MiB }\n  \
         - { name: two, node: b, users: [car], port: 5556, memory: 8MiB }\n";
    let bed = Bed::of(scenario);
    for (one, two) in [("b", "a"), ("a", "b")] {
        thread::scope(|scope| {
            scope.spawn(|| bed.migrate("one", one));
            scope.spawn(|| bed.migrate("two", two));
        });
        bed.assert_runs_only_on("one", one);
        bed.assert_runs_only_on("two", two);
    }
    let status = bed.status();
    let clients = status["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 3);
    assert!(clients.iter().all(|client| client["broken"] == 0), "{status:#}");
    let services: Vec<_> = status["workloads"].as_array().unwrap().iter().map(|w| &w["service"]).collect();
    assert_ne!(services[0], services[1]);
}

pub fn one_at_a_time() {
    let bed = Bed::up();
    let mut first = bed.ask_to_migrate("video", "edge2");
    first.until_phase("preflight").unwrap();
    let second = bed.ask_to_migrate("video", "edge3").end();
    assert_eq!(second["reply"], "refused", "{second}");
    assert!(second["why"].as_str().unwrap().contains("in flight"), "{second}");
    assert_eq!(first.record()["outcome"], "done");
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge2");
}

pub fn who_asked_may_go_away() {
    let bed = Bed::up();
    let mut asked = bed.ask_to_migrate("video", "edge2");
    asked.until_phase("stage").unwrap();
    drop(asked);
    let args = ["migrate", "video", "edge3", "--name", bed.name()];
    until("the migration that nobody waits for is over", || (bed.node_of("video") == "edge2").then_some(()));
    let mut started = until("it may move again", || {
        let mut started = Call::of(call::program(), args).start();
        // Refused while the other is still draining.
        until("it is taken or refused", || {
            let moving = !bed.status()["workloads"][0]["migrating"].is_null();
            (moving || started.has_ended() || bed.node_of("video") == "edge3").then_some(())
        });
        (!started.has_ended() || bed.node_of("video") == "edge3").then_some(started)
    });
    if !started.has_ended() {
        started.signal(nix::sys::signal::Signal::SIGKILL);
    }
    until("the second is over as well", || (bed.node_of("video") == "edge3").then_some(()));
    assert_eq!(bed.until_it_answers(), 0);
}

pub fn a_connection_that_was_closed_before_the_move_is_not_reset() {
    // Sends more than a client takes unread, and closes while most of it is on the way.
    const SENDS_AND_CLOSES: &str = r#"use IO::Socket::INET; $SIG{CHLD} = "IGNORE";
        my $l = IO::Socket::INET->new(Listen => 16, LocalPort => 5555, ReuseAddr => 1) or die "listen: $!";
        while (1) { my $h = $l->accept or next; my $line = <$h> or next;
          setsockopt $h, 1, 7, pack "i", 4 << 20; $h->blocking(0); my $n = syswrite $h, "x" x (2 << 20); close $h }"#;
    let bed = Bed::of(&scenario(&["perl", "-e", SENDS_AND_CLOSES]));
    for (to, strategy) in ["b", "a", "b"].into_iter().zip(STRATEGIES) {
        let mut client = Client::connect(&bed);
        client.send("hello");
        client.has_unread();
        bed.migrate_by(strategy, "app", to);
        assert!(client.read_to_the_end() > 1 << 16);
        // The listener came along.
        Client::connect(&bed);
    }
}
