//! A run in words, and figures as a person reads them.

use std::collections::BTreeSet;

use godwit_model::{Baseline, ClientSummary, Compared, Outcome, UserName};

use crate::troubles;
use crate::view::View;

/// "142 ms", "5.2 ms", "12.3 s"; a dash for what is no figure.
pub(crate) fn ms(ms: f64) -> String {
    match ms {
        ms if !ms.is_finite() => "–".into(),
        ms if ms.abs() < 9.95 => format!("{ms:.1} ms"),
        ms if ms.abs() < 9_999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

pub(crate) fn maybe_ms(value: Option<f64>) -> String {
    value.map_or("–".into(), ms)
}

/// A round-trip time, to a tenth of a millisecond.
pub(crate) fn rtt(value: Option<f64>) -> String {
    value.filter(|ms| ms.is_finite()).map_or("–".into(), |ms| format!("{ms:.1} ms"))
}

/// "1.3 %"
pub(crate) fn percent(fraction: f64) -> String {
    match fraction * 100.0 {
        p if !p.is_finite() => "–".into(),
        p if p > 0.0 && p < 0.1 => "< 0.1 %".into(),
        p if p.fract() == 0.0 || p >= 10.0 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

/// "240 s", "3.2 s", "1.5 h".
pub(crate) fn seconds(s: f64) -> String {
    match s {
        s if !s.is_finite() => "–".into(),
        s if s >= 7_200.0 => format!("{:.1} h", s / 3_600.0),
        s if s.fract() == 0.0 || s >= 100.0 => format!("{s:.0} s"),
        s => format!("{s:.1} s"),
    }
}

/// "1,234,567"
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
    groups.join(",")
}

/// "1 migration", "4 migrations".
pub(crate) fn plural(n: u64, one: &str) -> String {
    let end = if n == 1 { "" } else { "s" };
    format!("{} {one}{end}", count(n))
}

fn times(n: usize) -> String {
    match n {
        1 => "once".into(),
        2 => "twice".into(),
        n => format!("{} times", count(n as u64)),
    }
}

/// A text without characters that no page or terminal should get.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// "car", "car and bus", "car, bus and tram", "5 users".
fn people(names: &[&UserName]) -> String {
    match names {
        [] => "no user".into(),
        [one] => format!("the {one}"),
        [first @ .., last] if first.len() < 3 => {
            let first: Vec<_> = first.iter().map(|name| name.as_str()).collect();
            format!("{} and {last}", first.join(", "))
        }
        many => format!("{} users", many.len()),
    }
}

/// The run in one sentence or two, for somebody who reads nothing else.
pub(crate) fn headline(view: &View<'_>) -> String {
    let summary = view.summary;
    let done = view.count(Outcome::Done);
    let moving = match view.workloads.len() {
        0 | 1 => "The service".to_owned(),
        n => format!("The {n} services"),
    };
    let mut parts = vec![match done {
        0 => format!("{moving} stayed in place"),
        n => format!("{moving} moved {} while running", times(n)),
    }];
    let clients = &summary.clients;
    let connections: u64 = clients.iter().map(|client| client.connections).sum();
    let broken: u64 = clients.iter().map(|client| client.broken).sum();
    let users: BTreeSet<&UserName> = clients.iter().map(|client| &client.user).collect();
    let who = people(&users.into_iter().collect::<Vec<_>>());
    let whose = if who.ends_with('s') { format!("{who}’") } else { format!("{who}’s") };
    parts.push(match (broken, connections) {
        _ if clients.is_empty() => "no client measured what a user would have felt".into(),
        (0, 0) => format!("{whose} client never got a connection"),
        (0, 1) => format!("{whose} connection never broke"),
        (0, _) => format!("{whose} connections never broke"),
        (1, 1) => format!("{whose} connection broke"),
        (broken, all) => format!("{} of {} broke", count(broken), plural(all, "connection")),
    });
    match clients.iter().map(|client| client.bytes_lost).sum::<u64>() {
        0 => {}
        1 => parts.push("one byte was lost".into()),
        lost => parts.push(format!("{} were lost", plural(lost, "byte"))),
    }
    match &troubles::in_words(clients)[..] {
        [] => {}
        troubles => parts.push(format!("also seen: {}", troubles.join(", "))),
    }
    if let Some(gap) = view.worst_gap() {
        parts.push(format!("the longest silence was {}", ms(gap)));
    }
    let mut text = parts.join("; ") + ".";
    for (outcome, what) in [(Outcome::RolledBack, "rolled back"), (Outcome::Lost, "lost")] {
        match view.count(outcome) {
            0 => {}
            1 => text += &format!(" One migration was {what}."),
            n => text += &format!(" {n} migrations were {what}."),
        }
    }
    text
}

/// What a baseline's tool is called in a sentence: its first word.
pub(crate) fn plain(baseline: &Baseline) -> String {
    clean(baseline.tool.split_whitespace().next().unwrap_or("tools"))
}

/// "3.1 times as long"
pub(crate) fn times_as_long(compared: Compared) -> Option<String> {
    let ratio = compared.ratio()?;
    Some(if ratio < 9.95 { format!("{ratio:.1} times as long") } else { format!("{ratio:.0} times as long") })
}

/// How the plain tool does beside Godwit: by the gap if it is known, else by the freeze.
pub(crate) fn comparison(view: &View<'_>) -> Option<String> {
    let summary = view.summary;
    let tool = plain(summary.baseline.as_ref()?);
    let gap = summary.gap_compared().map(|compared| (compared, "gap"));
    let (compared, what) = gap.or_else(|| Some((summary.freeze_compared()?, "freeze")))?;
    let medians = format!("median {what} {}, here {}", ms(compared.baseline_ms), ms(compared.own_ms));
    Some(match times_as_long(compared) {
        Some(times) => format!("Moved by plain {tool} in the same run, the same container takes {times} ({medians})."),
        None => format!("Moved by plain {tool} in the same run, the same container has a {medians}."),
    })
}

/// What is not well, each in a few words; empty when all is.
pub(crate) fn complaints(view: &View<'_>) -> Vec<String> {
    let clients = &view.summary.clients;
    let sum = |of: fn(&ClientSummary) -> u64| clients.iter().map(of).sum::<u64>();
    let (rolled_back, lost) = (view.count(Outcome::RolledBack) as u64, view.count(Outcome::Lost) as u64);
    let figures = [
        (rolled_back, format!("{} rolled back", plural(rolled_back, "migration"))),
        (lost, format!("{} lost", plural(lost, "migration"))),
        (sum(|c| c.broken), format!("{} broken", plural(sum(|c| c.broken), "connection"))),
        (sum(|c| c.bytes_lost), format!("{} lost", plural(sum(|c| c.bytes_lost), "byte"))),
        (sum(|c| c.reordered), format!("{} out of order", plural(sum(|c| c.reordered), "answer"))),
    ];
    figures.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).chain(troubles::in_words(clients)).collect()
}

/// One line that says whether all is well, and why.
pub(crate) fn verdict(view: &View<'_>) -> String {
    let ended = match view.summary.migrations.len() as u64 {
        0 => "nothing was migrated".to_owned(),
        1 => "1 migration, which ended well".to_owned(),
        n => format!("{}, all ended well", plural(n, "migration")),
    };
    let complaints = complaints(view);
    match (view.summary.ok, complaints.is_empty()) {
        (true, true) if view.summary.clients.is_empty() => format!("OK: {ended}"),
        (true, true) => format!("OK: {ended}; no client lost anything"),
        (true, false) => format!("OK, although: {}", complaints.join(", ")),
        (false, false) => format!("NOT OK: {}", complaints.join(", ")),
        (false, true) => "NOT OK: the run did not end as it should".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(
            [ms(5.24), ms(142.4), ms(12_345.0), ms(f64::NAN), ms(9.96)],
            ["5.2 ms", "142 ms", "12.3 s", "–", "10 ms"]
        );
        assert_eq!(
            [percent(0.0), percent(0.0125), percent(0.0001), percent(1.0)],
            ["0 %", "1.2 %", "< 0.1 %", "100 %"]
        );
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([seconds(240.0), seconds(3.25), seconds(86_400.0)], ["240 s", "3.2 s", "24.0 h"]);
        assert_eq!(clean("a\u{0}\u{1b}b\n"), "a  b ");
    }
}
