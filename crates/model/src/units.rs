//! Quantities with their units.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A round-trip time between a user and a node, in milliseconds; finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rtt(f64);

impl Rtt {
    /// From milliseconds; `None` for a NaN, an infinity or a negative number.
    pub fn from_ms(ms: f64) -> Option<Self> {
        (ms.is_finite() && ms >= 0.0).then_some(Self(ms))
    }

    /// In milliseconds.
    pub fn ms(self) -> f64 {
        self.0
    }

    /// As a duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs_f64(self.0 / 1e3)
    }
}

impl From<Duration> for Rtt {
    fn from(d: Duration) -> Self {
        Self(d.as_secs_f64() * 1e3)
    }
}

impl TryFrom<f64> for Rtt {
    type Error = ParseUnitError;
    fn try_from(ms: f64) -> Result<Self, ParseUnitError> {
        Self::from_ms(ms).ok_or_else(|| ParseUnitError::new(ms, "an RTT in ms, finite and not negative"))
    }
}

impl From<Rtt> for f64 {
    fn from(rtt: Rtt) -> f64 {
        rtt.0
    }
}

impl fmt::Display for Rtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0)
    }
}

/// How loaded a node is: `1/(1-cpu) * 1/(1-mem)`, at least 1 (idle); the reference's index
/// (doi 10.1109/NetSoft57336.2023.10175417).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Load(f64);

impl Load {
    /// An idle node.
    pub const IDLE: Self = Self(1.0);
    /// A use of 1 or more counts as this much, so that the index stays finite (the reference does so too).
    pub const MAX_USE: f64 = 0.99;

    /// From an index; `None` for a NaN, an infinity or a number below 1.
    pub fn from_index(index: f64) -> Option<Self> {
        (index.is_finite() && index >= 1.0).then_some(Self(index))
    }

    /// From the used fractions of cpu and memory. Each is brought into 0..=[`Self::MAX_USE`]; NaN counts as full.
    pub fn from_use(cpu: f64, mem: f64) -> Self {
        let free = |used: f64| 1.0 - if used.is_nan() { Self::MAX_USE } else { used.clamp(0.0, Self::MAX_USE) };
        Self(1.0 / free(cpu) / free(mem))
    }

