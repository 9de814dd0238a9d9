//! How the loop behaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the loop behaves. All times are the scenario's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// How often the policy is asked.
    pub decide_every: Duration,
    /// How long a workload rests after a migration of it has ended (the reference: 35 s).
    pub cooldown: Duration,
    /// How long it rests after the first of a row of migrations that were rolled back; each further one doubles it.
    /// Never shorter than the cooldown.
    pub backoff: Duration,
    /// The doubling ends here.
    pub backoff_max: Duration,
    /// How many migrations may come to a node at the same time.
    pub per_node_in: usize,
    /// How many may leave a node at the same time.
    pub per_node_out: usize,
    /// How many there may be at the same time in all.
    pub max_in_flight: usize,
    /// A figure older than this counts as absent. Where the scenario runs faster than the clock by which figures are
    /// measured, so do they age: see [`Self::for_run`].
    pub stale_after: Duration,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            decide_every: Duration::from_secs(1),
            cooldown: Duration::from_secs(35),
            backoff: Duration::from_secs(35),
            backoff_max: Duration::from_secs(600),
            per_node_in: 1,
            per_node_out: 1,
            max_in_flight: 5,
            stale_after: Duration::from_secs(5),
        }
    }
}

/// What is wrong with a [`ControlConfig`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It would decide all the time.
    #[error("decide_every is 0, but must be longer")]
    DecideEveryZero,
    /// Every figure would be stale at once.
    #[error("stale_after is 0, but must be longer: every figure would be stale at once")]
    StaleAfterZero,
}

impl ControlConfig {
    /// As a scenario asks for it, which goes `speed` times as fast as the clock by which figures are measured.
    pub fn for_run(decide_every: Duration, cooldown: Duration, speed: f64) -> Self {
        let default = Self::default();
        let aged = default.stale_after.as_secs_f64() * speed;
        let stale_after = Duration::try_from_secs_f64(aged).unwrap_or(default.stale_after).max(default.stale_after);
        Self { decide_every, cooldown, stale_after, ..default }
    }

    /// Checks that the loop can run like this. Budgets of 0 are allowed: nothing moves then.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.decide_every.is_zero() {
            return Err(ConfigError::DecideEveryZero);
        }
        if self.stale_after.is_zero() {
            return Err(ConfigError::StaleAfterZero);
        }
        Ok(())
    }

    /// The rest after a migration that ended well (`rolled_back` 0) or was the `rolled_back`-th failure in a row.
    pub(crate) fn rest_after(&self, rolled_back: u32) -> Duration {
        match rolled_back.checked_sub(1) {
            None => self.cooldown,
            Some(doublings) => {
                let backoff = self.backoff.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
                backoff.min(self.backoff_max).max(self.cooldown)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_age_with_the_scenario_and_never_faster_than_the_clock() {
        let stale = |speed| ControlConfig::for_run(Duration::from_secs(1), Duration::ZERO, speed).stale_after.as_secs();
        assert_eq!([0.5, 1.0, 4.0, f64::NAN, f64::INFINITY].map(stale), [5, 5, 20, 5, 5]);
    }

    #[test]
    fn the_rest_doubles_with_every_failure_in_a_row_up_to_its_maximum() {
        let config = ControlConfig::default();
        let seconds = |n| config.rest_after(n).as_secs();
        assert_eq!([0, 1, 2, 3, 5, 6, 33, 1000].map(seconds), [35, 35, 70, 140, 560, 600, 600, 600]);
        let hasty = ControlConfig { backoff: Duration::ZERO, ..config };
        assert_eq!(hasty.rest_after(4), hasty.cooldown);
    }
}
