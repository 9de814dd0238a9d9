//! The page's tables.

use godwit_model::Outcome;
use maud::{Markup, html};

use crate::troubles;
use crate::view::View;
use crate::words::{clean, count, maybe_ms, ms, percent, plain, rtt, seconds};

/// More migrations than this are left to `migrations.csv`.
const MOST: usize = 500;

pub(super) fn migrations(view: &View<'_>) -> Markup {
    let all = &view.summary.migrations;
    html! {
        section {
            h2 { "Every migration" }
            @if all.is_empty() {
                p.how { "There was none." }
            } @else {
                div.wide { table {
                    thead { tr {
                        th.n { "#" } th.n { "at" } th { "service" } th { "from → to" } th { "why" } th.n { "freeze" }
                        th.n { "gap" } th.n { "total" } th.n { "sent" } th { "outcome" }
                    } }
                    tbody {
                        @for m in all.iter().take(MOST) {
                            @let failed = m.outcome != Outcome::Done;
                            tr.failed[failed] {
                                td.n { (m.id.0) }
                                td.n { (seconds(m.start.secs())) }
                                td { (m.workload) }
                                td.keep { (m.from) " → " (m.to) }
                                td.why { (clean(&m.reason)) }
                                td.n { (ms(m.freeze_ms)) }
                                td.n { (maybe_ms(m.gap_ms)) }
                                td.n { (ms(m.total_ms)) }
                                td.n { (m.bytes) @if let Some(wire) = m.wire_bytes { " (" (wire) " on the wire)" } }
                                td {
                                    span class={ "outcome " (m.outcome) } {
                                        (match m.outcome { Outcome::Done => "✓ ", Outcome::RolledBack | Outcome::Lost => "✗ " }) (m.outcome)
                                    }
                                    @if let Some(error) = &m.error { div.error { (clean(error)) } }
                                }
                            }
                        }
                    }
                } }
                @if all.len() > MOST {
                    p.how { (count((all.len() - MOST) as u64)) " more are in migrations.csv." }
                }
            }
        }
    }
}

pub(super) fn baseline(view: &View<'_>) -> Markup {
    html! {
        @if let Some(baseline) = view.baseline() {
            section {
                h2 { "For comparison: plain " (plain(baseline)) }
                p.how { "The same container in the same run, moved by " (clean(&baseline.tool)) "." }
                div.wide { table {
                    thead { tr {
                        th { "from → to" } th.n { "checkpoint" } th.n { "transfer" } th.n { "restore" } th.n { "switch" }
                        th.n { "freeze" } th.n { "gap" }
                    } }
                    tbody {
                        @for m in baseline.moves.iter().take(MOST) {
                            tr {
                                td.keep { (m.from) " → " (m.to) }
                                @for part in [m.checkpoint_ms, m.transfer_ms, m.restore_ms, m.switch_ms] {
                                    td.n { (ms(part)) }
                                }
                                td.n { (ms(m.freeze_ms)) }
                                td.n { (maybe_ms(m.gap_ms)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

pub(super) fn users(view: &View<'_>) -> Markup {
    let summary = view.summary;
    html! {
        @if !summary.users.is_empty() {
            section {
                h2 { "Users: how near their service was" }
                div.wide { table {
                    thead { tr {
                        th { "user" } th.n { "rtt, mean" } th.n { "rtt, 95th percentile" }
                        th.n { "above " (ms(summary.rtt_bound_ms)) } th.n { "of the run" }
                    } }
                    tbody {
                        @for user in &summary.users {
                            tr {
                                td { (user.name) }
                                td.n { (rtt(user.rtt_mean_ms)) }
                                td.n { (rtt(user.rtt_p95_ms)) }
                                td.n { (seconds(user.above_bound_s)) }
                                td.n { (percent(user.above_bound_fraction)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

pub(super) fn clients(view: &View<'_>) -> Markup {
    let clients = &view.summary.clients;
    let troubles: Vec<_> = troubles::seen_by(clients).collect();
    html! {
        section {
            h2 { "Clients: what they felt" }
            @if clients.is_empty() {
                p.how { "No client measured: this world has none." }
            } @else {
                div.wide { table {
                    thead { tr {
                        th { "client" } th.n { "connections" } th.n { "broken" } th.n { "requests sent" } th.n { "answered" }
                        th.n { "bytes lost" } th.n { "out of order" }
                        @for trouble in &troubles { th.n { (trouble.column) } }
                        th.n { "longest silence" } th.n { "median answer" }
                    } }
                    tbody {
                        @for client in clients {
                            tr.failed[!client.is_clean()] {
                                td { (client.user) " ↔ " (client.workload) }
                                td.n { (count(client.connections)) }
                                td.n { (count(client.broken)) }
                                td.n { (count(client.sent)) }
                                td.n { (count(client.received)) }
                                td.n { (count(client.bytes_lost)) }
                                td.n { (count(client.reordered)) }
                                @for trouble in &troubles { td.n { (count((trouble.count)(client))) } }
                                td.n { (ms(client.worst_gap_ms)) }
                                td.n { (maybe_ms(client.response_median_ms)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}