    /// The index itself.
    pub fn index(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Load {
    type Error = ParseUnitError;
    fn try_from(index: f64) -> Result<Self, ParseUnitError> {
        Self::from_index(index).ok_or_else(|| ParseUnitError::new(index, "a load index, finite and at least 1"))
    }
}

impl From<Load> for f64 {
    fn from(load: Load) -> f64 {
        load.0
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

/// A number of bytes. Text form: `16MiB`, `1GiB`, `250kB`, `4096` (bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let wanted = || ParseUnitError::new(text, "a size such as 16MiB, 1GiB or 250kB");
        let trimmed = text.trim();
        let (number, factor) = BYTE_UNITS
            .iter()
            .find_map(|(unit, factor)| trimmed.strip_suffix(unit).map(|n| (n, *factor)))
            .unwrap_or((trimmed, 1));
        let number: f64 = number.trim().parse().map_err(|_| wanted())?;
        let bytes = number * factor as f64;
        if !(0.0..=u64::MAX as f64).contains(&bytes) {
            return Err(wanted());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in &BYTE_UNITS[..3] {
            if self.0 >= *factor {
                let value = self.0 as f64 / *factor as f64;
                return if value.fract() == 0.0 { write!(f, "{value}{unit}") } else { write!(f, "{value:.1}{unit}") };
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// Bytes a second that may go over a link, more than zero. Text form: `50MiB/s`, or in bits `100Mbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bandwidth(NonZeroU64);

impl Bandwidth {
    /// None for 0.
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        NonZeroU64::new(bytes_per_second).map(Self)
    }

    /// Bytes a second.
    pub fn bytes_per_second(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for Bandwidth {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let size = text.trim();
        let bytes = match bits(size.strip_suffix("/s").unwrap_or(size)) {
            Some(bits) => Some(bits / 8),
            None => size.strip_suffix("/s").and_then(|size| size.parse::<Bytes>().ok()).map(|bytes| bytes.0),
        };
        let expected = "a size a second such as 100Mbit or 50MiB/s, more than zero";
        bytes.and_then(Self::new).ok_or_else(|| ParseUnitError::new(text, expected))
    }
}

/// As networks count: `100Mbit` are 100,000,000 bits.
fn bits(text: &str) -> Option<u64> {
    let number = text.strip_suffix("bit")?;
    let (number, unit) = match number.chars().last()? {
        'k' => (&number[..number.len() - 1], 1e3),
        'M' => (&number[..number.len() - 1], 1e6),
        'G' => (&number[..number.len() - 1], 1e9),
        _ => (number, 1.0),
    };
    let bits = number.parse::<f64>().ok()? * unit;
    (bits.is_finite() && bits >= 0.0).then_some(bits as u64)
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0.get()))
    }
}

/// An instant of a run: the scenario's time since its start, in whole microseconds. In the simulator it is virtual,
/// in a real world it is the wall clock times the run's speed-up. It is always handed in, never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Time(u64);

impl Time {
    /// The start of the run.
    pub const ZERO: Self = Self(0);

    /// From whole microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// From seconds; negative and NaN count as 0.
    pub fn from_secs(secs: f64) -> Self {
        Self((secs.max(0.0) * 1e6).round() as u64)
    }

    /// In whole microseconds.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// In seconds.
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl TryFrom<f64> for Time {
    type Error = ParseUnitError;
    fn try_from(secs: f64) -> Result<Self, ParseUnitError> {
        if secs.is_finite() && secs >= 0.0 {
            Ok(Self::from_secs(secs))
        } else {
            Err(ParseUnitError::new(secs, "a time in seconds, finite and not negative"))
        }
    }
}

impl From<Time> for f64 {
    fn from(time: Time) -> f64 {
        time.secs()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.secs())
    }
}

/// A text or number that is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseUnitError {
    given: String,
    wanted: &'static str,
}

impl ParseUnitError {
    /// `given` was read where `wanted` was expected.
    pub fn new(given: impl fmt::Display, wanted: &'static str) -> Self {
        Self { given: given.to_string(), wanted }
    }
}

impl fmt::Display for ParseUnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not {}", self.given, self.wanted)
    }
}

impl std::error::Error for ParseUnitError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bandwidth_is_a_size_a_second_and_not_nothing() {
        for text in ["50MiB/s", "1.5KiB/s", "7B/s"] {
            assert_eq!(text.parse::<Bandwidth>().unwrap().to_string(), text);
        }
        for (text, bytes) in [("1MB/s", 1_000_000), ("100Mbit", 12_500_000), ("1.5Gbit/s", 187_500_000), ("64bit", 8)] {
            assert_eq!(text.parse::<Bandwidth>().unwrap().bytes_per_second(), bytes, "{text}");
        }
        for bad in ["", "50MiB", "0MiB/s", "0.1B/s", "-1MiB/s", "fast", "Mbit", "-1Mbit", "7bit", "bit"] {
            assert!(bad.parse::<Bandwidth>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Bandwidth::new(5)).unwrap(), "5");
        assert!(serde_json::from_str::<Bandwidth>("0").is_err());
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("16MiB".parse(), Ok(Bytes(16 << 20)));
        assert_eq!("1.5 GiB".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("250kB".parse(), Ok(Bytes(250_000)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        assert_eq!(Bytes(16 << 20).to_string(), "16MiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5GiB");
        for bad in ["", "MiB", "-1MiB", "NaN", "1e40GiB", "12 parsecs"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn load_is_the_references_index() {
        assert_eq!(Load::from_use(0.0, 0.0), Load::IDLE);
        assert!((Load::from_use(0.5, 0.5).index() - 4.0).abs() < 1e-9);
        assert_eq!(Load::from_use(1.0, 0.0), Load::from_use(7.0, -1.0));
    }

    proptest! {
        #[test]
        fn any_use_gives_a_finite_load_of_at_least_one(cpu: f64, mem: f64) {
            prop_assert!(Load::from_index(Load::from_use(cpu, mem).index()).is_some());
        }

        #[test]
        fn time_keeps_its_order_through_json(a in 0u64..1 << 50, b in 0u64..1 << 50) {
            let back = |t: Time| serde_json::from_str::<Time>(&serde_json::to_string(&t).unwrap()).unwrap();
            let (a, b) = (Time::from_micros(a), Time::from_micros(b));
            prop_assert_eq!(a.cmp(&b), back(a).cmp(&back(b)));
        }
    }
}
