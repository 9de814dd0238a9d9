//! Small means of drawing: a frame with axes, lines, texts. Elements have their colours as attributes, so that a plot
//! looks right alone in any viewer, and a class, by which a page that holds it can give it those of the night.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use crate::palette::{self, Colour};

/// Width of every plot.
pub(crate) const WIDTH: f64 = 1000.0;

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif";

/// A drawing with its height and what it shows, for those who cannot see it.
pub(crate) struct Drawing {
    pub(crate) height: f64,
    pub(crate) label: String,
    pub(crate) body: Markup,
}

/// A drawing as part of a page.
pub(crate) fn inline(drawing: &Drawing) -> Markup {
    let view_box = format!("0 0 {} {}", px(WIDTH), px(drawing.height));
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(view_box) role="img" aria-label=(drawing.label)
            font-family=(FONT) font-size="13" { (drawing.body) }
    }
}

/// A drawing as a file of its own.
pub(crate) fn file(drawing: Drawing) -> String {
    const EDGE: f64 = 16.0;
    let (width, height) = (px(WIDTH + 2.0 * EDGE), px(drawing.height + 2.0 * EDGE));
    let view_box = format!("{0} {0} {width} {height}", px(-EDGE));
    let svg = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(view_box) width=(width) height=(height) role="img"
            font-family=(FONT) font-size="13" {
            title { (drawing.label) }
            (rect((-EDGE, -EDGE), (WIDTH + 2.0 * EDGE, drawing.height + 2.0 * EDGE), "paper", palette::role("paper"), 1.0))
            (drawing.body)
        }
    };
    svg.into_string() + "\n"
}

/// A coordinate, to a tenth.
pub(crate) fn px(value: f64) -> String {
    let value = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    format!("{}", value + 0.0)
}

/// About how wide a text is.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 7.2
}

pub(crate) fn rect(at: (f64, f64), size: (f64, f64), class: &str, colour: Colour, opacity: f64) -> Markup {
    html! {
        rect x=(px(at.0)) y=(px(at.1)) width=(px(size.0.max(0.0))) height=(px(size.1.max(0.0)))
            class={ "f-" (class) } fill=(colour.light) opacity=[(opacity < 1.0).then(|| opacity.to_string())] {}
    }
}

/// A straight line in a role's colour.
pub(crate) fn line(from: (f64, f64), to: (f64, f64), role: &str, dash: &str) -> Markup {
    html! {
        line x1=(px(from.0)) y1=(px(from.1)) x2=(px(to.0)) y2=(px(to.1)) class={ "s-" (role) }
            stroke=(palette::role(role).light) stroke-dasharray=(dash) {}
    }
}

/// Where a text is anchored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ink<'a> {
    /// `f-` or `i-` and the class of its colour.
    pub(crate) class: &'a str,
    pub(crate) fill: &'a str,
    pub(crate) bold: bool,
    /// With an edge of the paper's colour, for a text upon lines.
    pub(crate) halo: bool,
}

impl Ink<'static> {
    pub(crate) fn role(name: &'static str) -> Self {
        let class = match name {
            "dim" => "f-dim",
            "bad" => "f-bad",
            _ => "f-ink",
        };
        Self { class, fill: palette::role(name).light, bold: false, halo: false }
    }
}

impl Ink<'_> {
    pub(crate) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(crate) fn halo(self) -> Self {
        Self { halo: true, ..self }
    }
}

pub(crate) fn text(at: (f64, f64), anchor: Anchor, ink: Ink<'_>, text: &str) -> Markup {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let class = format!("{}{}", ink.class, if ink.halo { " s-paper" } else { "" });
    html! {
        text x=(px(at.0)) y=(px(at.1)) text-anchor=(anchor) class=(class) fill=(ink.fill)
            font-weight=[ink.bold.then_some("600")] stroke=[ink.halo.then_some(palette::role("paper").light)]
            stroke-width=[ink.halo.then_some("4")] stroke-linejoin=[ink.halo.then_some("round")]
            paint-order=[ink.halo.then_some("stroke")] { (crate::words::clean(text)) }
    }
}

