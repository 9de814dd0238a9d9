//! What checkpoints add to a testbed: copies of workloads, and workloads that were ended with their checkpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_model::{NodeName, WorkloadName};
use godwit_net::Netns;

use crate::container::Container;
use crate::live::LiveWorkload;
use crate::network::ServiceNet;
use crate::node::Node;

/// A restored checkpoint beside the workload that it was taken of: an address and a network namespace of its own, on one
/// node, which it does not leave.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) container: Container,
    pub(crate) node: NodeName,
    pub(crate) service: ServiceNet,
    // Gone with it.
    pub(crate) _netns: Netns,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    copies: BTreeMap<WorkloadName, Arc<Copied>>,
    /// Names that a copy has or is about to have, and their slots in the network.
    slots: BTreeMap<WorkloadName, usize>,
    /// Workloads that were ended with a checkpoint, and its id.
    stopped: BTreeMap<WorkloadName, String>,
    next: usize,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nothing of this testbed had before.
    pub(crate) fn number(&self) -> usize {
        let mut inner = self.lock();
        inner.next += 1;
        inner.next
    }

    /// Keeps a name for a copy, and the first free slot; the slot is `None` if all are taken, the result if the name is.
    pub(crate) fn reserve(&self, name: &WorkloadName, slots: usize) -> Option<Option<usize>> {
        let mut inner = self.lock();
        if inner.slots.contains_key(name) {
            return None;
        }
        let free = (0..slots).find(|slot| !inner.slots.values().any(|taken| taken == slot));
        if let Some(slot) = free {
            inner.slots.insert(name.clone(), slot);
        }
        Some(free)
    }

    /// The name and slot of a copy that did not come about, or is gone, are free again.
    pub(crate) fn remove(&self, name: &WorkloadName) {
        // The namespace goes before its slot is somebody else's.
        let copy = self.lock().copies.remove(name);
        drop(copy);
        self.lock().slots.remove(name);
    }

    pub(crate) fn add(&self, name: &WorkloadName, copy: Copied) {
        self.lock().copies.insert(name.clone(), Arc::new(copy));
    }

    pub(crate) fn copy(&self, name: &WorkloadName) -> Option<Arc<Copied>> {
        self.lock().copies.get(name).cloned()
    }

    pub(crate) fn stop(&self, workload: &WorkloadName, id: &str) {
        self.lock().stopped.insert(workload.clone(), id.to_owned());
    }

    pub(crate) fn runs_again(&self, workload: &WorkloadName) {
        self.lock().stopped.remove(workload);
    }

    /// The checkpoint that a workload was ended with.
    pub(crate) fn stopped_with(&self, workload: &WorkloadName) -> Option<String> {
        self.lock().stopped.get(workload).cloned()
    }

    /// The workloads that were ended with a checkpoint.
    pub(crate) fn stopped(&self) -> Vec<WorkloadName> {
        self.lock().stopped.keys().cloned().collect()
    }

    /// The copies as `godwit status` shows them.
    pub(crate) fn live<'n>(&self, node: impl Fn(&NodeName) -> &'n Node) -> Vec<LiveWorkload> {
        let copies: Vec<Arc<Copied>> = self.lock().copies.values().cloned().collect();
        let live = |copy: Arc<Copied>| LiveWorkload {
            name: copy.container.name.clone(),
            node: copy.node.clone(),
            running: copy.container.is_running(node(&copy.node)),
            service: SocketAddr::new(copy.service.ip(), copy.container.port).to_string(),
            service_v6: copy.service.ip_v6().map(|ip| SocketAddr::new(ip, copy.container.port).to_string()),
            migrating: None,
            sent: None,
            decision: None,
        };
        copies.into_iter().map(live).collect()
    }
}
