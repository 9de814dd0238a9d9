//! Quantities as a person writes them: "6s", "1m30s", "-3ms", "4MiB/s", "30%".

use std::time::Duration;

use godwit_model::Bytes;

/// Nothing in a scenario may take longer: a year.
pub(crate) const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

const TIME_UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Seconds of "1m30s"; `None` when it is no such text. Zero needs no unit.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if rest.parse() == Ok(0.0) {
        return Some(0.0);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = rest[digits..].trim_start();
        let length = after.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(after.len());
        let (_, factor) = TIME_UNITS.iter().find(|(unit, _)| *unit == &after[..length])?;
        sum += number * factor;
        rest = after[length..].trim_start();
    }
    (!text.trim().is_empty() && sum.is_finite()).then_some(sum)
}

/// "6s", "2m", "150ms", "1m30s", "0"; to the microsecond. Not negative, not over [`LONGEST`].
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let seconds = seconds(text)?;
    (seconds <= LONGEST.as_secs_f64()).then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

/// A duration as it is told in a message.
pub(crate) fn say(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { format!("{}s", duration.as_secs()) } else { format!("{duration:?}") }
}

/// "32ms", "-3ms": milliseconds, with a sign.
pub(crate) fn signed_ms(text: &str) -> Option<f64> {
    let text = text.trim();
    let (sign, size) = match text.strip_prefix(['-', '−']) {
        Some(size) => (-1.0, size),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    // To the nanosecond: 3ms is to be 3, not 3.0000000000000004.
    let ms = (seconds(size)? * 1e9).round() / 1e6;
    (ms <= LONGEST.as_secs_f64() * 1e3).then_some(sign * ms)
}

/// "4MiB/s": bytes a second.
pub(crate) fn rate(text: &str) -> Option<Bytes> {
    text.trim().strip_suffix("/s")?.parse().ok()
}

/// "30%" or "0.3", in 0..=1.
pub(crate) fn fraction(text: &str) -> Option<f64> {
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("6s", 6_000), ("2m", 120_000), ("150ms", 150), ("1m30s", 90_000), ("0.5 s", 500), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("50us"), Some(Duration::from_micros(50)));
        for bad in ["", "6", "s", "-6s", "6 parsecs", "1..5s", "NaN", "inf", "99999999h", "6s6", "6ss", "é", "1é"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn rtts_have_a_sign() {
        for (text, ms) in [("32ms", 32.0), ("-3ms", -3.0), ("+1.5ms", 1.5), ("0", 0.0), ("0ms", 0.0), ("1s", 1000.0)] {
            assert_eq!(signed_ms(text), Some(ms), "{text}");
        }
        assert_eq!(signed_ms("--3ms"), None);
    }

    #[test]
    fn fractions_and_rates() {
        assert_eq!(fraction("30%"), Some(0.3));
        assert_eq!(fraction("0.3"), Some(0.3));
        for bad in ["30", "130%", "-1%", "NaN", "%"] {
            assert_eq!(fraction(bad), None, "{bad}");
        }
        assert_eq!(rate("4MiB/s"), Some(Bytes(4 << 20)));
        assert_eq!(rate("4MiB"), None);
    }
}
