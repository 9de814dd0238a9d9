//! From the tree to the scenario: each part reads its own fields, then `checks` looks at what they have to do with one
//! another.

mod checks;
mod containers;
mod contents;
mod parts;
mod policy;
mod users;

use std::path::Path;
use std::time::Duration;

use godwit_model::{Rtt, Time};

use crate::fields::{Fields, Problems, nearest};
use crate::problem::{Place, Problem};
use crate::scenario::{Control, Migration, Node, Probe, Scenario, Stress, User, Workload};
use crate::tree::{Tree, Value};
use crate::units::LONGEST;

const FIELDS: [&str; 15] = [
    "version",
    "name",
    "description",
    "duration",
    "seed",
    "speed",
    "rtt_bound",
    "nodes",
    "users",
    "workloads",
    "stress",
    "policy",
    "control",
    "probe",
    "migration",
];

/// A part with the place of the entry that it was read from.
pub(crate) struct Placed<T> {
    pub(crate) at: Place,
    pub(crate) part: T,
}

/// Names that were declared, good or bad, so that one mistake is told once and not at each use.
pub(crate) struct Declared {
    /// "node", "user".
    kind: &'static str,
    names: Vec<String>,
}

impl Declared {
    /// Collects `name` of every entry; a name that is there twice is a problem.
    fn collect(kind: &'static str, entries: &[Tree], problems: &Problems) -> Self {
        let mut names: Vec<String> = Vec::new();
        for entry in entries {
            let Some((name, at)) = entry.get("name").and_then(|(_, tree)| Some((tree.scalar()?, tree.at))) else {
                continue;
            };
            if names.contains(&name) {
                let problem = Problem::new(at, format!("there are two {kind}s named {name:?}"));
                problems.add(problem.help("rename one of them"));
            } else {
                names.push(name);
            }
        }
        Self { kind, names }
    }

    /// Whether `name` is one; if not, that is a problem.
    fn check(&self, name: &str, at: Place, problems: &Problems) -> bool {
        self.check_hinting(name, at, &[], problems)
    }

    /// The same; `taken` are names that were not meant.
    fn check_hinting(&self, name: &str, at: Place, taken: &[&str], problems: &Problems) -> bool {
        if self.names.iter().any(|n| n == name) {
            return true;
        }
        let kind = self.kind;
        // A scenario without a node was told so already.
        if !(self.names.is_empty() && kind == "node") {
            let free = self.names.iter().map(String::as_str).filter(|name| !taken.contains(name));
            let help = match nearest(name, free) {
                _ if self.names.is_empty() => format!("no {kind} is declared: list it under `{kind}s`"),
                Some(near) => format!("did you mean `{near}`? the {kind}s are {}", self.names.join(", ")),
                None => format!("the {kind}s are {}", self.names.join(", ")),
            };
            problems.add(Problem::new(at, format!("there is no {kind} {name:?}")).help(help));
        }
        false
    }
}

/// Reads and checks all of it. Relative paths begin at `dir`.
pub(crate) fn scenario(tree: &Tree, dir: &Path) -> Result<Scenario, Vec<Problem>> {
    let problems = Problems::default();
    let read = whole(tree, dir, &problems);
    let problems = problems.into_vec();
    match read {
        Some(scenario) if problems.is_empty() => Ok(scenario),
        _ if problems.is_empty() => Err(vec![Problem::new(tree.at, "the scenario cannot be read")]),
        _ => Err(problems),
    }
}

