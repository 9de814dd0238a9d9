//! Bars along an axis of milliseconds: a freeze in its parts, and a gap.

use maud::{Markup, html};

use super::frame::nice_step;
use crate::palette::role;
use crate::svg::{self, Anchor, Ink, WIDTH, text, text_width};
use crate::words::ms;

/// How high a bar is.
pub(super) const BAR: f64 = 17.0;
/// From a pair of bars to the next.
pub(super) const ROW: f64 = 48.0;
/// What a jitter buffer of a call or a video holds, in ms: a shorter silence is heard by nobody.
pub(super) const JITTER_BUFFER_MS: (f64, f64) = (40.0, 60.0);

/// Milliseconds from left to right.
pub(super) struct Scale {
    pub(super) left: f64,
    pub(super) right: f64,
    high: f64,
}

/// A part of a freeze.
pub(super) struct Part {
    pub(super) name: String,
    /// The class of its colour.
    pub(super) class: &'static str,
    pub(super) ms: f64,
}

impl Scale {
    /// From `left` to the right edge, with room for `worst`.
    pub(super) fn new(worst: f64, left: f64) -> Self {
        let worst = worst.max(JITTER_BUFFER_MS.1 * 1.25);
        let step = nice_step(worst / 8.0);
        Self { left, right: WIDTH - 120.0, high: (worst / step).ceil() * step }
    }

    pub(super) fn x(&self, ms: f64) -> f64 {
        let part = if ms.is_finite() { (ms / self.high).clamp(0.0, 1.0) } else { 0.0 };
        self.left + part * (self.right - self.left)
    }

    /// Level lines from `top` to `bottom`, their values below, and what a jitter buffer hides.
    pub(super) fn levels(&self, top: f64, bottom: f64) -> Markup {
        let step = nice_step(self.high / 8.0);
        let (from, to) = (self.x(JITTER_BUFFER_MS.0), self.x(JITTER_BUFFER_MS.1));
        html! {
            (svg::rect((from, top), (to - from, bottom - top), "p-restore", role("p-restore"), 0.14))
            @for n in 0..=(self.high / step + 1e-9).floor().clamp(0.0, 100.0) as u32 {
                @let x = self.x(f64::from(n) * step);
                (svg::line((x, top), (x, bottom), "grid", "none"))
                (text((x, bottom + 15.0), Anchor::Middle, Ink::role("dim"), &format!("{}", f64::from(n) * step)))
            }
            (text((self.right + 28.0, bottom + 15.0), Anchor::Start, Ink::role("dim"), "ms"))
        }
    }

    /// A freeze of `freeze_ms`; what the parts leave of it is drawn as the time between them.
    pub(super) fn freeze(&self, y: f64, parts: Vec<Part>, freeze_ms: f64) -> Markup {
        let finite = |ms: f64| if ms.is_finite() { ms.max(0.0) } else { 0.0 };
        let sum: f64 = parts.iter().map(|part| finite(part.ms)).sum();
        let between = finite(freeze_ms) - sum;
        let between = Part { name: "between".into(), class: "p-freeze", ms: between };
        let mut at = 0.0;
        let mut markup = Vec::new();
        for part in parts.into_iter().chain([between]) {
            let (from, to) = (self.x(at), self.x(at + finite(part.ms)));
            at += finite(part.ms);
            if to > from {
                markup.push(segment(y, from, to, &part));
            }
        }
        let end = self.x(at);
        html! {
            @for segment in markup { (segment) }
            (text((end + 6.0, y + 13.0), Anchor::Start, Ink::role("ink").halo(), &format!("freeze {}", ms(freeze_ms))))
        }
    }

    pub(super) fn gap(&self, y: f64, gap_ms: Option<f64>) -> Markup {
        html! {
            @match gap_ms {
                Some(gap) => {
                    (svg::rect((self.left, y), (self.x(gap) - self.left, BAR), "dim", role("dim"), 1.0))
                    (text((self.x(gap) + 6.0, y + 13.0), Anchor::Start, Ink::role("ink").bold().halo(), &format!("gap {}", ms(gap))))
                }
                None => {
                    (text((self.left + 6.0, y + 13.0), Anchor::Start, Ink::role("dim").halo(), "gap: no client measured"))
                }
            }
        }
    }
}

fn segment(y: f64, from: f64, to: f64, part: &Part) -> Markup {
    let Part { name, class, ms: length } = part;
    let title = if name == "between" { "between the phases".to_owned() } else { name.clone() };
    let ink_class = format!("i-{class}");
    let ink = Ink { class: &ink_class, fill: role(class).ink_light, bold: false, halo: false };
    html! {
        g { title { (title) " " (ms(*length)) } (svg::rect((from, y), (to - from, BAR), class, role(class), 1.0)) }
        @if text_width(name) + 6.0 < to - from {
            (text(((from + to) / 2.0, y + 12.5), Anchor::Middle, ink, name))
        }
    }
}
