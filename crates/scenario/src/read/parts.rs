//! Nodes, workloads, stress and the small parts.

use std::path::Path;
use std::time::Duration;

use godwit_model::{Bytes, NodeName, Time, UserName, WorkloadKind, WorkloadName};

use super::{Declared, containers};
use crate::fields::{Fields, Problems, nearest, text_of};
use crate::problem::Problem;
use crate::scenario::{Control, Migration, Node, Probe, Stress, Workload};
use crate::tree::Tree;

/// A name of anything: all have the form of a node's.
pub(super) fn name(tree: &Tree, problems: &Problems) -> Option<String> {
    let text = text_of(tree, "name", problems)?;
    match NodeName::new(text) {
        Ok(name) => Some(name.into()),
        Err(error) => {
            problems.add(Problem::new(tree.at, error.to_string()));
            None
        }
    }
}

pub(super) fn node(tree: &Tree, problems: &Problems) -> Option<Node> {
    let fields = Fields::open(tree, "a node", &["name", "cpu", "memory"], problems)?;
    let name = fields.need("name", "name: edge1").and_then(|tree| name(tree, problems));
    let cpu = fields.number("cpu", 0.01..=4096.0).unwrap_or(1.0);
    let memory = fields.bytes("memory").unwrap_or(Bytes(1 << 30));
    if memory < Bytes(16 << 20) {
        let problem =
            Problem::new(fields.get("memory")?.at, format!("a node with a memory of {memory} can hold nothing"));
        problems.add(problem.help("give it 16MiB or more"));
    }
    Some(Node { name: NodeName::new(name?).ok()?, cpu, memory })
}

const WORKLOAD: [&str; 16] = [
    "name",
    "kind",
    "node",
    "users",
    "port",
    "memory",
    "dirty_rate",
    "command",
    "args",
    "image",
    "env",
    "user",
    "workdir",
    "hostname",
    "volumes",
    "containers",
];

pub(super) fn workload(
    tree: &Tree,
    dir: &Path,
    nodes: &Declared,
    users: &Declared,
    problems: &Problems,
) -> Option<Workload> {
    let fields = Fields::open(tree, "a workload", &WORKLOAD, problems)?;
    let name = fields.need("name", "name: video").and_then(|tree| name(tree, problems));
    let node = fields.need("node", "node: edge1").and_then(|tree| node_ref(tree, nodes, problems));
    let kind = match fields.get("kind") {
        None => WorkloadKind::default(),
        Some(tree) => kind(tree, problems)?,
    };
    let mut served: Vec<UserName> = Vec::new();
    for tree in fields.list("users") {
        let Some(user) = text_of(tree, "users", problems) else { continue };
        if !users.check(&user, tree.at, problems) {
            continue;
        }
        match UserName::new(user) {
            Ok(user) if served.contains(&user) => {
                problems.add(Problem::new(tree.at, format!("the user {:?} is there twice", user.as_str())));
            }
            Ok(user) => served.push(user),
            // Told where the user is declared.
            Err(_) => {}
        }
    }
    let (volumes, containers) = containers::of(&fields, dir, problems);
    if let (WorkloadKind::Vm, Some(tree)) = (kind, fields.get("containers")) {
        problems.add(Problem::new(tree.at, "a vm has no containers").help("remove them, or `kind: vm`"));
    }
    Some(Workload {
        kind,
        users: served,
        port: fields.whole("port", 1..=u16::MAX).unwrap_or(5555),
        memory: fields.bytes("memory").unwrap_or(Bytes(16 << 20)),
        dirty_rate: fields.rate("dirty_rate").unwrap_or_default(),
        hostname: fields.get("hostname").and_then(|tree| self::name(tree, problems)),
        volumes,
        containers,
        name: WorkloadName::new(name?).ok()?,
        node: node?,
    })
}

fn kind(tree: &Tree, problems: &Problems) -> Option<WorkloadKind> {
    match tree.scalar().as_deref() {
        Some("container") => Some(WorkloadKind::Container),
        Some("vm") => Some(WorkloadKind::Vm),
        other => {
            let guess = other.and_then(|text| nearest(text, ["container", "vm"].into_iter()));
            let guess = guess.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            let problem = Problem::new(tree.at, format!("there is no kind of workload {}", tree.is_a()));
            problems.add(problem.help(format!("{guess}the kinds are container and vm")));
            None
        }
    }
}

pub(super) fn stress(tree: &Tree, nodes: &Declared, problems: &Problems) -> Option<Stress> {
    let fields = Fields::open(tree, "a stress", &["node", "from", "for", "stressers", "memory", "cpu"], problems)?;
    let node = fields.need("node", "node: edge1").and_then(|tree| node_ref(tree, nodes, problems));
    let _ = fields.need("for", "for: 120s");
    let _ = fields.need("stressers", "stressers: 2");
    let from = fields.duration("from").unwrap_or_default();
    let length = fields.duration_from("for", Duration::from_secs(1));
    let stressers = fields.whole("stressers", 1..=1000_u32);
    Some(Stress {
        from: Time::ZERO + from,
        memory: fields.fraction("memory").unwrap_or(0.0),
        cpu: fields.fraction("cpu").unwrap_or(0.27),
        node: node?,
        length: length?,
        stressers: stressers?,
    })
}

fn node_ref(tree: &Tree, nodes: &Declared, problems: &Problems) -> Option<NodeName> {
    let name = text_of(tree, "node", problems)?;
    if nodes.check(&name, tree.at, problems) { NodeName::new(name).ok() } else { None }
}

pub(super) fn control(tree: &Tree, problems: &Problems) -> Option<Control> {
    let fields = Fields::open(tree, "`control`", &["interval", "cooldown"], problems)?;
    let default = Control::default();
    Some(Control {
        interval: fields.duration_from("interval", Duration::from_millis(10)).unwrap_or(default.interval),
        cooldown: fields.duration("cooldown").unwrap_or(default.cooldown),
    })
}

pub(super) fn migration(tree: &Tree, problems: &Problems) -> Option<Migration> {
    let fields = Fields::open(tree, "`migration`", &["bandwidth"], problems)?;
    Some(Migration { bandwidth: fields.bandwidth("bandwidth") })
}

pub(super) fn probe(tree: &Tree, problems: &Problems) -> Option<Probe> {
    let fields = Fields::open(tree, "`probe`", &["interval"], problems)?;
    let least = Duration::from_millis(1);
    Some(Probe { interval: fields.duration_from("interval", least).unwrap_or(Probe::default().interval) })
}
