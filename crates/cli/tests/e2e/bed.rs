//! A testbed in the background, ended with its test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::call::{Ran, end_testbed, godwit};
use super::left;
use super::node::Node;
use super::slots::Slot;
use super::{PATIENCE, until};

/// How the memory can travel, however the host is.
pub const STRATEGIES: [&str; 3] = ["stop-copy", "pre-copy", "post-copy"];

/// A running testbed. Dropped, it is ended, and then nothing may be left of it.
#[derive(Debug)]
pub struct Bed {
    name: String,
    dir: TempDir,
    _slot: Slot,
}

impl Bed {
    /// The shipped car's.
    pub fn up() -> Self {
        let bed = Self::none();
        bed.call_up(&[]).code(0);
        bed
    }

    /// Of a scenario.
    pub fn of(scenario: &str) -> Self {
        let bed = Self::none();
        let file = bed.file("scenario.yaml", scenario);
        bed.call_up(&[file.to_str().expect("UTF-8")]).code(0);
        bed
    }

    /// A name, a slot and a guard; the test starts the testbed.
    pub fn none() -> Self {
        let slot = Slot::take();
        Self { name: left::fresh_name(), dir: tempfile::tempdir().expect("a temporary directory"), _slot: slot }
    }

    /// A second one beside a first that has a slot already.
    pub fn beside(first: &Self) -> Self {
        // Two tests that each wait for a second slot would wait for ever, so both have one.
        let slot = first._slot.clone();
        Self { name: left::fresh_name(), dir: tempfile::tempdir().expect("a temporary directory"), _slot: slot }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file in the test's own directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("it can be written");
        path
    }

    /// A path in the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `godwit testbed up`.
    pub fn call_up(&self, args: &[&str]) -> Ran {
        self.call(&[&["testbed", "up"], args].concat())
    }

    /// Calls the binary for this testbed.
    pub fn call(&self, args: &[&str]) -> Ran {
        godwit([args, &["--name", &self.name]].concat())
    }

