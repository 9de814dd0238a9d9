//! What each migration cost: the freeze with its phases, and the gap that the client saw beside it.

use godwit_model::{MigrationRecord, Outcome, Phase};
use maud::{Markup, html};

use super::bars::{BAR, JITTER_BUFFER_MS, Part, ROW, Scale};
use super::baseline::{self, Middle};
use super::nothing;
use crate::palette::role;
use crate::svg::{self, Anchor, Drawing, Ink, text, text_width};
use crate::view::View;
use crate::words::count;

/// Of more migrations than this the others are left to `migrations.csv`.
const MOST: usize = 24;

/// The phases that are drawn, with what they do. The rest of a freeze is drawn like the first.
const PHASES: [(Phase, &str, &str); 6] = [
    (Phase::Freeze, "p-freeze", "freeze: stop it"),
    (Phase::Dump, "p-dump", "dump: write its state"),
    (Phase::Transfer, "p-transfer", "transfer: send it"),
    (Phase::Restore, "p-restore", "restore: take it up"),
    (Phase::Commit, "p-freeze", ""),
    (Phase::Switch, "p-switch", "switch: let traffic in"),
];

/// Two bars a migration, and two for the plain tool where the run has it.
pub(crate) fn gaps(view: &View<'_>) -> Drawing {
    let label = "What each migration cost: freeze by phase, and the gap that the client saw".to_owned();
    let all = &view.summary.migrations;
    let plain = view.baseline().and_then(|baseline| Some((baseline, Middle::of(baseline)?)));
    if all.is_empty() && plain.is_none() {
        return nothing(&label, "Nothing was migrated in this run.");
    }
    let shown = worst(all);
    let names = |m: &MigrationRecord| format!("{} → {}", m.from, m.to);
    let longest = shown.iter().map(|m| text_width(&names(m))).fold(0.0, f64::max);
    let own = view.worst(|m| Some(m.freeze_ms)).into_iter().chain(view.worst(|m| m.gap_ms));
    let beside = plain.iter().flat_map(|(_, middle)| [Some(middle.freeze_ms), middle.gap_ms]).flatten();
    let scale = Scale::new(own.chain(beside).fold(0.0, f64::max), (longest + 50.0).clamp(160.0, 420.0));
    let top = 84.0;
    let plain_top = top + shown.len() as f64 * ROW;
    let bottom = plain_top + if plain.is_some() { baseline::HEIGHT } else { 0.0 };
    let body = html! {
        (text((0.0, 18.0), Anchor::Start, Ink::role("ink").bold(), "how long the service stood still, and how long its client waited, ms"))
        (legend(scale.left))
        @if plain.is_some() { (Middle::ground(plain_top)) }
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
            (scale.freeze(y, parts(migration), migration.freeze_ms))
            (scale.gap(y + BAR + 2.0, migration.gap_ms))
        }
        @if let Some((baseline, middle)) = plain { (middle.bars(&scale, plain_top, baseline)) }
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

/// The parts of a migration's freeze.
fn parts(migration: &MigrationRecord) -> Vec<Part> {
    let class = |phase| PHASES.iter().find(|(p, _, _)| *p == phase).map_or("p-freeze", |(_, class, _)| class);
    let frozen = migration.phases.iter().filter(|time| time.phase.is_frozen());
    frozen.map(|time| Part { name: time.phase.to_string(), class: class(time.phase), ms: time.ms }).collect()
}
