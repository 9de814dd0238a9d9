//! Users and how far they are.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_model::{Family, NodeName, Protocol, Rtt, UserName};

use super::{Declared, parts};
use crate::fields::{Fields, Problems};
use crate::problem::Problem;
use crate::scenario::User;
use crate::trajectory::{Ramp, Trajectory};
use crate::tree::{Tree, Value};
use crate::units::{self, LONGEST};

/// More steps than this in one ramp are a slip.
const MOST_STEPS: u32 = 1_000_000;

pub(super) fn user(tree: &Tree, nodes: &Declared, problems: &Problems) -> Option<User> {
    let fields = Fields::open(tree, "a user", &["name", "rtt", "protocol", "family"], problems)?;
    let name = fields.need("name", "name: car").and_then(|tree| parts::name(tree, problems));
    let protocol = fields.one_of("protocol", &Protocol::ALL.map(|it| (it.name(), it)));
    let family = fields.one_of("family", &Family::ALL.map(|it| (it.name(), it)));
    let rtt_tree = fields.need("rtt", "rtt: { edge1: 5ms, edge2: 20ms }")?;
    let Value::Map(entries) = &rtt_tree.value else {
        let problem = Problem::new(rtt_tree.at, format!("`rtt` must be a map of nodes, not {}", rtt_tree.is_a()));
        problems.add(problem.help("write `rtt: { edge1: 5ms, edge2: 20ms }`"));
        return None;
    };
    let given: Vec<&str> = entries.iter().map(|(key, _)| key.name.as_str()).collect();
    let mut rtt = BTreeMap::new();
    let mut all_known = true;
    for (index, (key, tree)) in entries.iter().enumerate() {
        if !nodes.check_hinting(&key.name, key.at, &given, problems) {
            all_known = false;
        } else if given[..index].contains(&key.name.as_str()) {
            problems.add(Problem::new(key.at, format!("the rtt to {:?} is there twice", key.name)).help("remove one"));
        } else if let (Some(trajectory), Ok(node)) = (trajectory(tree, problems), NodeName::new(key.name.as_str())) {
            rtt.insert(node, trajectory);
        }
    }
    // A misspelt node is not missing as well.
    let missing: Vec<_> = nodes.names.iter().filter(|node| !given.contains(&node.as_str())).cloned().collect();
    if let (Some(first), true) = (missing.first(), all_known) {
        let at = tree.get("rtt").map_or(rtt_tree.at, |(key, _)| key.at);
        let problem = Problem::new(at, format!("the rtt to {} is missing", missing.join(", ")));
        problems.add(problem.help(format!("every user has an rtt to every node: add for example `{first}: 20ms`")));
    }
    let (protocol, family) = (protocol.unwrap_or_default(), family.unwrap_or_default());
    Some(User { name: UserName::new(name?).ok()?, rtt, protocol, family })
}

/// `5ms`, or `{ start: 0ms, ramps: [ … ] }`.
fn trajectory(tree: &Tree, problems: &Problems) -> Option<Trajectory> {
    if matches!(tree.value, Value::Map(_)) {
        return moving(tree, problems);
    }
    let rtt = tree.scalar().and_then(|text| units::signed_ms(&text)).and_then(Rtt::from_ms);
    if rtt.is_none() {
        let problem = Problem::new(tree.at, format!("no round-trip time: {}", tree.is_a()));
        problems.add(problem.help("write `5ms`, or `{ start: 0ms, ramps: [ { steps: 20, every: 6s, by: 3ms } ] }`"));
    }
    rtt.map(Trajectory::constant)
}

fn moving(tree: &Tree, problems: &Problems) -> Option<Trajectory> {
    let fields = Fields::open(tree, "a trajectory", &["start", "ramps"], problems)?;
    let start_tree = fields.need("start", "start: 0ms");
    let start = fields.signed_ms("start").and_then(|ms| {
        let start = Rtt::from_ms(ms);
        if let (None, Some(tree)) = (start, start_tree) {
            problems.add(Problem::new(tree.at, "`start` is negative").help("a round-trip time is 0ms or more"));
        }
        start
    });
    let ramps: Option<Vec<Ramp>> = fields.list("ramps").iter().map(|tree| ramp(tree, problems)).collect();
    let trajectory = Trajectory::new(start?, ramps?);
    if trajectory.length() > LONGEST {
        problems.add(Problem::new(tree.at, "the ramps take longer than a year").help("use fewer or shorter steps"));
        return None;
    }
    Some(trajectory)
}

fn ramp(tree: &Tree, problems: &Problems) -> Option<Ramp> {
    let fields = Fields::open(tree, "a ramp", &["steps", "every", "by"], problems)?;
    for (field, such_as) in [("steps", "steps: 20"), ("every", "every: 6s"), ("by", "by: 3ms")] {
        let _ = fields.need(field, such_as);
    }
    let steps = fields.whole("steps", 1..=MOST_STEPS);
    let every = fields.duration_from("every", Duration::from_millis(1));
    let by_ms = fields.signed_ms("by");
    Some(Ramp { steps: steps?, every: every?, by_ms: by_ms? })
}
