//! Who serves when: a ribbon above a plot, its tint upon the plot, and the numbered migrations.

use godwit_model::{Outcome, WorkloadName};
use maud::{Markup, html};

use super::frame::Frame;
use crate::palette;
use crate::svg::{self, Anchor, Ink, text, text_width};
use crate::view::{Stretch, View};

pub(super) const HEIGHT: f64 = 22.0;

/// The tint of the serving node over the frame; drawn first.
pub(super) fn tint(frame: &Frame, stretches: &[Stretch]) -> Markup {
    html! {
        @for stretch in stretches {
            @let (from, to) = (frame.x(stretch.from_s), frame.x(stretch.to_s));
            (svg::rect((from, frame.top), (to - from, frame.bottom - frame.top),
                &palette::node_class(stretch.node), palette::node(stretch.node), 0.11))
        }
    }
}

/// The ribbon itself, its top at `top`.
pub(super) fn ribbon(view: &View<'_>, frame: &Frame, top: f64, stretches: &[Stretch]) -> Markup {
    html! {
        @for stretch in stretches {
            @let (from, to) = (frame.x(stretch.from_s), frame.x(stretch.to_s));
            @let class = palette::node_class(stretch.node);
            @let colour = palette::node(stretch.node);
            (svg::rect((from, top), (to - from, HEIGHT), &class, colour, 1.0))
            @let name = view.nodes[stretch.node].as_str();
            // The badges at both ends take their part of the room.
            @if text_width(name) + 30.0 < to - from {
                @let ink_class = format!("i-{class}");
                @let ink = Ink { class: &ink_class, fill: colour.ink_light, bold: true, halo: false };
                (text(((from + to) / 2.0, top + 15.5), Anchor::Middle, ink, name))
            }
        }
    }
}

/// The migrations of `workload` (of all, without one): a line through the frame, and a numbered badge on the ribbon.
pub(super) fn marks(view: &View<'_>, frame: &Frame, ribbon_top: f64, workload: Option<&WorkloadName>) -> Markup {
    let mut free_from = f64::NEG_INFINITY;
    let mut marks = Vec::new();
    for migration in &view.summary.migrations {
        if workload.is_some_and(|workload| workload != &migration.workload) {
            continue;
        }
        let x = frame.x(migration.start.secs());
        let role = if migration.outcome == Outcome::Done { "ink" } else { "bad" };
        // Where they are too close, the line alone stands; one that failed is always marked.
        let has_badge = x >= free_from || migration.outcome != Outcome::Done;
        if has_badge {
            free_from = x + 22.0;
        }
        marks.push((x, role, has_badge.then_some(migration.id.0)));
    }
    html! {
        @for (x, role, _) in &marks {
            (svg::line((*x, ribbon_top + HEIGHT), (*x, frame.bottom), role, "2 3"))
        }
        @for (x, role, number) in &marks {
            @if let Some(number) = number { (svg::badge((*x, ribbon_top + HEIGHT / 2.0), *number, role)) }
        }
    }
}
