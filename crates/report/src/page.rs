//! `report.html`: the run on one page, for somebody who has not read anything.

mod glossary;
mod tables;

use godwit_model::{Outcome, RunRecord};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::view::View;
use crate::words::{self, count, maybe_ms, ms, percent, seconds};
use crate::{palette, plots, svg, troubles};

const STYLE: &str = include_str!("page/style.css");

/// The page as text.
pub fn render_html(record: &RunRecord) -> String {
    let view = View::new(record);
    let summary = view.summary;
    let title = format!("Godwit: {} in {}", words::clean(&summary.scenario), words::clean(&summary.world));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(palette::css())) (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head(&view))
                    (tiles(&view))
                    (story(&view))
                    (tables::migrations(&view))
                    (tables::baseline(&view))
                    (tables::users(&view))
                    (tables::clients(&view))
                    (glossary::glossary())
                    (foot(&view))
                }
            }
        }
    };
    page.into_string()
}

fn head(view: &View<'_>) -> Markup {
    let summary = view.summary;
    let mood = if summary.ok { "good" } else { "bad" };
    html! {
        header {
            p.kicker {
                "Godwit run report · scenario " b { (words::clean(&summary.scenario)) }
                " · world " b { (words::clean(&summary.world)) }
                " · policy " b { (words::clean(&summary.policy)) }
            }
            h1 { (words::headline(view).replace(" ms", "\u{a0}ms")) }
            p class={ "verdict " (mood) } { (words::verdict(view)) }
            @if let Some(comparison) = words::comparison(view) { p.beside { (comparison.replace(" ms", "\u{a0}ms")) } }
        }
    }
}

/// A key figure.
struct Tile {
    figure: String,
    name: &'static str,
    note: String,
    bad: bool,
}

fn tiles(view: &View<'_>) -> Markup {
    let summary = view.summary;
    let clients = &summary.clients;
    let sum = |of: fn(&godwit_model::ClientSummary) -> u64| clients.iter().map(of).sum::<u64>();
    let (done, all) = (view.count(Outcome::Done), summary.migrations.len());
    let mut tiles = vec![
        Tile {
            figure: if done == all { count(all as u64) } else { format!("{done} of {all}") },
            name: if done == all { "migrations" } else { "migrations done" },
            note: match all - done {
                0 if all == 0 => "nothing had to move".into(),
                0 => "all ended well".into(),
                failed => format!("{failed} did not end well"),
            },
            bad: done != all,
        },
        Tile {
            figure: maybe_ms(view.worst_gap()),
            name: "longest gap",
            note: if view.worst_gap().is_some() { "silence that a client saw" } else { "no client measured" }.into(),
            bad: false,
        },
        Tile {
            figure: maybe_ms(view.worst(|m| Some(m.freeze_ms))),
            name: "longest freeze",
            note: if all == 0 { "nothing stood still" } else { "the service did not run" }.into(),
            bad: false,
        },
    ];
    if !clients.is_empty() {
        let (broken, lost, reordered) = (sum(|c| c.broken), sum(|c| c.bytes_lost), sum(|c| c.reordered));
        let troubles = troubles::in_words(clients);
        tiles.push(Tile {
            figure: count(broken),
            name: "connections broken",
            note: format!("of {}", count(sum(|c| c.connections))),
            bad: broken > 0,
        });
        tiles.push(Tile {
            figure: count(lost),
            name: "bytes lost",
            note: format!("{} out of order", words::plural(reordered, "answer")),
            bad: lost + reordered > 0,
        });
        if !troubles.is_empty() {
            tiles.push(Tile { figure: "✗".into(), name: "more went wrong", note: troubles.join(", "), bad: true });
        }
    }
    if let Some(user) = summary.users.iter().max_by(|a, b| a.above_bound_fraction.total_cmp(&b.above_bound_fraction)) {
        let note = if summary.users.len() > 1 {
            format!("above {}, worst user: {}", ms(summary.rtt_bound_ms), user.name)
        } else {
            format!("rtt above {}, {} in all", ms(summary.rtt_bound_ms), seconds(user.above_bound_s))
        };
        tiles.push(Tile {
            figure: percent(user.above_bound_fraction),
            name: "of the time badly served",
            note,
            bad: false,
        });
    }
    html! {
        section.tiles {
            @for tile in tiles {
                div.tile.bad[tile.bad] {
                    div.figure { (tile.figure) }
                    div.name { (tile.name) }
                    div.note { (tile.note) }
                }
            }
        }
    }
}

fn story(view: &View<'_>) -> Markup {
    let plot = |heading: &str, how: &str, drawing: svg::Drawing| {
        html! {
            section {
                h2 { (heading) }
                p.how { (how) }
                figure { (svg::inline(&drawing)) }
            }
        }
    };
    let mut load = "A node without work has load 1. A near node that is busy can be worse than a farther one that is \
                    not."
        .to_owned();
    if let Some(bad) = view.parameter("load_average_below") {
        load += &format!(" In this run the policy called a load of {bad} and more bad.");
    }
    let mut cost = "Upper bar: how long the service stood still, by what was done meanwhile. Lower bar: the longest \
                    silence that a client saw around it."
        .to_owned();
    if let Some(baseline) = view.baseline() {
        cost += &format!(
            " On grey ground, for comparison: the same container moved by plain {} ({}). Its freeze counts from \
             the start of the checkpoint until packets flow to the restored container.",
            words::plain(baseline),
            words::clean(&baseline.tool),
        );
    }
    html! {
        (plot(
            "How far, and who serves",
            "Each line is the round-trip time between a node and the user: low is near. The line of the node that serves is \
             thick; above the red broken line, the bound, the user is badly served. A numbered mark is a migration: there the \
             service was moved to the next node while it ran.",
            plots::rtt(view),
        ))
        @if view.workloads.len() > 1 {
            (plot("Where each service was", "One row a service; its colour is the node that serves.", plots::placement(view)))
        }
        (plot("How busy", &load, plots::load(view)))
        (plot("What each move cost", &cost, plots::gaps(view)))
    }
}

fn foot(view: &View<'_>) -> Markup {
    let summary = view.summary;
    let parameters: Vec<_> =
        summary.policy_params.iter().map(|(name, v)| format!("{} {v}", words::clean(name))).collect();
    html! {
        footer {
            p {
                "The run: " (seconds(summary.duration_s)) " of scenario time at speed " (summary.speed) ", seed "
                (summary.seed) ", nodes " (view.nodes.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", "))
                ", policy " (words::clean(&summary.policy))
                @if !parameters.is_empty() { " (" (parameters.join(", ")) ")" }
                ". Times along the axes are of the scenario; freeze, gap and total are of the wall clock (in a simulated \
                 world: of its model). The same figures are in summary.json, migrations.csv and samples.csv beside this page."
            }
            p { "Written by godwit " (words::clean(&summary.godwit)) " (" (words::clean(&summary.schema)) ")." }
        }
    }
}