    /// `godwit status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.call(&["status", "--json"]).code(0).json()
    }

    /// The node where a workload is said to run.
    #[track_caller]
    pub fn node_of(&self, workload: &str) -> String {
        let status = self.status();
        let workloads = status["workloads"].as_array().expect("a list");
        let found = workloads.iter().find(|w| w["name"] == workload).expect("it is there");
        found["node"].as_str().expect("a name").to_owned()
    }

    /// `godwit migrate --json`, which must end well; its record.
    #[track_caller]
    pub fn migrate(&self, workload: &str, to: &str) -> Value {
        self.migrate_by("auto", workload, to)
    }

    /// The same by a strategy.
    #[track_caller]
    pub fn migrate_by(&self, strategy: &str, workload: &str, to: &str) -> Value {
        let record = self.call(&["migrate", workload, to, "--json", "--strategy", strategy]).code(0).json();
        assert_eq!(record["outcome"], "done", "{record:#}");
        assert!(record.get("error").is_none(), "{record:#}");
        record
    }

    /// A node.
    pub fn node(&self, name: &str) -> Node {
        Node::new(&self.name, name)
    }

    /// The nodes by their names.
    #[track_caller]
    pub fn nodes(&self) -> Vec<String> {
        let status = self.status();
        let nodes = status["nodes"].as_array().expect("a list").iter();
        nodes.map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// A workload runs on this node with all its containers, on no other, and runc knows it nowhere else.
    #[track_caller]
    pub fn assert_runs_only_on(&self, workload: &str, at: &str) {
        assert_eq!(self.node_of(workload), at);
        for name in self.nodes() {
            let node = self.node(&name);
            let known: Vec<_> = node.containers().into_iter().filter(|(id, _)| id.starts_with(workload)).collect();
            let copy: Vec<_> = node.copy_of(workload).into_iter().filter(|p| p.state != 'X').collect();
            if name == at {
                let several = known.iter().all(|(id, _)| id.starts_with(&format!("{workload}.")));
                assert!(several || known.len() == 1 && known[0].0 == workload, "on {name} runc knows {known:?}");
                assert!(!known.is_empty() && known.iter().all(|(_, state)| state == "running"), "on {name}: {known:?}");
                assert!(!copy.is_empty(), "no process of {workload} on {name}");
            } else {
                assert!(known.is_empty(), "on {name} runc knows {known:?}");
                assert!(copy.is_empty(), "on {name} there is {copy:?}");
            }
            assert!(node.criu().is_empty(), "on {name} criu goes on: {:?}", node.criu());
        }
    }

    /// What the measuring client of the only user sees: (answers, broken connections).
    #[track_caller]
    pub fn client(&self) -> (u64, u64) {
        let status = self.status();
        let client = &status["clients"][0];
        (client["received"].as_u64().expect("a number"), client["broken"].as_u64().expect("a number"))
    }

    /// The client gets answers (again), over the connection that it had, and nothing was ever wrong with them or with the
    /// service's memory.
    #[track_caller]
    pub fn assert_answers_as_ever(&self) {
        assert_eq!(self.until_it_answers(), 0, "the client's connection broke");
        let status = self.status();
        assert_eq!(status["clients"][0]["harm"], 0, "{status:#}");
    }

    /// The client gets answers (again); how many connections broke so far.
    #[track_caller]
    pub fn until_it_answers(&self) -> u64 {
        let (before, _) = self.client();
        until("the client gets answers", || {
            let (now, broken) = self.client();
            (now > before + 20).then_some(broken)
        })
    }

    /// Asks for a migration over the control socket: by stop-copy, whose phases last long enough to be hit.
    pub fn ask_to_migrate(&self, workload: &str, to: &str) -> Asked {
        self.ask_to_migrate_by("stop-copy", workload, to)
    }

    /// The same by a strategy.
    pub fn ask_to_migrate_by(&self, strategy: &str, workload: &str, to: &str) -> Asked {
        self.ask(&json!({"ask": "migrate", "workload": workload, "to": to, "strategy": strategy}))
    }

    /// Asks over the control socket.
    pub fn ask(&self, what: &Value) -> Asked {
        let mut stream = UnixStream::connect(left::run_dir(&self.name).join("control.sock")).expect("it runs");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time");
        // It need not read all of it to answer.
        let _ = writeln!(stream, "{what}");
        Asked { lines: BufReader::new(stream) }
    }

    /// Ends it, in order.
    pub fn down(self) {
        self.call(&["testbed", "down"]).code(0);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        end_testbed(&self.name);
        let left = left::of(&self.name);
        if thread::panicking() {
            if !left.is_empty() {
                eprintln!("left behind by a test that failed:\n  {}", left.join("\n  "));
            }
        } else {
            assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        }
    }
}

/// Whether further replies follow this one.
fn is_progress(reply: &Value) -> bool {
    ["phase", "sent", "round", "rolling-back"].iter().any(|kind| reply["reply"] == *kind)
}

/// The replies to what was asked.
#[derive(Debug)]
pub struct Asked {
    lines: BufReader<UnixStream>,
}

impl Asked {
    /// The next reply; none at the end.
    pub fn next_reply(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a JSON line")),
            Err(error) => panic!("the testbed does not answer: {error}"),
        }
    }

    /// Waits until the migration enters this phase; false if it ended before (the record is kept for `end`).
    pub fn until_phase(&mut self, phase: &str) -> Result<(), Value> {
        while let Some(reply) = self.next_reply() {
            match reply["reply"].as_str() {
                Some("phase") if reply["phase"] == phase => return Ok(()),
                _ if is_progress(&reply) => {}
                _ => return Err(reply),
            }
        }
        panic!("the testbed broke off before {phase}");
    }

    /// The last reply.
    pub fn end(mut self) -> Value {
        loop {
            match self.next_reply() {
                Some(reply) if is_progress(&reply) => {}
                Some(reply) => return reply,
                None => panic!("the testbed broke off"),
            }
        }
    }

    /// The migration's record.
    pub fn record(self) -> Value {
        let reply = self.end();
        assert_eq!(reply["reply"], "ended", "{reply}");
        reply["record"].clone()
    }
}
