//! What is known, and since when. Fed by events, read as a snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_model::{
    Load, NodeName, NodeState, Rtt, Snapshot, Time, UserName, UserState, WorkloadKind, WorkloadName, WorkloadState,
};

/// A figure and when it was measured.
#[derive(Debug, Clone, Copy)]
struct Figure<T> {
    value: T,
    at: Time,
}

impl<T: Copy> Figure<T> {
    fn fresh(self, now: Time, stale_after: Duration) -> Option<T> {
        (now.since(self.at) <= stale_after).then_some(self.value)
    }
}

/// A known node.
#[derive(Debug, Clone, Default)]
struct Node {
    ready: bool,
    load: Option<Figure<Load>>,
}

/// A known workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) kind: WorkloadKind,
    pub(crate) node: NodeName,
    pub(crate) users: Vec<UserName>,
}

/// Everything that events have told, by name: the order of a snapshot is that of the names.
#[derive(Debug, Default)]
pub(crate) struct Index {
    nodes: BTreeMap<NodeName, Node>,
    users: BTreeMap<UserName, BTreeMap<NodeName, Figure<Rtt>>>,
    workloads: BTreeMap<WorkloadName, Workload>,
}

/// An event spoke of something that nobody has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

impl Index {
    pub(crate) fn set_ready(&mut self, node: NodeName, ready: bool) {
        self.nodes.entry(node).or_default().ready = ready;
    }

    pub(crate) fn set_load(&mut self, at: Time, node: &NodeName, load: Option<Load>) -> Result<(), Unknown> {
        let node = self.nodes.get_mut(node).ok_or(Unknown)?;
        node.load = load.map(|value| Figure { value, at });
        Ok(())
    }

    /// `None`: the user does not answer, so what was measured before no longer holds.
    pub(crate) fn set_rtt(
        &mut self,
        at: Time,
        user: UserName,
        node: NodeName,
        rtt: Option<Rtt>,
    ) -> Result<(), Unknown> {
        if !self.nodes.contains_key(&node) {
            return Err(Unknown);
        }
        let figures = self.users.entry(user).or_default();
        match rtt {
            Some(value) => figures.insert(node, Figure { value, at }),
            None => figures.remove(&node),
        };
        Ok(())
    }

    /// A placement is a fact, also on a node that nobody has announced.
    pub(crate) fn set_workload(&mut self, name: WorkloadName, workload: Workload) -> Result<(), Unknown> {
        let known = self.nodes.contains_key(&workload.node);
        for user in &workload.users {
            self.users.entry(user.clone()).or_default();
        }
        self.workloads.insert(name, workload);
        if known { Ok(()) } else { Err(Unknown) }
    }

    pub(crate) fn place(&mut self, name: &WorkloadName, node: NodeName) {
        if let Some(workload) = self.workloads.get_mut(name) {
            workload.node = node;
        }
    }

    pub(crate) fn workload(&self, name: &WorkloadName) -> Option<&Workload> {
        self.workloads.get(name)
    }

    pub(crate) fn workloads(&self) -> impl Iterator<Item = &WorkloadName> {
        self.workloads.keys()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Whether the node is ready; `None` when it is not known.
    pub(crate) fn ready(&self, node: &NodeName) -> Option<bool> {
        self.nodes.get(node).map(|node| node.ready)
    }

    /// What is known and fresh, and how many figures were left out because they were not.
    pub(crate) fn snapshot(&self, now: Time, stale_after: Duration) -> (Snapshot, u64) {
        let mut stale = 0;
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (name, node) in &self.nodes {
            let load = node.load.and_then(|figure| figure.fresh(now, stale_after));
            stale += u64::from(node.load.is_some() && load.is_none());
            nodes.push(NodeState { name: name.clone(), load, ready: node.ready });
        }
        let mut users = Vec::with_capacity(self.users.len());
        for (name, figures) in &self.users {
            let mut rtt_ms = BTreeMap::new();
            for (node, figure) in figures {
                match figure.fresh(now, stale_after) {
                    Some(rtt) => drop(rtt_ms.insert(node.clone(), rtt)),
                    None => stale += 1,
                }
            }
            users.push(UserState { name: name.clone(), rtt_ms });
        }
        let workloads = self.workloads.iter().map(|(name, workload)| WorkloadState {
            name: name.clone(),
            kind: workload.kind,
            node: workload.node.clone(),
            users: workload.users.clone(),
        });
        (Snapshot { at: now, nodes, users, workloads: workloads.collect() }, stale)
    }
}
