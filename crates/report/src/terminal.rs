//! The end of a run in a terminal.

use std::fmt::Write;

use godwit_model::{Outcome, RunRecord, Summary};

use crate::troubles;
use crate::view::View;
use crate::words::{clean, count, ms, percent, plural, rtt, seconds, times_as_long, verdict};

/// What a run came to, as plain text: a table of the migrations, a line for each user and client, how a plain tool
/// did where the run tried one, and a verdict.
/// Ends with a line break.
pub fn final_table(summary: &Summary) -> String {
    let mut text = String::new();
    migrations(summary, &mut text);
    for user in &summary.users {
        let _ = writeln!(
            text,
            "user {}: rtt to its service {} on average, {} at the 95th percentile; above {} for {} ({})",
            user.name,
            rtt(user.rtt_mean_ms),
            rtt(user.rtt_p95_ms),
            ms(summary.rtt_bound_ms),
            seconds(user.above_bound_s),
            percent(user.above_bound_fraction),
        );
    }
    for client in &summary.clients {
        let _ = writeln!(
            text,
            "client {} -> {}: {}, {} broken; {} sent, {} answered, {} lost, {} out of order{}; longest silence {}{}",
            client.user,
            client.workload,
            plural(client.connections, "connection"),
            count(client.broken),
            count(client.sent),
            count(client.received),
            plural(client.bytes_lost, "byte"),
            count(client.reordered),
            troubles::in_words(std::slice::from_ref(client))
                .iter()
                .map(|trouble| format!(", {trouble}"))
                .collect::<String>(),
            ms(client.worst_gap_ms),
            client.response_median_ms.map_or(String::new(), |median| format!(", median answer after {}", ms(median))),
        );
    }
    let record = RunRecord { summary: summary.clone(), samples: Vec::new() };
    let view = View::new(&record);
    baseline(&view, &mut text);
    let _ = writeln!(text, "{}", verdict(&view));
    text
}

/// Medians of both, a line each.
fn baseline(view: &View<'_>, text: &mut String) {
    let (Some(baseline), summary) = (view.baseline(), view.summary) else { return };
    let tool = clean(&baseline.tool);
    for (what, compared, alone) in [
        ("freeze", summary.freeze_compared(), baseline.freeze_median_ms()),
        ("gap", summary.gap_compared(), baseline.gap_median_ms()),
    ] {
        let own = compared.map_or("–".into(), |compared| figure(compared.own_ms));
        let plain = alone.map_or("–".into(), figure);
        let times = compared.and_then(times_as_long).map_or(String::new(), |times| format!(", {times}"));
        let _ = writeln!(text, "median {what}: {own}; by {tool}: {plain}{times}");
    }
}

fn migrations(summary: &Summary, text: &mut String) {
    if summary.migrations.is_empty() {
        text.push_str("no migrations\n");
        return;
    }
    let head = ["#", "at", "workload", "from", "to", "freeze", "gap", "total", "outcome"].map(str::to_owned);
    let rows = summary.migrations.iter().map(|m| {
        [
            m.id.0.to_string(),
            seconds(m.start.secs()),
            m.workload.to_string(),
            m.from.to_string(),
            m.to.to_string(),
            figure(m.freeze_ms),
            m.gap_ms.map_or("–".into(), figure),
            figure(m.total_ms),
            match m.outcome {
                Outcome::Done => m.outcome.to_string(),
                Outcome::RolledBack | Outcome::Lost => m.outcome.to_string().to_uppercase(),
            },
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let is_figure = |column: usize| matches!(column, 0 | 1 | 5..=7);
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if is_figure(column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        if let Some(error) = index.checked_sub(1).and_then(|i| summary.migrations[i].error.as_ref()) {
            let _ = writeln!(text, "{:width$}  {}", "", clean(error), width = widths[0]);
        }
    }
}

/// Milliseconds to a tenth, so that columns line up.
fn figure(ms: f64) -> String {
    if ms.is_finite() { format!("{ms:.1} ms") } else { "–".into() }
}
