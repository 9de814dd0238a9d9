//! Axes: time from left to right, a quantity from below.

use maud::{Markup, html};

use crate::palette;
use crate::svg::{self, Anchor, Ink, WIDTH, text};
use crate::view::View;

/// Room for the time axis.
pub(super) const TIMES: f64 = 44.0;

/// The part of a drawing where the figures are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// The end of the time axis, in seconds.
    pub(super) end_s: f64,
    /// The ends of the other axis.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Frame {
    /// Over the whole run, `height` high, with room for labels at both sides.
    pub(super) fn new(view: &View<'_>, top: f64, height: f64, low: f64, high: f64) -> Self {
        let longest = view.nodes.iter().map(|node| svg::text_width(node.as_str())).fold(0.0, f64::max);
        let right = WIDTH - (longest + 16.0).clamp(132.0, 220.0);
        Self { left: 44.0, right, top, bottom: top + height, end_s: view.end_s, low, high }
    }

    pub(super) fn x(&self, s: f64) -> f64 {
        self.left + (s / self.end_s).clamp(0.0, 1.0) * (self.right - self.left)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.bottom - ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0) * (self.bottom - self.top)
    }

    /// Level lines with their values, and the axis' name above.
    pub(super) fn levels(&self, name: &str, most: usize) -> Markup {
        let step = nice_step((self.high - self.low) / most as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        html! {
            @for n in first..=last {
                @let value = n as f64 * step;
                (svg::line((self.left, self.y(value)), (self.right, self.y(value)), "grid", "none"))
                (text((self.left - 8.0, self.y(value) + 4.5), Anchor::End, Ink::role("dim"), &tick(value, step)))
            }
            (text((0.0, self.top - 12.0), Anchor::Start, Ink::role("dim").halo(), name))
        }
    }

    /// The time axis with its ticks, [`TIMES`] high.
    pub(super) fn times(&self) -> Markup {
        let (unit, per) = match self.end_s {
            s if s > 3.0 * 86_400.0 => ("days", 86_400.0),
            s if s > 4.0 * 3_600.0 => ("h", 3_600.0),
            s if s > 1_800.0 => ("min", 60.0),
            _ => ("s", 1.0),
        };
        let end = self.end_s / per;
        let step =
            if unit == "days" || unit == "h" && end < 6.0 { nice_step(end / 8.0) } else { clock_step(end / 8.0) };
        let ticks = (end / step + 1e-9).floor().clamp(0.0, 100.0) as u32;
        html! {
            (svg::line((self.left, self.bottom), (self.right, self.bottom), "dim", "none"))
            @for n in 0..=ticks {
                @let value = f64::from(n) * step;
                @let x = self.x(value * per);
                (svg::line((x, self.bottom), (x, self.bottom + 4.0), "dim", "none"))
                (text((x, self.bottom + 18.0), Anchor::Middle, Ink::role("dim"), &tick(value, step)))
            }
            (text((self.right, self.bottom + 36.0), Anchor::End, Ink::role("dim"), &format!("time of the run, {unit}")))
        }
    }

    /// The bounds that fall within the frame: broken lines.
    pub(super) fn bound_lines(&self, bounds: &[Bound]) -> Markup {
        html! {
            @for bound in bounds.iter().filter(|bound| self.holds(bound)) {
                @let y = self.y(bound.value);
                (svg::line((self.left, y), (self.right, y), bound.role, if bound.role == "bad" { "6 4" } else { "2 4" }))
            }
        }
    }

    fn holds(&self, bound: &Bound) -> bool {
        bound.value > self.low && bound.value < self.high
    }

    /// At the right, the names of nodes beside `ends` (node, last value), and those of bounds.
    pub(super) fn labels(&self, view: &View<'_>, ends: &[(usize, f64)], bounds: &[Bound]) -> Markup {
        let bounds: Vec<&Bound> = bounds.iter().filter(|bound| self.holds(bound)).collect();
        let values = ends.iter().map(|(_, value)| *value).chain(bounds.iter().map(|bound| bound.value));
        let wanted: Vec<f64> = values.map(|value| self.y(value)).collect();
        let placed = svg::spread(&wanted, 15.0, self.top, self.bottom - 4.0);
        let at = |y: f64| (self.right + 8.0, y + 4.5);
        html! {
            @for ((node, _), y) in ends.iter().zip(&placed) {
                @let class = format!("f-{}", palette::node_class(*node));
                @let ink = Ink { class: &class, fill: palette::node(*node).light, bold: true, halo: false };
                (text(at(*y), Anchor::Start, ink, view.nodes[*node].as_str()))
            }
            @for (bound, y) in bounds.iter().zip(&placed[ends.len()..]) {
                (text(at(*y), Anchor::Start, Ink::role(bound.role), &bound.name))
            }
        }
    }

    /// The line of a node.
    pub(super) fn node_line(&self, node: usize, points: &[(f64, Option<f64>)], width: f64) -> Markup {
        let data = svg::path_data(points, |s| self.x(s), |value| self.y(value));
        svg::path(&data, &palette::node_class(node), palette::node(node), width, palette::dashes(node))
    }
}

/// A value that means something, as a broken line with its name.
pub(super) struct Bound {
    pub(super) value: f64,
    pub(super) name: String,
    /// `bad` or `dim`.
    pub(super) role: &'static str,
}

/// A height in which the names of all nodes and of three bounds have room, of `least` or more.
pub(super) fn room_for_names(view: &View<'_>, least: f64) -> f64 {
    least.max((view.nodes.len() + 3) as f64 * 15.0)
}

/// 1, 2 or 5 times a power of ten, at least `least`.
pub(super) fn nice_step(least: f64) -> f64 {
    let least = if least.is_finite() && least > 0.0 { least } else { 1.0 };
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

/// A step that suits minutes and seconds.
fn clock_step(least: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    if least < 1.0 {
        nice_step(least)
    } else {
        steps.into_iter().find(|step| *step >= least).unwrap_or_else(|| nice_step(least))
    }
}

/// The top of an axis that holds `value`.
pub(super) fn nice_top(value: f64) -> f64 {
    let step = nice_step(value / 4.0);
    (value / step).ceil() * step
}

fn tick(value: f64, step: f64) -> String {
    let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil() as usize };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(
            [nice_step(0.7), nice_step(1.0), nice_step(12.0), nice_step(30.0), nice_step(f64::NAN)],
            [1.0, 1.0, 20.0, 50.0, 1.0]
        );
        assert_eq!([clock_step(7.0), clock_step(30.0), clock_step(31.0)], [10.0, 30.0, 60.0]);
        assert_eq!(nice_top(64.0), 80.0);
        assert_eq!([tick(0.0, 20.0), tick(0.25, 0.05)], ["0", "0.25"]);
    }
}
