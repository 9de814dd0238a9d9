//! A small log-linear histogram of durations; pure.

use std::time::Duration;

/// Each power of two of microseconds in so many buckets: a figure is right within 1/64.
const PARTS: u64 = 32;
const BUCKETS: usize = (65 - PARTS.ilog2() as usize) * PARTS as usize;

/// Durations by their size, in microseconds; quantiles are right within 2 %, minimum and maximum exactly.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    min: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, min: Duration::MAX, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        self.buckets[bucket(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))] += 1;
        self.count += 1;
        self.min = self.min.min(duration);
        self.max = self.max.max(duration);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest; `None` when it is empty.
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.max)
    }

    /// The one that a fraction `q` (0..=1) of all does not exceed; `None` when it is empty.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        let (low, width) = bounds(at);
        Some(Duration::from_micros(low.saturating_add(width / 2)).clamp(self.min, self.max))
    }
}

fn bucket(us: u64) -> usize {
    // Below PARTS a bucket is 1 µs; above, the topmost bits after the leading one choose among PARTS.
    let octave = u64::from((us | 1).ilog2().saturating_sub(PARTS.ilog2()));
    (octave * PARTS + (us >> octave)) as usize
}

fn bounds(bucket: usize) -> (u64, u64) {
    let bucket = bucket as u64;
    let octave = (bucket / PARTS).saturating_sub(1);
    ((bucket - octave * PARTS) << octave, 1 << octave)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_one_knows_nothing() {
        let h = Histogram::default();
        assert_eq!((h.quantile(0.5), h.max(), h.count()), (None, None, 0));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_put_into_it(us: u64) {
            let at = bucket(us);
            prop_assert!(at < BUCKETS);
            let (low, width) = bounds(at);
            prop_assert!(low <= us && us - low < width && (width == 1 || width <= low / PARTS));
        }

        #[test]
        fn quantiles_are_near_the_exact_ones(mut us in proptest::collection::vec(0u64..10_000_000, 1..300), q in 0.0f64..=1.0) {
            let mut h = Histogram::default();
            us.iter().for_each(|us| h.add(Duration::from_micros(*us)));
            us.sort_unstable();
            let exact = us[((q * us.len() as f64).ceil() as usize).max(1) - 1] as f64;
            let got = h.quantile(q).unwrap().as_micros() as f64;
            prop_assert!((got - exact).abs() <= exact / 50.0 + 1.0, "{} for {}", got, exact);
            prop_assert_eq!(h.max().unwrap().as_micros() as u64, *us.last().unwrap());
        }
    }
}
