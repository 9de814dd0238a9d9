//! The plain tool's pair of bars, set apart from the run's own.

use godwit_model::Baseline;
use maud::{Markup, html};

use super::bars::{BAR, Part, ROW, Scale};
use crate::palette::role;
use crate::svg::{self, Anchor, Ink, WIDTH, text};
use crate::words::{plain, plural};

/// Room for the heading.
const HEAD: f64 = 34.0;
/// How high all of it is.
pub(super) const HEIGHT: f64 = HEAD + ROW + 12.0;

/// What is shown: the move in the middle.
pub(super) struct Middle {
    pub(super) freeze_ms: f64,
    pub(super) gap_ms: Option<f64>,
    parts: Vec<Part>,
}

impl Middle {
    /// The move whose freeze is the median; of an even number the mean of the two in the middle, so that the freeze is
    /// the median and the parts are parts of it. The gap is the median of its own. `None` without any move.
    pub(super) fn of(baseline: &Baseline) -> Option<Self> {
        let mut moves: Vec<_> = baseline.moves.iter().filter(|m| m.freeze_ms.is_finite()).collect();
        moves.sort_by(|a, b| a.freeze_ms.total_cmp(&b.freeze_ms));
        let (lower, upper) = (*moves.get(moves.len().checked_sub(1)? / 2)?, *moves.get(moves.len() / 2)?);
        let part = |name: &str, class, lower: f64, upper: f64| Part {
            name: name.into(),
            class,
            ms: lower + (upper - lower) / 2.0,
        };
        Some(Self {
            freeze_ms: baseline.freeze_median_ms()?,
            gap_ms: baseline.gap_median_ms(),
            parts: vec![
                part("checkpoint", "p-dump", lower.checkpoint_ms, upper.checkpoint_ms),
                part("transfer", "p-transfer", lower.transfer_ms, upper.transfer_ms),
                part("restore", "p-restore", lower.restore_ms, upper.restore_ms),
                part("switch", "p-switch", lower.switch_ms, upper.switch_ms),
            ],
        })
    }

    /// The ground, drawn below the scale's lines.
    pub(super) fn ground(top: f64) -> Markup {
        html! {
            (svg::rect((0.0, top), (WIDTH, HEIGHT), "grid", role("grid"), 0.45))
            (svg::line((0.0, top), (WIDTH, top), "dim", "none"))
        }
    }

    /// The heading and the bars, from `top` on.
    pub(super) fn bars(self, scale: &Scale, top: f64, baseline: &Baseline) -> Markup {
        let title = format!("the same container moved by plain {}, in the same run", plain(baseline));
        let y = top + HEAD;
        let (first, second) = match &baseline.moves[..] {
            [only] => (format!("{} → {}", only.from, only.to), "one move".to_owned()),
            all => (format!("plain {}", plain(baseline)), format!("median of {}", plural(all.len() as u64, "move"))),
        };
        html! {
            (text((12.0, top + 21.0), Anchor::Start, Ink::role("ink").bold(), &title))
            (text((12.0, y + 13.0), Anchor::Start, Ink::role("ink"), &first))
            (text((12.0, y + 30.0), Anchor::Start, Ink::role("dim"), &second))
            (scale.freeze(y, self.parts, self.freeze_ms))
            (scale.gap(y + BAR + 2.0, self.gap_ms))
        }
    }
}
