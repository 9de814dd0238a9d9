//! The end of a run in a terminal.

use std::fmt::Write;

use godwit_model::{Outcome, RunRecord, Summary};

use crate::view::View;
use crate::words::{clean, count, ms, percent, plural, rtt, seconds, verdict};

/// What a run came to, as plain text: a table of the migrations, a line for each user and client, and a verdict.
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
            "client {} -> {}: {}, {} broken; {} sent, {} answered, {} lost, {} out of order; longest silence {}{}",
            client.user,
            client.workload,
            plural(client.connections, "connection"),
            count(client.broken),
            count(client.sent),
            count(client.received),
            plural(client.bytes_lost, "byte"),
            count(client.reordered),
            ms(client.worst_gap_ms),
            client.response_median_ms.map_or(String::new(), |median| format!(", median answer after {}", ms(median))),
        );
    }
    let record = RunRecord { summary: summary.clone(), samples: Vec::new() };
    let _ = writeln!(text, "{}", verdict(&View::new(&record)));
    text
}

fn migrations(summary: &Summary, text: &mut String) {
    if summary.migrations.is_empty() {
        text.push_str("no migrations\n");
        return;
    }
    let head = ["#", "at", "workload", "from", "to", "freeze", "gap", "total", "outcome"].map(str::to_owned);
    let figure = |value: f64| if value.is_finite() { format!("{value:.1} ms") } else { "–".into() };
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
