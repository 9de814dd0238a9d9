//! `migrations.csv` and `samples.csv`. Every figure has at most three decimals: times are to the millisecond,
//! milliseconds to the microsecond.

use std::collections::BTreeSet;

use godwit_model::{Phase, RunRecord, Summary};

use crate::ReportError;

/// `migrations.csv`: one row a migration.
///
/// | column | |
/// |---|---|
/// | `id` | its number in the run |
/// | `workload`, `from`, `to` | what moved, from which node, to which |
/// | `strategy`, `reason` | how and why |
/// | `start_s` | when it began, in seconds of the scenario |
/// | `freeze_ms` | how long the workload did not run |
/// | `gap_ms` | the longest silence that a client saw around it; empty when none measured |
/// | `total_ms` | from the decision to the end |
/// | `bytes` | sent from node to node |
/// | `outcome` | `done`, `rolled-back` or `lost` |
/// | `error` | what went wrong, if something did |
/// | `phase_preflight_ms` … `phase_drain_ms` | each phase; empty where it was not entered, summed up where entered twice |
///
/// Milliseconds are of the wall clock. Figures have at most three decimals.
pub fn migrations_csv(summary: &Summary) -> Result<String, ReportError> {
    let head = [
        "id",
        "workload",
        "from",
        "to",
        "strategy",
        "reason",
        "start_s",
        "freeze_ms",
        "gap_ms",
        "total_ms",
        "bytes",
        "outcome",
        "error",
    ];
    let head = head.into_iter().map(str::to_owned).chain(Phase::ALL.map(|phase| format!("phase_{phase}_ms")));
    let mut table = Table::new("migrations.csv", head)?;
    for m in &summary.migrations {
        let mut row = vec![
            m.id.0.to_string(),
            m.workload.to_string(),
            m.from.to_string(),
            m.to.to_string(),
            m.strategy.to_string(),
            m.reason.clone(),
            number(m.start.secs()),
            number(m.freeze_ms),
            m.gap_ms.map(number).unwrap_or_default(),
            number(m.total_ms),
            m.bytes.0.to_string(),
            m.outcome.to_string(),
            m.error.clone().unwrap_or_default(),
        ];
        row.extend(Phase::ALL.map(|phase| {
            let mut times = m.phases.iter().filter(|time| time.phase == phase).map(|time| time.ms).peekable();
            if times.peek().is_some() { number(times.sum()) } else { String::new() }
        }));
        table.row(row)?;
    }
    table.finish()
}

/// `samples.csv`: one row a sample, one column a quantity; empty where there is no figure.
///
/// | column | |
/// |---|---|
/// | `at_s` | when, in seconds of the scenario |
/// | `rtt_ms/USER/NODE` | smoothed round-trip time |
/// | `load/NODE` | load index |
/// | `node/WORKLOAD` | the node that serves |
/// | `gap_ms/USER` | the longest silence that the user's client saw since the row before, in ms of the wall clock |
///
/// Nodes are in the scenario's order, the others in that of the alphabet. Names have no `/`. Figures have
/// at most three decimals: times are to the millisecond.
pub fn samples_csv(record: &RunRecord) -> Result<String, ReportError> {
    let samples = &record.samples;
    let nodes = &record.summary.nodes;
    let all = |keys: BTreeSet<_>| keys.into_iter().collect::<Vec<_>>();
    let users: Vec<_> = all(samples.iter().flat_map(|s| s.rtt.keys()).collect());
    let with_gap: Vec<_> = all(samples.iter().flat_map(|s| s.gap_ms.keys()).collect());
    let workloads: Vec<_> =
        samples.iter().flat_map(|s| s.placement.keys()).collect::<BTreeSet<_>>().into_iter().collect();

    let mut head = vec!["at_s".to_owned()];
    head.extend(users.iter().flat_map(|user| nodes.iter().map(move |node| format!("rtt_ms/{user}/{node}"))));
    head.extend(nodes.iter().map(|node| format!("load/{node}")));
    head.extend(workloads.iter().map(|workload| format!("node/{workload}")));
    head.extend(with_gap.iter().map(|user| format!("gap_ms/{user}")));
    let mut table = Table::new("samples.csv", head)?;
    for sample in samples {
        let mut row = vec![number(sample.at.secs())];
        for user in &users {
            let rtts = sample.rtt.get(*user);
            row.extend(
                nodes.iter().map(|node| rtts.and_then(|r| r.get(node)).map(|r| number(r.ms())).unwrap_or_default()),
            );
        }
        row.extend(nodes.iter().map(|node| sample.load.get(node).map(|l| number(l.index())).unwrap_or_default()));
        row.extend(workloads.iter().map(|w| sample.placement.get(*w).map(ToString::to_string).unwrap_or_default()));
        row.extend(with_gap.iter().map(|user| sample.gap_ms.get(*user).copied().map(number).unwrap_or_default()));
        table.row(row)?;
    }
    table.finish()
}

/// A figure with at most three decimals, so that a file can be read by people, too; empty for what is none.
pub(crate) fn number(value: f64) -> String {
    // From 2^43 on a float has less than that to give.
    let rounded = if value.abs() < 8e12 { (value * 1e3).round() / 1e3 + 0.0 } else { value };
    if rounded.is_finite() { rounded.to_string() } else { String::new() }
}

/// A CSV text in the making.
pub(crate) struct Table {
    name: &'static str,
    writer: csv::Writer<Vec<u8>>,
}

impl Table {
    pub(crate) fn new(name: &'static str, head: impl IntoIterator<Item = String>) -> Result<Self, ReportError> {
        let mut table = Self { name, writer: csv::Writer::from_writer(Vec::new()) };
        table.row(head)?;
        Ok(table)
    }

    pub(crate) fn row(&mut self, fields: impl IntoIterator<Item = String>) -> Result<(), ReportError> {
        self.writer.write_record(fields).map_err(|source| ReportError::Csv { name: self.name, source })
    }

    pub(crate) fn finish(self) -> Result<String, ReportError> {
        let name = self.name;
        let bytes =
            self.writer.into_inner().map_err(|error| ReportError::Csv { name, source: error.into_error().into() })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_decimals_at_most() {
        let figures = [0.000041, 29.288672000000002, 24.0, 0.0625, 86_400.000_2, -0.0001];
        assert_eq!(figures.map(number), ["0", "29.289", "24", "0.063", "86400", "0"]);
        assert_eq!([number(f64::NAN), number(f64::INFINITY), number(1e300).len().to_string()], ["", "", "301"]);
    }
}
