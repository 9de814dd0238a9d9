//! Load of each node.

use maud::html;

use super::frame::{Bound, Frame, TIMES, nice_top, room_for_names};
use super::{nothing, ribbon};
use crate::svg::{Anchor, Drawing, Ink, text};
use crate::view::View;

/// One line a node.
pub(crate) fn load(view: &View<'_>) -> Drawing {
    let label = "Load of each node over time".to_owned();
    let series: Vec<_> = view.nodes.iter().map(|node| view.load(node)).collect();
    let values = || series.iter().flatten().filter_map(|(_, load)| *load);
    if values().next().is_none() {
        return nothing(&label, "No load was measured.");
    }
    let largest = values().fold(1.0, f64::max);
    let bounds = bounds(view);
    // A bound that was never come near would only make the lines flat.
    let near = bounds.iter().map(|bound| bound.value).filter(|value| largest > value * 0.5).fold(0.0, f64::max);
    let high = nice_top(largest.max(near * 1.15).max(2.0));
    let only = match view.workloads[..] {
        [only] => Some(only),
        _ => None,
    };
    let stretches = only.map(|workload| view.stretches(workload)).unwrap_or_default();
    let ribbon_top = 30.0;
    let frame = Frame::new(view, ribbon_top + ribbon::HEIGHT + 28.0, room_for_names(view, 200.0), 0.0, high);
    let ends: Vec<(usize, f64)> =
        series.iter().enumerate().filter_map(|(n, s)| Some((n, s.iter().rev().find_map(|(_, load)| *load)?))).collect();
    let title = match only {
        Some(workload) => format!("how busy each node is; the band shows which node serves {workload}"),
        None => "how busy each node is".to_owned(),
    };
    let body = html! {
        (text((0.0, 18.0), Anchor::Start, Ink::role("ink").bold(), &title))
        (ribbon::tint(&frame, &stretches))
        (frame.levels("load (1 = idle)", 5))
        @for (node, points) in series.iter().enumerate() { (frame.node_line(node, points, 2.0)) }
        (frame.bound_lines(&bounds))
        (frame.labels(view, &ends, &bounds))
        (frame.times())
        (ribbon::ribbon(view, &frame, ribbon_top, &stretches))
        (ribbon::marks(view, &frame, ribbon_top, only))
    };
    Drawing { height: frame.bottom + TIMES, label, body }
}

/// What the policy calls healthy and bad, if it has such parameters.
fn bounds(view: &View<'_>) -> Vec<Bound> {
    let bound = |parameter: &str, name: &str, role| {
        let value = view.parameter(parameter)?;
        Some(Bound { value, name: format!("{name} {value}"), role })
    };
    let healthy = bound("load_healthy_below", "healthy below", "dim");
    healthy.into_iter().chain(bound("load_average_below", "bad from", "bad")).collect()
}
