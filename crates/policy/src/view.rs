//! A snapshot, indexed: what policies look things up in.
//!
//! Where the snapshot lists a node or a user twice, the worst of the known figures counts, so that the order of the
//! lists cannot matter.

use std::collections::BTreeMap;

use godwit_model::{Load, NodeName, Rtt, Snapshot, UserName, UserState, WorkloadState};

/// An indexed snapshot.
pub(crate) struct View<'a> {
    nodes: BTreeMap<&'a NodeName, NodeView>,
    users: BTreeMap<&'a UserName, Vec<&'a UserState>>,
}

/// A node's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeView {
    pub(crate) load: Option<Load>,
    pub(crate) ready: bool,
}

/// RTT to the worst-off user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worst<'a> {
    pub(crate) rtt: Rtt,
    pub(crate) user: &'a UserName,
}

impl<'a> View<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let mut nodes: BTreeMap<&NodeName, NodeView> = BTreeMap::new();
        for node in &snapshot.nodes {
            let seen = nodes.entry(&node.name).or_insert(NodeView { load: node.load, ready: node.ready });
            seen.ready &= node.ready;
            // `None` is below every load, so the maximum is the worst known one.
            if node.load > seen.load {
                seen.load = node.load;
            }
        }
        let mut users: BTreeMap<&UserName, Vec<&UserState>> = BTreeMap::new();
        for user in &snapshot.users {
            users.entry(&user.name).or_default().push(user);
        }
        Self { nodes, users }
    }

    /// A node, if the snapshot lists it.
    pub(crate) fn node(&self, name: &NodeName) -> Option<NodeView> {
        self.nodes.get(name).copied()
    }

    /// All nodes but one, by name.
    pub(crate) fn others(&self, than: &NodeName) -> impl Iterator<Item = (&'a NodeName, NodeView)> {
        self.nodes.iter().filter(move |(name, _)| **name != than).map(|(name, node)| (*name, *node))
    }

    /// RTT from `node` to the worst-off of the workload's users; of several equally far the first by name. Without
    /// users, or when one of them has no figure for that node, there is none: a user whom nobody can measure may be
    /// the worst off.
    pub(crate) fn worst_rtt<'w>(&self, workload: &'w WorkloadState, node: &NodeName) -> Option<Worst<'w>> {
        let mut worst: Option<Worst<'w>> = None;
        for user in &workload.users {
            let rtt = self.rtt(user, node)?;
            if worst.is_none_or(|w| rtt > w.rtt || (rtt == w.rtt && user < w.user)) {
                worst = Some(Worst { rtt, user });
            }
        }
        worst
    }

    /// The first of the workload's users, by name, that has no figure for that node.
    pub(crate) fn without_rtt<'w>(&self, workload: &'w WorkloadState, node: &NodeName) -> Option<&'w UserName> {
        workload.users.iter().filter(|user| self.rtt(user, node).is_none()).min()
    }

    fn rtt(&self, user: &UserName, node: &NodeName) -> Option<Rtt> {
        let figures = self.users.get(user)?.iter().filter_map(|user| user.rtt_ms.get(node).copied());
        figures.max_by(|a, b| a.ms().total_cmp(&b.ms()))
    }
}
