//! The link between the nodes' agents, cut or stalled.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::e2e::bed::Asked;
use crate::e2e::node::Node;
use crate::e2e::{Bed, STRATEGIES};
use crate::hold::{assert_rolled_back, assert_unharmed, bed};

const PHASES: [&str; 10] =
    ["preflight", "stage", "pre-copy", "freeze", "dump", "transfer", "restore", "commit", "switch", "drain"];
/// Shorter than the agents have patience (3 s for a connection that is gone, 5 s of silence).
const SHORT: Duration = Duration::from_secs(1);

/// What becomes of the link.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The target's end is down: it knows, the source gets no answers.
    Cut,
    /// What the source sends vanishes, and neither end knows.
    Stalled,
}

/// An `ip` in a node that waits for orders, so that none comes late.
struct Link {
    ip: Child,
    begin: String,
    end: String,
}

impl Link {
    fn between(source: &Node, target: &Node, fault: Fault) -> Self {
        let address = target.sh("ip -4 -o address show dev backhaul");
        let address = address.split_whitespace().skip_while(|word| *word != "inet").nth(1).expect("it has one");
        let address = address.split('/').next().expect("an address");
        let (node, begin, end) = match fault {
            Fault::Cut => (target, "link set backhaul down".into(), "link set backhaul up".into()),
            // To a station that does not exist.
            Fault::Stalled => (
                source,
                format!("neighbour replace {address} lladdr 02:00:00:00:00:01 dev backhaul nud permanent"),
                format!("neighbour delete {address} dev backhaul"),
            ),
        };
        let init = node.init().to_string();
        let ip = Command::new("nsenter")
            .args(["--target", &init, "--mount", "--net", "--pid", "--root", "--", "ip", "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter is there");
        Self { ip, begin, end }
    }

    fn order(&mut self, order: &str) {
        let stdin = self.ip.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{order}").expect("ip takes orders");
    }

    fn fail(&mut self) {
        self.order(&self.begin.clone());
    }

    /// The link is whole again.
    fn mend(mut self) {
        self.order(&self.end.clone());
        drop(self.ip.stdin.take());
        assert!(self.ip.wait().expect("it ends").success(), "ip did what it was told");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.ip.kill();
        let _ = self.ip.wait();
    }
}

fn ends(bed: &Bed) -> (&'static str, &'static str) {
    if bed.node_of("video") == "edge1" { ("edge1", "edge2") } else { ("edge2", "edge1") }
}

/// One copy runs, where the record says, and its client has noticed nothing but a gap.
#[track_caller]
fn one_copy_runs(bed: &Bed, asked: Asked, from: &str, to: &str, what: &str) {
    let record = asked.record();
    let runs_on = match record["outcome"].as_str() {
        Some("done") => to,
        Some("rolled-back") => from,
        _ => panic!("{what}: {record:#}"),
    };
    bed.assert_answers_as_ever();
    bed.assert_runs_only_on("video", runs_on);
    for node in [from, to] {
        assert_eq!(bed.node(node).images(), "", "{what}, on {node}: {record:#}");
    }
}

fn in_every_phase(fault: Fault) {
    let bed = bed();
    for strategy in STRATEGIES {
        for phase in PHASES {
            let (from, to) = ends(&bed);
            let mut link = Link::between(&bed.node(from), &bed.node(to), fault);
            let mut asked = bed.ask_to_migrate_by(strategy, "video", to);
            // Stop-copy has one phase less.
            if asked.until_phase(phase).is_ok() {
                link.fail();
                thread::sleep(SHORT);
                link.mend();
                one_copy_runs(&bed, asked, from, to, &format!("{fault:?} in {phase} of {strategy}"));
            }
        }
    }
    assert_unharmed(&bed, ends(&bed).0);
}

pub fn cut_in_every_phase() {
    in_every_phase(Fault::Cut);
}

pub fn stalled_in_every_phase() {
    in_every_phase(Fault::Stalled);
}

/// Before the commit the source runs on.
pub fn away_for_long() {
    let bed = bed();
    for fault in [Fault::Cut, Fault::Stalled] {
        for (strategy, phase) in [("stop-copy", "dump"), ("pre-copy", "pre-copy"), ("post-copy", "pre-copy")] {
            let (from, to) = ends(&bed);
            let mut link = Link::between(&bed.node(from), &bed.node(to), fault);
            let mut asked = bed.ask_to_migrate_by(strategy, "video", to);
            asked.until_phase(phase).expect("a migration that goes well");
            link.fail();
            let record = asked.record();
            link.mend();
            if record["outcome"] == "done" {
                // It was through before the link was.
                bed.assert_answers_as_ever();
                continue;
            }
            let failed = if phase == "dump" { "transfer" } else { phase };
            assert_rolled_back(&record, failed, "send");
            assert_unharmed(&bed, from);
        }
    }
}
