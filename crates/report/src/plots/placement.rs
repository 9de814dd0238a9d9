//! Where each workload was.

use maud::html;

use super::frame::{Frame, TIMES};
use super::{nothing, ribbon};
use crate::svg::{self, Anchor, Drawing, Ink, text};
use crate::view::View;

/// More workloads than this are left to `samples.csv`.
const MOST: usize = 24;
const ROW: f64 = 40.0;

/// One row a workload.
pub(crate) fn placement(view: &View<'_>) -> Drawing {
    let label = "Which node serves each workload over time".to_owned();
    if view.workloads.is_empty() || view.samples.is_empty() {
        return nothing(&label, "Nothing was placed: no workloads, or no samples.");
    }
    let shown = view.workloads.len().min(MOST);
    let longest = view.workloads.iter().map(|workload| svg::text_width(workload.as_str())).fold(0.0, f64::max);
    let frame = Frame::new(view, 36.0, shown as f64 * ROW, 0.0, 1.0);
    let frame = Frame { left: (longest + 28.0).clamp(56.0, 260.0), ..frame };
    let more = view.workloads.len() - shown;
    let body = html! {
        (text((0.0, 18.0), Anchor::Start, Ink::role("ink").bold(), "which node serves each workload"))
        @for (row, workload) in view.workloads.iter().take(MOST).enumerate() {
            @let top = frame.top + row as f64 * ROW;
            (text((frame.left - 10.0, top + 16.0), Anchor::End, Ink::role("ink"), workload.as_str()))
            (ribbon::ribbon(view, &frame, top, &view.stretches(workload)))
            (ribbon::marks(view, &Frame { bottom: top + ribbon::HEIGHT, ..frame }, top, Some(workload)))
        }
        (frame.times())
        @if more > 0 {
            (text((0.0, frame.bottom + 36.0), Anchor::Start, Ink::role("dim"), &format!("{more} more are in samples.csv")))
        }
    };
    Drawing { height: frame.bottom + TIMES, label, body }
}