/// A number in a circle: a migration's mark.
pub(crate) fn badge(at: (f64, f64), number: u64, role: &str) -> Markup {
    let colour = palette::role(role);
    let label = number.to_string();
    let half = (text_width(&label) / 2.0 + 5.0).max(10.0);
    html! {
        rect x=(px(at.0 - half)) y=(px(at.1 - 10.0)) width=(px(half * 2.0)) height="20" rx="10"
            class={ "f-" (role) " s-paper" } fill=(colour.light) stroke=(palette::role("paper").light) stroke-width="2" {}
        text x=(px(at.0)) y=(px(at.1 + 4.5)) text-anchor="middle" class={ "i-" (role) } fill=(colour.ink_light)
            font-weight="600" font-size="12" { (label) }
    }
}

/// A line through points; a missing value interrupts it. At most about two points a pixel are drawn, the extremes kept.
pub(crate) fn path_data(points: &[(f64, Option<f64>)], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut data = String::new();
    let mut pen_down = false;
    let mut index = 0;
    while index < points.len() {
        let column = (x(points[index].0) * 2.0).floor();
        let end = index + points[index..].iter().take_while(|p| (x(p.0) * 2.0).floor() == column).count().max(1);
        let bucket = &points[index..end];
        let extreme = |better: fn(f64, f64) -> bool| {
            let values = bucket.iter().enumerate().filter_map(|(i, p)| Some((i, p.1?)));
            values.reduce(|a, b| if better(b.1, a.1) { b } else { a }).map(|(i, _)| i)
        };
        let mut keep = vec![0, bucket.len() - 1];
        keep.extend(extreme(|b, a| b < a));
        keep.extend(extreme(|b, a| b > a));
        keep.sort_unstable();
        keep.dedup();
        for i in keep {
            let (at, value) = bucket[i];
            if let Some(value) = value {
                let verb = if pen_down { 'L' } else { 'M' };
                let _ = write!(data, "{verb}{} {}", px(x(at)), px(y(value)));
            }
            pen_down = value.is_some();
        }
        index = end;
    }
    data
}

pub(crate) fn path(data: &str, class: &str, colour: Colour, width: f64, dash: &str) -> Markup {
    html! {
        @if !data.is_empty() {
            path d=(data) class={ "s-" (class) } fill="none" stroke=(colour.light) stroke-width=(px(width))
                stroke-dasharray=(dash) stroke-linejoin="round" stroke-linecap="round" {}
        }
    }
}

/// Moves labels apart to at least `room`, keeping their order, within `from..=to` as far as they fit.
pub(crate) fn spread(wanted: &[f64], room: f64, from: f64, to: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let room = room.min((to - from) / wanted.len().saturating_sub(1).max(1) as f64);
    let mut placed: Vec<f64> = order.iter().map(|i| wanted[*i].clamp(from, to)).collect();
    for i in 1..placed.len() {
        placed[i] = placed[i].max(placed[i - 1] + room);
    }
    let mut limit = to;
    for y in placed.iter_mut().rev() {
        *y = y.min(limit);
        limit = *y - room;
    }
    let mut result = vec![0.0; wanted.len()];
    for (place, index) in placed.into_iter().zip(order) {
        result[index] = place;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_value_lifts_the_pen() {
        let points = [(0.0, Some(1.0)), (10.0, Some(2.0)), (20.0, None), (30.0, Some(3.0))];
        assert_eq!(path_data(&points, |x| x, |y| y), "M0 1L10 2M30 3");
    }

    #[test]
    fn many_points_are_thinned_and_the_peak_stays() {
        let points: Vec<_> =
            (0..100_000).map(|i| (f64::from(i) / 1000.0, Some(if i == 50_500 { 9.0 } else { 1.0 }))).collect();
        let data = path_data(&points, |x| x, |y| y);
        assert!(data.len() < 10_000 && data.contains("L50.5 9"), "{}", data.len());
    }

    proptest! {
        #[test]
        fn labels_keep_apart(wanted in prop::collection::vec(0.0..300.0, 1..20)) {
            let placed = spread(&wanted, 14.0, 0.0, 300.0);
            let mut sorted = placed.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert!(sorted.windows(2).all(|w| w[1] - w[0] > 13.99));
            prop_assert!(placed.iter().all(|y| (-0.01..=300.01).contains(y)));
        }
    }
}
