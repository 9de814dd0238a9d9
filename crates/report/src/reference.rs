//! The reference system's own files, so that its readers' scripts go on working: `rtt.csv`, `load.csv`,
//! `host_node.csv` (doi 10.1109/NetSoft57336.2023.10175417).
//!
//! One row each 5 s of scenario time, the first at 0 s; in it the figures of the last sample that is not older than 5 s,
//! empty where there is none. Nodes are numbered from 1 in the scenario's order.
//!
//! The reference knew one user and one service: with several, these files are of the first client's user and workload
//! (without a client: of the first names). [`crate::samples_csv`] has all.

use godwit_model::{NodeName, RunRecord, Sample, UserName, WorkloadName};

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

/// `host_node.csv`: the number of the node of the container (`nodes_mec`) and of the VM (`nodes_vm3`, so far always
/// empty: a run record does not say what is a VM).
pub fn host_node_csv(record: &RunRecord) -> Result<String, ReportError> {
    let workload = workload(record);
    let mut table = Table::new("host_node.csv", ["nodes_mec", "nodes_vm3"].map(str::to_owned))?;
    for sample in rows(record) {
        let node = sample.and_then(|sample| sample.placement.get(workload?));
        let number = node.and_then(|node| record.summary.nodes.iter().position(|n| n == node));
        table.row([number.map(|index| (index + 1).to_string()).unwrap_or_default(), String::new()])?;
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

fn user(record: &RunRecord) -> Option<&UserName> {
    let measured = record.summary.clients.first().map(|client| &client.user);
    measured.or_else(|| record.samples.iter().find_map(|sample| sample.rtt.keys().next()))
}

fn workload(record: &RunRecord) -> Option<&WorkloadName> {
    let measured = record.summary.clients.first().map(|client| &client.workload);
    measured.or_else(|| record.samples.iter().find_map(|sample| sample.placement.keys().next()))
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
