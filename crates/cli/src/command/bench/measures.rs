//! What the figures are to be, and whether they are.

use godwit_model::Bytes;
use godwit_testbed::Mover;
use serde::Serialize;

use super::row::Row;

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measure {
    pub(super) what: String,
    pub(super) wanted: String,
    /// `None` where nothing was measured.
    pub(super) found: Option<String>,
    pub(super) met: Option<bool>,
}

const MIB: u64 = 1 << 20;
const SMALL: Bytes = Bytes(16 * MIB);
const MIDDLE: Bytes = Bytes(256 * MIB);
const LARGE: Bytes = Bytes(1024 * MIB);

/// How many of the service's pages a second may be lost to the rounds, percent.
const PACE_LOST: f64 = 10.0;

struct Rows<'a>(&'a [Row]);

impl Rows<'_> {
    fn of(&self, by: &str, memory: Bytes) -> Option<&Row> {
        self.0.iter().find(|row| row.by.to_string() == by && row.memory == memory && row.moves > 0)
    }
}

/// All measures; those of strategies or sizes that were not tried are without a figure.
pub(super) fn all(rows: &[Row]) -> Vec<Measure> {
    let rows = Rows(rows);
    let plain = Mover::Runc.to_string();
    let blackout = rows.of(&plain, SMALL).and_then(|row| row.blackout_ms);
    let mut all = Vec::new();
    for by in ["pre-copy", "post-copy"] {
        for (memory, part) in [(SMALL, 4.0), (MIDDLE, 4.0), (LARGE, 3.0)] {
            let gap = rows.of(by, memory).and_then(|row| row.gap_ms).map(|gap| gap.median);
            all.push(at_most(
                format!("{by}, {memory}: median gap"),
                format!("B/{part:.0}, B being plain runc's median blackout at {SMALL}"),
                blackout.map(|b| b / part),
                gap,
                "ms",
            ));
        }
    }
    for (by, most) in [("pre-copy", 10.0), ("post-copy", 60.0)] {
        for memory in [SMALL, MIDDLE, LARGE] {
            let stall = rows.of(by, memory).and_then(|row| row.stall_ms).map(|stall| stall.worst);
            all.push(at_most(
                format!("{by}, {memory}: worst stall after the start"),
                String::new(),
                Some(most),
                stall,
                "ms",
            ));
        }
    }
    for by in ["pre-copy", "post-copy"] {
        let drain = rows.of(by, LARGE).and_then(|row| row.drain_ms).map(|drain| drain.median);
        all.push(at_most(format!("{by}, {LARGE}: median drain"), String::new(), Some(1500.0), drain, "ms"));
    }
    for memory in [SMALL, MIDDLE, LARGE] {
        let row = rows.of("pre-copy", memory);
        let sent = row.and_then(|row| row.bytes_to_memory);
        all.push(at_most(format!("pre-copy, {memory}: sent, of its memory"), String::new(), Some(1.3), sent, "times"));
        for (what, percent) in
            [("pace", row.and_then(|row| row.pace_percent)), ("speed", row.and_then(|row| row.speed_percent))]
        {
            let lost = percent.map(|percent| 100.0 - percent);
            let what = format!("pre-copy, {memory}: the service's {what} lost during the rounds");
            all.push(at_most(what, String::new(), Some(PACE_LOST), lost, "%"));
        }
    }
    let gap = |by: &str| rows.of(by, MIDDLE).and_then(|row| row.gap_ms).map(|gap| gap.median);
    all.push(at_most(
        format!("stop-copy, {MIDDLE}: median gap"),
        "half of plain runc's".into(),
        gap(&plain).map(|gap| gap / 2.0),
        gap("stop-copy"),
        "ms",
    ));
    all
}

fn at_most(what: String, of: String, most: Option<f64>, found: Option<f64>, unit: &str) -> Measure {
    let figure = |value: f64| {
        let text = if unit == "times" { format!("{value:.2}") } else { format!("{value:.1}") };
        // Not "-0.0".
        format!("{} {unit}", if text.starts_with("-0.0") { &text[1..] } else { &text })
    };
    let limit = most.map_or(String::from("at most"), |most| format!("at most {}", figure(most)));
    let wanted = if of.is_empty() { limit } else { format!("{limit} ({of})") };
    Measure { what, wanted, met: most.zip(found).map(|(most, found)| found <= most), found: found.map(figure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_met_at_its_limit_and_unknown_without_a_figure() {
        let measure = |most, found| at_most("x".into(), "half".into(), most, found, "ms");
        assert_eq!(measure(Some(50.0), Some(50.0)).met, Some(true));
        assert_eq!(measure(Some(50.0), Some(50.1)).met, Some(false));
        assert_eq!(measure(Some(50.0), None).met, None);
        assert_eq!(measure(None, Some(1.0)).met, None);
        assert_eq!(measure(Some(50.0), Some(1.0)).wanted, "at most 50.0 ms (half)");
    }

    #[test]
    fn without_moves_nothing_is_met_and_nothing_is_failed() {
        assert!(all(&[]).iter().all(|measure| measure.met.is_none() && measure.found.is_none()));
    }
}
