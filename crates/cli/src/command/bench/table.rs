//! The figures as a table: in a terminal, and in markdown.

use std::fmt::Write;

use super::Outcome;
use super::measures::Measure;
use super::row::{Row, Spread};

const HEAD: [&str; 10] = ["memory", "by", "moves", "gap", "freeze", "stall", "rounds", "sent", "drain", "total"];

/// Cells of a table, the head first.
fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let spread = |s: Option<Spread>| s.map_or("–".into(), |s| format!("{} / {}", ms(s.median), ms(s.worst)));
    let cells = rows.iter().map(|row| {
        let failed = if row.failed > 0 { format!(" ({} failed)", row.failed) } else { String::new() };
        vec![
            row.memory.to_string(),
            row.by.to_string(),
            format!("{}{failed}", row.moves),
            spread(row.gap_ms),
            spread(row.freeze_ms),
            spread(row.stall_ms),
            if row.rounds > 0.0 { format!("{:.0}", row.rounds) } else { "–".into() },
            row.bytes_to_memory.map_or("–".into(), |ratio| format!("{ratio:.2}")),
            spread(row.drain_ms),
            spread(row.total_ms),
        ]
    });
    std::iter::once(HEAD.map(str::to_owned).to_vec()).chain(cells).collect()
}

/// Where the freeze goes, and the pace during the rounds.
fn freeze_cells(rows: &[Row]) -> Vec<Vec<String>> {
    let head = ["memory", "by", "frozen parts, median ms", "pace / speed in the rounds"];
    let percent = |p: Option<f64>| p.map_or("–".into(), |p| format!("{p:.0} %"));
    let cells = rows.iter().map(|row| {
        let parts =
            row.parts.iter().filter(|part| part.frozen).map(|part| format!("{} {}", part.name, ms(part.median_ms)));
        let pace = match (row.pace_percent, row.speed_percent) {
            (None, None) => "–".into(),
            (pace, speed) => format!("{} / {}", percent(pace), percent(speed)),
        };
        vec![row.memory.to_string(), row.by.to_string(), parts.collect::<Vec<_>>().join(", "), pace]
    });
    std::iter::once(head.map(str::to_owned).to_vec()).chain(cells).collect()
}

fn measure_cells(measures: &[Measure]) -> Vec<Vec<String>> {
    let head = ["", "what", "found", "wanted"].map(str::to_owned).to_vec();
    let cells = measures.iter().map(|measure| {
        let met = match measure.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not measured",
        };
        let found = measure.found.clone().unwrap_or_else(|| "–".into());
        vec![met.into(), measure.what.clone(), found, measure.wanted.clone()]
    });
    std::iter::once(head).chain(cells).collect()
}

/// Two digits that mean something.
fn ms(ms: f64) -> String {
    if ms >= 9.95 { format!("{ms:.0}") } else { format!("{ms:.1}") }
}

const LEGEND: &str = "Times are median / worst in ms. gap: the client's longest silence. stall: the longest step of the service \
after the start. sent: bytes to memory. drain: from the switch until nothing is left on the source.";

/// With columns that line up.
pub(super) fn terminal(outcome: &Outcome) -> String {
    let mut text = String::new();
    for table in [cells(&outcome.rows), freeze_cells(&outcome.rows), measure_cells(&outcome.measures)] {
        let columns = table[0].len();
        let width = |n: usize| table.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &table {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "{}", line.join("  ").trim_end());
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{LEGEND}\n{}", outcome.machine.describe());
    if let Some(warning) = outcome.machine.warning() {
        let _ = writeln!(text, "Mind: {warning}.");
    }
    text
}

/// As a part of a document.
pub(super) fn markdown(outcome: &Outcome) -> String {
    let busy = outcome.machine.warning().map_or(String::new(), |warning| format!(" **Mind: {warning}.**"));
    let mut text = format!("{} moves of each kind; {}.{busy} {LEGEND}\n", outcome.runs, outcome.machine.describe());
    for table in [cells(&outcome.rows), freeze_cells(&outcome.rows), measure_cells(&outcome.measures)] {
        text.push('\n');
        for (n, row) in table.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if n == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
    }
    text
}
