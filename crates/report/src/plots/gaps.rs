//! What each migration cost: the freeze with its phases, and the gap that the client saw beside it.

use godwit_model::{MigrationRecord, Outcome, Phase};
use maud::{Markup, html};

use super::frame::{nice_step, nice_top};
use super::nothing;
use crate::palette::role;
use crate::svg::{self, Anchor, Drawing, Ink, WIDTH, text, text_width};
use crate::view::View;
use crate::words::{count, ms};

/// Of more migrations than this the others are left to `migrations.csv`.
const MOST: usize = 24;
const ROW: f64 = 48.0;
const BAR: f64 = 17.0;
/// What a jitter buffer of a call or a video holds, in ms: a shorter silence is heard by nobody.
const JITTER_BUFFER_MS: (f64, f64) = (40.0, 60.0);

/// The phases that are drawn, with what they do. The rest of a freeze is drawn like the first.
const PHASES: [(Phase, &str, &str); 6] = [
    (Phase::Freeze, "p-freeze", "freeze: stop it"),
    (Phase::Dump, "p-dump", "dump: write its state"),
    (Phase::Transfer, "p-transfer", "transfer: send it"),
    (Phase::Restore, "p-restore", "restore: take it up"),
    (Phase::Commit, "p-freeze", ""),
    (Phase::Switch, "p-switch", "switch: let traffic in"),
];

/// Two bars a migration.
pub(crate) fn gaps(view: &View<'_>) -> Drawing {
    let label = "What each migration cost: freeze by phase, and the gap that the client saw".to_owned();
    let all = &view.summary.migrations;
    if all.is_empty() {
        return nothing(&label, "Nothing was migrated in this run.");
    }
    let shown = worst(all);
    let names = |m: &MigrationRecord| format!("{} → {}", m.from, m.to);
    let longest = shown.iter().map(|m| text_width(&names(m))).fold(0.0, f64::max);
    let scale = Scale::new(view, (longest + 50.0).clamp(150.0, 420.0));
    let top = 84.0;
    let bottom = top + shown.len() as f64 * ROW;
    let body = html! {
        (text((0.0, 18.0), Anchor::Start, Ink::role("ink").bold(), "how long the service stood still, and how long its client waited, ms"))
        (legend(scale.left))
        (scale.levels(top - 8.0, bottom))
        @for (row, migration) in shown.iter().enumerate() {
            @let y = top + row as f64 * ROW;
            @let failed = migration.outcome != Outcome::Done;
            (svg::badge((12.0, y + BAR), migration.id.0, if failed { "bad" } else { "ink" }))
            @let name_y = if failed { y + 13.0 } else { y + BAR + 4.5 };
            (text((32.0, name_y), Anchor::Start, Ink::role("ink"), &names(migration)))
            @if failed {
                (text((32.0, y + 30.0), Anchor::Start, Ink::role("bad").bold(), &migration.outcome.to_string()))
            }
            (freeze(&scale, y, migration))
            (gap(&scale, y + BAR + 2.0, migration))
        }
        @if all.len() > MOST {
            @let note = format!("The {MOST} longest and failed ones of {}; all are in migrations.csv.", count(all.len() as u64));
            (text((0.0, bottom + 36.0), Anchor::Start, Ink::role("dim"), &note))
        }
    };
    Drawing { height: bottom + if all.len() > MOST { 46.0 } else { 26.0 }, label, body }
}

/// At most [`MOST`], those that failed and then those with the longest gap or freeze, in their order.
fn worst(all: &[MigrationRecord]) -> Vec<&MigrationRecord> {
    let weight = |m: &MigrationRecord| {
        if m.outcome == Outcome::Done { m.gap_ms.unwrap_or(m.freeze_ms) } else { f64::INFINITY }
    };
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| weight(&all[*b]).total_cmp(&weight(&all[*a])));
    order.truncate(MOST);
    order.sort_unstable();
    order.into_iter().map(|index| &all[index]).collect()
}

/// Milliseconds from left to right.
struct Scale {
    left: f64,
    right: f64,
    high: f64,
}

