//! RTT from each node to each user, who serves, and the silences that the client saw.

use godwit_model::UserName;
use maud::{Markup, html};

use super::frame::{Bound, Frame, TIMES, nice_top, room_for_names};
use super::{nothing, ribbon};
use crate::palette;
use crate::svg::{self, Anchor, Drawing, Ink, text};
use crate::view::{Stretch, View};
use crate::words::{self, ms};

/// More users than this are left to `samples.csv`.
const MOST_USERS: usize = 6;

/// One panel a user.
pub(crate) fn rtt(view: &View<'_>) -> Drawing {
    let label = "Round-trip time from each node to each user over time, and which node serves".to_owned();
    if view.users.is_empty() || view.samples.is_empty() {
        return nothing(&label, "Nothing was measured: no users, or no samples.");
    }
    let mut height = 0.0;
    let mut panels = Vec::new();
    for user in view.users.iter().take(MOST_USERS) {
        let (panel, bottom) = panel(view, user, height);
        panels.push(panel);
        height = bottom;
    }
    let more = view.users.len().saturating_sub(MOST_USERS);
    if more > 0 {
        let note = format!("{} more are in samples.csv", words::plural(more as u64, "user"));
        panels.push(text((0.0, height + 4.0), Anchor::Start, Ink::role("dim"), &note));
        height += 16.0;
    }
    Drawing { height, label, body: html! { @for panel in panels { (panel) } } }
}

fn panel(view: &View<'_>, user: &UserName, top: f64) -> (Markup, f64) {
    let workload = view.serves(user);
    let stretches = workload.map(|workload| view.stretches(workload)).unwrap_or_default();
    let series: Vec<_> = view.nodes.iter().map(|node| view.rtt(user, node)).collect();
    let bound = view.summary.rtt_bound_ms;
    let largest = series.iter().flatten().filter_map(|(_, rtt)| *rtt).fold(0.0, f64::max);
    let high = nice_top(largest.max(if bound.is_finite() { bound * 1.15 } else { 0.0 }).max(1.0));
    let bounds = bounds(view);
    let title = match workload {
        Some(workload) => format!("{user}: distance to each node; the band shows which node serves its {workload}"),
        None => format!("{user}: distance to each node"),
    };
    let ribbon_top = top + 30.0;
    let frame = Frame::new(view, ribbon_top + ribbon::HEIGHT + 28.0, room_for_names(view, 280.0), 0.0, high);
    let ends: Vec<(usize, f64)> =
        series.iter().enumerate().filter_map(|(n, s)| Some((n, s.iter().rev().find_map(|(_, rtt)| *rtt)?))).collect();
    let silences = view.silences(user);
    let strip = (!silences.is_empty()).then(|| strip_frame(view, &frame, &silences));
    let last = strip.as_ref().unwrap_or(&frame);
    let markup = html! {
        (text((0.0, top + 18.0), Anchor::Start, Ink::role("ink").bold(), &title))
        (ribbon::tint(&frame, &stretches))
        (frame.levels("rtt, ms", 5))
        @for (node, points) in series.iter().enumerate() { (frame.node_line(node, points, 1.6)) }
        (serving(&frame, &series, &stretches))
        (frame.bound_lines(&bounds))
        (frame.labels(view, &ends, &bounds))
        @if let Some(strip) = &strip { (strip_body(strip, &stretches, &silences)) }
        (last.times())
        (ribbon::ribbon(view, &frame, ribbon_top, &stretches))
        (ribbon::marks(view, &Frame { bottom: last.bottom, ..frame }, ribbon_top, workload))
    };
    (markup, last.bottom + TIMES + 12.0)
}

/// The scenario's bound, and what the policy calls good and bad, if it has such parameters.
fn bounds(view: &View<'_>) -> Vec<Bound> {
    let bound = view.summary.rtt_bound_ms;
    let mut bounds = vec![Bound { value: bound, name: format!("bound {}", ms(bound)), role: "bad" }];
    for (parameter, name) in [("rtt_good_below_ms", "good below"), ("rtt_average_below_ms", "bad from")] {
        // Where both are the same, one line says it.
        if let Some(value) = view.parameter(parameter).filter(|value| *value != bound) {
            bounds.push(Bound { value, name: format!("{name} {value}"), role: "dim" });
        }
    }
    bounds
}

/// The line of the node that serves is drawn once more, thick, while it does.
fn serving(frame: &Frame, series: &[Vec<(f64, Option<f64>)>], stretches: &[Stretch]) -> Markup {
    html! {
        @for stretch in stretches {
            @let points: Vec<_> = series[stretch.node].iter().copied()
                .filter(|(at, _)| (stretch.from_s..=stretch.to_s).contains(at)).collect();
            @let data = svg::path_data(&points, |s| frame.x(s), |rtt| frame.y(rtt));
            (svg::path(&data, &palette::node_class(stretch.node), palette::node(stretch.node), 4.5, "none"))
        }
    }
}

fn strip_frame(view: &View<'_>, above: &Frame, silences: &[(f64, f64)]) -> Frame {
    let worst = silences.iter().map(|(_, gap)| *gap).fold(0.0, f64::max);
    Frame::new(view, above.bottom + 44.0, 64.0, 0.0, nice_top((worst * 1.1).max(20.0)))
}

/// Silences as needles; the longest is named.
fn strip_body(frame: &Frame, stretches: &[Stretch], silences: &[(f64, f64)]) -> Markup {
    // Of all that share a pixel the longest is drawn.
    let mut needles: Vec<(f64, f64)> = Vec::new();
    for (at, gap) in silences {
        let x = frame.x(*at).round();
        match needles.last_mut() {
            Some(last) if last.0 == x => last.1 = last.1.max(*gap),
            _ => needles.push((x, *gap)),
        }
    }
    let worst = needles.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let data: String = needles
        .iter()
        .map(|(x, gap)| format!("M{} {}V{}", svg::px(*x), svg::px(frame.bottom), svg::px(frame.y(*gap))))
        .collect();
    html! {
        (ribbon::tint(frame, stretches))
        (frame.levels("silence of the service, as its client saw it, ms (wall clock)", 2))
        (svg::path(&data, "ink", palette::role("ink"), 1.6, "none"))
        @if let Some((x, gap)) = worst {
            @let right_half = x > (frame.left + frame.right) / 2.0;
            @let (dx, anchor) = if right_half { (-6.0, Anchor::End) } else { (6.0, Anchor::Start) };
            (text((x + dx, frame.y(gap) + 10.0), anchor, Ink::role("ink").bold().halo(), &format!("longest: {}", ms(gap))))
        }
    }
}
