//! Bands of RTT and load, and where one ends and the next begins.
//!
//! Half-open intervals, so that every figure is in exactly one band:
//!
//! ```text
//!   rtt   0 ─── good ───[ 15 ─── average ───[ 26 ─── bad ───► ∞   ms
//!   load  1 ── healthy ─[  3 ─── average ───[  8 ─── bad ───► ∞
//! ```
//!
//! The figures are the reference's (doi 10.1109/NetSoft57336.2023.10175417). There, an RTT below 3 or above 60 ms, a
//! load above 100 and every figure exactly on an edge were in no band; here nothing falls outside.

use std::fmt;

use godwit_model::{Load, Rtt};
use serde::{Deserialize, Serialize};

/// How near a user is; ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RttBand {
    /// Near.
    Good,
    /// Bearable.
    Average,
    /// Too far.
    Bad,
}

/// How loaded a node is; ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBand {
    /// Hardly loaded.
    Healthy,
    /// Bearable.
    Average,
    /// Overloaded.
    Bad,
}

impl fmt::Display for RttBand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Average => "average",
            Self::Bad => "bad",
        })
    }
}

impl fmt::Display for LoadBand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Average => "average",
            Self::Bad => "bad",
        })
    }
}

/// The edges of the bands: parameters of the policy `threshold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConfig {
    /// RTT is good below this, ms.
    pub rtt_good_below_ms: f64,
    /// RTT is average from there to below this, and bad from this on, ms.
    pub rtt_average_below_ms: f64,
    /// Load is healthy below this (an index, 1 is idle).
    pub load_healthy_below: f64,
    /// Load is average from there to below this, and bad from this on.
    pub load_average_below: f64,
}

impl Default for ThresholdConfig {
    /// The reference's bands.
    fn default() -> Self {
        Self { rtt_good_below_ms: 15.0, rtt_average_below_ms: 26.0, load_healthy_below: 3.0, load_average_below: 8.0 }
    }
}

/// What is wrong with the edges of the bands.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A NaN or an infinity.
    #[error("{name} is {value}, but must be a finite number")]
    NotFinite {
        /// Which parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Nothing can be below it.
    #[error("{name} is {value}, but must be above {least}: nothing is lower than that")]
    TooLow {
        /// Which parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The lowest value of the quantity.
        least: f64,
    },
    /// The middle band would be empty or upside down.
    #[error("{upper} is {upper_value}, but must be above {lower}, which is {lower_value}")]
    NotAscending {
        /// The parameter that must be lower.
        lower: &'static str,
        /// Its value.
        lower_value: f64,
        /// The parameter that must be higher.
        upper: &'static str,
        /// Its value.
        upper_value: f64,
    },
}

impl ThresholdConfig {
    /// Checks that the edges are finite, ascending, and leave no band empty.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rtt = [("rtt_good_below_ms", self.rtt_good_below_ms), ("rtt_average_below_ms", self.rtt_average_below_ms)];
        let load = [("load_healthy_below", self.load_healthy_below), ("load_average_below", self.load_average_below)];
        for (least, edges) in [(0.0, rtt), (1.0, load)] {
            for (name, value) in edges {
                if !value.is_finite() {
                    return Err(ConfigError::NotFinite { name, value });
                }
                if value <= least {
                    return Err(ConfigError::TooLow { name, value, least });
                }
            }
            let [(lower, lower_value), (upper, upper_value)] = edges;
            if upper_value <= lower_value {
                return Err(ConfigError::NotAscending { lower, lower_value, upper, upper_value });
            }
        }
        Ok(())
    }

    /// The band of an RTT.
    pub fn rtt_band(&self, rtt: Rtt) -> RttBand {
        match rtt.ms() {
            ms if ms < self.rtt_good_below_ms => RttBand::Good,
            ms if ms < self.rtt_average_below_ms => RttBand::Average,
            _ => RttBand::Bad,
        }
    }

    /// The band of a load.
    pub fn load_band(&self, load: Load) -> LoadBand {
        match load.index() {
            index if index < self.load_healthy_below => LoadBand::Healthy,
            index if index < self.load_average_below => LoadBand::Average,
            _ => LoadBand::Bad,
        }
    }

    /// `27.2 ms (bad from 26 ms)`.
    pub(crate) fn explain_rtt(&self, rtt: Rtt) -> String {
        let (band, good, average) = (self.rtt_band(rtt), self.rtt_good_below_ms, self.rtt_average_below_ms);
        match band {
            RttBand::Good => format!("{rtt} ({band} below {good} ms)"),
            RttBand::Average => format!("{rtt} ({band} below {average} ms)"),
            RttBand::Bad => format!("{rtt} ({band} from {average} ms)"),
        }
    }

    /// `9.10 (bad from 8)`.
    pub(crate) fn explain_load(&self, load: Load) -> String {
        let (band, healthy, average) = (self.load_band(load), self.load_healthy_below, self.load_average_below);
        match band {
            LoadBand::Healthy => format!("{load} ({band} below {healthy})"),
            LoadBand::Average => format!("{load} ({band} below {average})"),
            LoadBand::Bad => format!("{load} ({band} from {average})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_falls_outside_and_an_edge_belongs_to_the_worse_band() {
        let config = ThresholdConfig::default();
        let rtt = |ms| config.rtt_band(Rtt::from_ms(ms).unwrap());
        for (ms, band) in [
            (0.0, RttBand::Good),
            (2.9, RttBand::Good),
            (14.999, RttBand::Good),
            (15.0, RttBand::Average),
            (18.0, RttBand::Average),
            (25.999, RttBand::Average),
            (26.0, RttBand::Bad),
            (60.0, RttBand::Bad),
            (1e9, RttBand::Bad),
        ] {
            assert_eq!(rtt(ms), band, "{ms}");
        }
        let load = |index| config.load_band(Load::from_index(index).unwrap());
        for (index, band) in [
            (1.0, LoadBand::Healthy),
            (2.999, LoadBand::Healthy),
            (3.0, LoadBand::Average),
            (7.999, LoadBand::Average),
            (8.0, LoadBand::Bad),
            (100.0, LoadBand::Bad),
            (10_000.0, LoadBand::Bad),
        ] {
            assert_eq!(load(index), band, "{index}");
        }
    }

    #[test]
    fn bands_that_make_no_sense_are_refused_with_their_figures() {
        let default = ThresholdConfig::default;
        for (config, message) in [
            (
                ThresholdConfig { rtt_average_below_ms: 10.0, ..default() },
                "rtt_average_below_ms is 10, but must be above rtt_good_below_ms, which is 15",
            ),
            (
                ThresholdConfig { load_healthy_below: f64::NAN, ..default() },
                "load_healthy_below is NaN, but must be a finite number",
            ),
            (
                ThresholdConfig { rtt_good_below_ms: -1.0, ..default() },
                "rtt_good_below_ms is -1, but must be above 0: nothing is lower than that",
            ),
            (
                ThresholdConfig { load_healthy_below: 1.0, ..default() },
                "load_healthy_below is 1, but must be above 1: nothing is lower than that",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        assert_eq!(default().validate(), Ok(()));
    }
}
