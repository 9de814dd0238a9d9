//! The reference system's own files, so that its readers' scripts go on working: `rtt.csv`, `load.csv`,
//! `host_node.csv` (doi 10.1109/NetSoft57336.2023.10175417).
//!
//! One row each 5 s of scenario time, the first at 0 s; in it the figures of the last sample that is not older than 5 s,
//! empty where there is none, with at most three decimals. Nodes are numbered from 1 in the scenario's order.
//!
//! The reference knew one user, one container and one VM: with several, these files are of the first client's user
//! (without clients: of the first whom a workload serves), and of the first container and the first VM, those that serve
//! this user before others. [`crate::samples_csv`] has all.

use godwit_model::{NodeName, RunRecord, Sample, UserName, WorkloadKind, WorkloadName, WorkloadSummary};

use crate::ReportError;
use crate::tables::{Table, number};

/// Seconds of the scenario from row to row.
pub const EVERY_S: u64 = 5;

/// `rtt.csv`: columns `rtt_node1` … in ms.
pub fn rtt_csv(record: &RunRecord) -> Result<String, ReportError> {
    let user = user(record);
    numbered("rtt.csv", "rtt_node", record, |sample, node| Some(sample.rtt.get(user?)?.get(node)?.ms()))
}

/// `load.csv`: columns `load_node1` …
pub fn load_csv(record: &RunRecord) -> Result<String, ReportError> {
    numbered("load.csv", "load_node", record, |sample, node| Some(sample.load.get(node)?.index()))
}

/// `host_node.csv`: the number of the node of the container (`nodes_mec`) and of the VM (`nodes_vm3`), empty where the
/// scenario has none.
pub fn host_node_csv(record: &RunRecord) -> Result<String, ReportError> {
    let kinds = [WorkloadKind::Container, WorkloadKind::Vm].map(|kind| workload(record, kind));
    let mut table = Table::new("host_node.csv", ["nodes_mec", "nodes_vm3"].map(str::to_owned))?;
    for sample in rows(record) {
        let number = |workload: Option<&WorkloadName>| {
            let node = sample?.placement.get(workload?)?;
            Some(record.summary.nodes.iter().position(|n| n == node)? + 1)
        };
        table.row(kinds.map(|workload| number(workload).map(|n| n.to_string()).unwrap_or_default()))?;
    }
    table.finish()
}

fn numbered(
    name: &'static str,
    column: &str,
    record: &RunRecord,
    value: impl Fn(&Sample, &NodeName) -> Option<f64>,
) -> Result<String, ReportError> {
    let nodes = &record.summary.nodes;
    let mut table = Table::new(name, (1..=nodes.len()).map(|n| format!("{column}{n}")))?;
    for sample in rows(record) {
        table.row(nodes.iter().map(|node| sample.and_then(|s| value(s, node)).map(number).unwrap_or_default()))?;
    }
    table.finish()
}

/// The user of the first client; without one, the first that a workload serves.
fn user(record: &RunRecord) -> Option<&UserName> {
    let measured = record.summary.clients.first().map(|client| &client.user);
    let served = || record.summary.workloads.iter().find_map(|workload| workload.users.first());
    let seen = || record.samples.iter().find_map(|sample| sample.rtt.keys().next());
    measured.or_else(served).or_else(seen)
}

/// The first of a kind that serves that user; if none does, the first of the kind.
fn workload(record: &RunRecord, kind: WorkloadKind) -> Option<&WorkloadName> {
    let user = user(record);
    let mut of_kind = record.summary.workloads.iter().filter(|workload| workload.kind == kind);
    let serves = |workload: &&WorkloadSummary| user.is_some_and(|user| workload.users.contains(user));
    of_kind.clone().find(serves).or_else(|| of_kind.next()).map(|workload| &workload.name)
}

/// For each row its sample.
fn rows(record: &RunRecord) -> impl Iterator<Item = Option<&Sample>> {
    let every = EVERY_S * 1_000_000;
    let samples = &record.samples;
    let last = samples.last().map(|sample| sample.at.micros());
    let mut next = 0;
    (0..last.map_or(0, |last| last / every + 1)).map(move |row| {
        let now = row * every;
        while samples.get(next).is_some_and(|sample| sample.at.micros() <= now) {
            next += 1;
        }
        // The first sample of a run is a little late; what it says stands for the start.
        let sample = match next.checked_sub(1) {
            Some(index) => samples.get(index),
            None => samples.first().filter(|sample| sample.at.micros() < every),
        };
        sample.filter(|sample| now.saturating_sub(sample.at.micros()) <= every)
    })
}
