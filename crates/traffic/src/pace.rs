//! When to do what is done again and again; pure.
//!
//! [`Ticks`] is the client's: an absolute grid, so that lateness never adds up. [`Pace`] is the service's: it lives
//! through a checkpoint, after which the monotonic clock may be another machine's, ahead or behind, and a freeze may lie
//! between two looks at it. It never trusts a difference to be more than a moment.

use std::time::{Duration, Instant};

/// A grid of moments.
#[derive(Debug)]
pub(crate) struct Ticks {
    next: Instant,
    period: Duration,
}

/// A moment of the grid that has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    /// How late it is taken.
    pub(crate) late: Duration,
    /// How many others were left out since.
    pub(crate) missed: u64,
}

impl Ticks {
    /// The first at `start`; a period of at least 100 µs.
    pub(crate) fn new(start: Instant, period: Duration) -> Self {
        Self { next: start, period: period.max(Duration::from_micros(100)) }
    }

    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Takes the moment that has come by `now`, if one has; those missed are left out, not made up for in a burst.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Tick> {
        let late = now.checked_duration_since(self.next)?;
        let missed = late.as_nanos() / self.period.as_nanos();
        self.next += self.period * u32::try_from(missed + 1).unwrap_or(u32::MAX);
        Some(Tick { late, missed: missed as u64 })
    }
}

/// So many a second, in bursts of a millisecond's worth.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    credit: f64,
    last: Instant,
}

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(100);

impl Pace {
    pub(crate) fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second: if per_second.is_finite() { per_second.max(0.0) } else { 0.0 }, credit: 0.0, last: now }
    }

    /// How many are due at `now`. After a pause no more than a tenth of a second's worth.
    pub(crate) fn take(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.last).min(LONGEST);
        self.last = now;
        self.credit += elapsed.as_secs_f64() * self.per_second;
        let due = self.credit.floor();
        self.credit -= due;
        due as usize
    }

    /// How long to wait for the next, 1 to 100 ms.
    pub(crate) fn wait(&self) -> Duration {
        let seconds = (1.0 - self.credit) / self.per_second;
        if seconds < LONGEST.as_secs_f64() { Duration::from_secs_f64(seconds).max(SHORTEST) } else { LONGEST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn ticks_keep_their_grid() {
        let t0 = Instant::now();
        let mut ticks = Ticks::new(t0, 5 * MS);
        assert_eq!(ticks.take(t0), Some(Tick { late: Duration::ZERO, missed: 0 }));
        assert_eq!(ticks.take(t0 + 4 * MS), None);
        assert_eq!(ticks.take(t0 + 7 * MS), Some(Tick { late: 2 * MS, missed: 0 }));
        assert_eq!(ticks.take(t0 + 31 * MS), Some(Tick { late: 21 * MS, missed: 4 }));
        assert_eq!(ticks.next(), t0 + 35 * MS);
    }

    #[test]
    fn a_clock_that_jumps_neither_floods_nor_stalls() {
        let t0 = Instant::now() + Duration::from_secs(1000);
        let mut pace = Pace::new(1000.0, t0);
        assert_eq!(pace.take(t0 + Duration::from_secs(900)), 100);
        assert_eq!(pace.take(t0), 0);
        assert_eq!(pace.take(t0 + 50 * MS), 50);
    }

    #[test]
    fn odd_rates_are_none() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let t0 = Instant::now();
            let mut pace = Pace::new(rate, t0);
            assert_eq!((pace.wait(), pace.take(t0 + Duration::from_secs(1))), (LONGEST, 0));
        }
    }

    proptest! {
        #[test]
        fn the_rate_is_kept(rate in 0.0f64..50_000.0, steps in proptest::collection::vec(0u64..100_000, 1..200)) {
            let mut now = Instant::now();
            let mut pace = Pace::new(rate, now);
            let mut done = 0;
            for step in &steps {
                prop_assert!((SHORTEST..=LONGEST).contains(&pace.wait()));
                now += Duration::from_micros(*step);
                done += pace.take(now);
            }
            let wanted = rate * steps.iter().sum::<u64>() as f64 / 1e6;
            prop_assert!((done as f64 - wanted).abs() <= 1.0 + 1e-6 * wanted, "{} of {}", done, wanted);
        }
    }
}