fn whole(tree: &Tree, dir: &Path, problems: &Problems) -> Option<Scenario> {
    if tree.value == Value::Null {
        problems.add(Problem::new(Place::default(), "the file is empty").help("begin with `version: 1`"));
        return None;
    }
    // A file of another version has other fields: that is the one thing to say about it.
    if let Some((_, version)) = tree.get("version")
        && version.value != Value::Int(Scenario::VERSION.into())
    {
        let what = format!("this is no scenario of version {}: {}", Scenario::VERSION, version.is_a());
        let help = format!("this godwit reads `version: {}`; a newer one may read others", Scenario::VERSION);
        problems.add(Problem::new(version.at, what).help(help));
        return None;
    }
    let fields = Fields::open(tree, "a scenario", &FIELDS, problems)?;
    let _ = fields.need("version", "version: 1");

    let name = fields.need("name", "name: car").and_then(|tree| parts::name(tree, problems));
    let node_entries = fields.list("nodes");
    if node_entries.is_empty() {
        let at = tree.get("nodes").map_or(Place::default(), |(key, _)| key.at);
        let problem = Problem::new(at, "a scenario needs at least one node");
        problems.add(problem.help("add it, for example `nodes: [ { name: edge1 }, { name: edge2 } ]`"));
    }
    let user_entries = fields.list("users");
    let nodes = Declared::collect("node", node_entries, problems);
    let users = Declared::collect("user", user_entries, problems);
    let _ = Declared::collect("workload", fields.list("workloads"), problems);

    let read = |tree: &Tree| tree.at;
    let nodes_read: Vec<Placed<Node>> = each(node_entries, read, |tree| parts::node(tree, problems));
    let users_read: Vec<Placed<User>> = each(user_entries, read, |tree| users::user(tree, &nodes, problems));
    let workloads: Vec<Placed<Workload>> =
        each(fields.list("workloads"), read, |tree| parts::workload(tree, dir, &nodes, &users, problems));
    let stress: Vec<Placed<Stress>> = each(fields.list("stress"), read, |tree| parts::stress(tree, &nodes, problems));
    checks::fits(&nodes_read, &workloads, &stress, problems);

    let users: Vec<User> = strip(users_read);
    let stress_parts: Vec<Stress> = stress.iter().map(|placed| placed.part.clone()).collect();
    let duration = match fields.duration_from("duration", Duration::from_secs(1)) {
        Some(duration) => Some(duration),
        None if tree.get("duration").is_some() => None,
        None => natural_end(&users, &stress_parts, problems),
    };
    checks::begins_in_time(duration, &stress, problems);

    let rtt_bound = fields.signed_ms("rtt_bound");
    if rtt_bound.is_some_and(|ms| ms <= 0.0) {
        let at = tree.get("rtt_bound").map_or(Place::default(), |(_, tree)| tree.at);
        problems.add(Problem::new(at, "`rtt_bound` must be more than 0").help("the reference's is 26ms"));
    }
    Some(Scenario {
        name: name?,
        description: fields.text("description").unwrap_or_default().trim().to_owned(),
        seed: fields.whole("seed", 0..=u64::MAX).unwrap_or(1),
        speed: fields.number("speed", 0.01..=1000.0).unwrap_or(1.0),
        rtt_bound: Rtt::from_ms(rtt_bound.unwrap_or(26.0).max(0.0))?,
        nodes: strip(nodes_read),
        users,
        workloads: strip(workloads),
        stress: stress_parts,
        policy: policy::policy(fields.get("policy"), problems)?,
        control: fields.get("control").map_or(Some(Control::default()), |tree| parts::control(tree, problems))?,
        probe: fields.get("probe").map_or(Some(Probe::default()), |tree| parts::probe(tree, problems))?,
        migration: fields
            .get("migration")
            .map_or(Some(Migration::default()), |tree| parts::migration(tree, problems))?,
        duration: duration?,
    })
}

fn each<T>(entries: &[Tree], at: impl Fn(&Tree) -> Place, read: impl Fn(&Tree) -> Option<T>) -> Vec<Placed<T>> {
    entries.iter().filter_map(|tree| Some(Placed { at: at(tree), part: read(tree)? })).collect()
}

fn strip<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|placed| placed.part).collect()
}

/// The end of the last ramp or stress; a problem when there is none.
fn natural_end(users: &[User], stress: &[Stress], problems: &Problems) -> Option<Duration> {
    let ramps = users.iter().flat_map(|user| user.rtt.values().map(|trajectory| trajectory.length()));
    let stress = stress.iter().map(|stress| stress.until().since(Time::ZERO));
    let end = ramps.chain(stress).max().unwrap_or_default();
    if end.is_zero() {
        if !problems.is_empty() {
            return None; // very likely there is a change, in one of the parts that could not be read
        }
        let problem =
            Problem::new(Place::default(), "nothing changes in this scenario, so it does not say how long it is");
        problems.add(problem.help("add `duration: 60s`"));
        return None;
    }
    Some(end.min(LONGEST))
}
