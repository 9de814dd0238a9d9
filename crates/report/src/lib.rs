//! What a run leaves behind: machine-readable files, plots, and one page that tells the story to a stranger.
//!
//! ```text
//!                  ┌─► summary.json, migrations.csv, samples.csv        for programs
//!   RunRecord ─────┼─► rtt.csv, load.csv, host_node.csv                 the reference system's own columns
//!   (godwit_model) ├─► rtt.svg, load.svg, gaps.svg, placement.svg       for papers and slides
//!                  ├─► report.html (self-contained)                     for people
//!                  └─► final_table                                      for the terminal
//!   Snapshot ────────► SnapshotLog ─► snapshots.jsonl                   for `godwit policy decide`
//! ```
//!
//! [`prepare`] the output folder before the run (so that a bad one is told before, not after it), [`write()`] into it
//! after the run. What is in each CSV file is said at [`migrations_csv`], [`samples_csv`] and [`mod@reference`].
//!
//! What it guarantees:
//! - a file appears by rename, whole or not at all; if one cannot be made, none is replaced; `summary.json` comes last,
//!   so that where it is, the others of its run are;
//! - files of an earlier run are replaced, files of anybody else are not touched;
//! - the page needs nothing but itself: no script, no font, no picture, no address;
//! - any record renders: without migrations, clients, users or samples, with 1 node or 20, with figures missing; every
//!   name, reason and error is escaped; no NaN is written.

mod error;
mod folder;
mod page;
mod palette;
mod plots;
pub mod reference;
mod snapshots;
mod svg;
mod tables;
mod terminal;
mod troubles;
mod view;
mod words;

use std::path::{Path, PathBuf};

use godwit_model::RunRecord;

pub use error::ReportError;
pub use folder::prepare;
pub use page::render_html;
pub use snapshots::SnapshotLog;
pub use tables::{migrations_csv, samples_csv};
pub use terminal::final_table;

/// Writes everything into `out` (made if it is not there) and tells which files these are.
pub fn write(record: &RunRecord, out: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let mut summary = serde_json::to_string_pretty(&record.summary).map_err(|source| ReportError::Json { source })?;
    summary.push('\n');
    let view = view::View::new(record);
    let files = vec![
        ("migrations.csv", migrations_csv(&record.summary)?),
        ("samples.csv", samples_csv(record)?),
        ("rtt.csv", reference::rtt_csv(record)?),
        ("load.csv", reference::load_csv(record)?),
        ("host_node.csv", reference::host_node_csv(record)?),
        ("rtt.svg", svg::file(plots::rtt(&view))),
        ("load.svg", svg::file(plots::load(&view))),
        ("gaps.svg", svg::file(plots::gaps(&view))),
        ("placement.svg", svg::file(plots::placement(&view))),
        ("report.html", render_html(record)),
        ("summary.json", summary),
    ];
    folder::put_all(out, &files)
}