impl Scale {
    fn new(view: &View<'_>, left: f64) -> Self {
        let worst = view.worst(|m| Some(m.freeze_ms)).into_iter().chain(view.worst(|m| m.gap_ms)).fold(0.0, f64::max);
        Self { left, right: WIDTH - 120.0, high: nice_top(worst.max(JITTER_BUFFER_MS.1 * 1.25)) }
    }

    fn x(&self, ms: f64) -> f64 {
        let part = if ms.is_finite() { (ms / self.high).clamp(0.0, 1.0) } else { 0.0 };
        self.left + part * (self.right - self.left)
    }

    fn levels(&self, top: f64, bottom: f64) -> Markup {
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
}

fn legend(left: f64) -> Markup {
    let jitter = format!("{:.0}–{:.0} ms: what a player’s buffer hides", JITTER_BUFFER_MS.0, JITTER_BUFFER_MS.1);
    let phases = PHASES.iter().filter(|(_, _, name)| !name.is_empty()).map(|(_, class, name)| (*class, *name, 1.0));
    let second = [("dim", "gap: the longest silence that the client saw", 1.0), ("p-restore", jitter.as_str(), 0.25)];
    let row = |entries: Vec<(&'static str, &str, f64)>, y: f64| {
        let mut x = left;
        let mut markup = Vec::new();
        for (class, name, opacity) in entries {
            markup.push(html! {
                (svg::rect((x, y - 10.0), (12.0, 12.0), class, role(class), opacity))
                (text((x + 17.0, y), Anchor::Start, Ink::role("dim"), name))
            });
            x += text_width(name) + 26.0;
        }
        markup
    };
    html! {
        @for entry in row(phases.collect(), 42.0) { (entry) }
        @for entry in row(second.to_vec(), 62.0) { (entry) }
    }
}

fn freeze(scale: &Scale, y: f64, migration: &MigrationRecord) -> Markup {
    let finite = |ms: f64| if ms.is_finite() { ms.max(0.0) } else { 0.0 };
    let mut at = 0.0;
    let mut parts: Vec<(f64, f64, &str, String)> = Vec::new();
    for time in migration.phases.iter().filter(|time| time.phase.is_frozen()) {
        let class = PHASES.iter().find(|(phase, _, _)| *phase == time.phase).map_or("p-freeze", |(_, class, _)| class);
        parts.push((at, at + finite(time.ms), class, format!("{} {}", time.phase, ms(time.ms))));
        at += finite(time.ms);
    }
    let freeze_ms = finite(migration.freeze_ms);
    if freeze_ms > at {
        parts.push((at, freeze_ms, "p-freeze", format!("between the phases {}", ms(freeze_ms - at))));
    }
    let end = scale.x(freeze_ms.max(at));
    html! {
        @for (from, to, class, name) in parts {
            @let (from, to) = (scale.x(from), scale.x(to));
            @if to > from {
                g { title { (name) } (svg::rect((from, y), (to - from, BAR), class, role(class), 1.0)) }
                @let phase = name.split(' ').next().unwrap_or_default();
                @if text_width(phase) + 6.0 < to - from {
                    @let ink_class = format!("i-{class}");
                    @let ink = Ink { class: &ink_class, fill: role(class).ink_light, bold: false, halo: false };
                    (text(((from + to) / 2.0, y + 12.5), Anchor::Middle, ink, phase))
                }
            }
        }
        (text((end + 6.0, y + 13.0), Anchor::Start, Ink::role("ink").halo(), &format!("freeze {}", ms(migration.freeze_ms))))
    }
}

fn gap(scale: &Scale, y: f64, migration: &MigrationRecord) -> Markup {
    html! {
        @match migration.gap_ms {
            Some(gap) => {
                (svg::rect((scale.left, y), (scale.x(gap) - scale.left, BAR), "dim", role("dim"), 1.0))
                (text((scale.x(gap) + 6.0, y + 13.0), Anchor::Start, Ink::role("ink").bold().halo(), &format!("gap {}", ms(gap))))
            }
            None => {
                (text((scale.left + 6.0, y + 13.0), Anchor::Start, Ink::role("dim").halo(), "gap: no client measured"))
            }
        }
    }
}
