//! So many bytes a second, and no more.

use std::time::{Duration, Instant};

/// What time it is. Tests have one that they set.
pub(crate) trait Clock: Send + std::fmt::Debug {
    fn now(&self) -> Instant;
}

/// The machine's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Real;

impl Clock for Real {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A token bucket that may be in debt: what is taken is paid for before the next is.
#[derive(Debug)]
pub(crate) struct Bucket<C> {
    rate: f64,
    tokens: f64,
    at: Instant,
    clock: C,
}

/// The burst: what may go at once after a pause, in seconds of the rate.
const BURST: f64 = 0.01;
/// A frame takes so long at most: the cap is kept over times that are much longer.
const GRAIN: f64 = 0.02;

impl<C: Clock> Bucket<C> {
    pub(crate) fn new(bytes_per_second: u64, clock: C) -> Self {
        let (rate, at) = (bytes_per_second.max(1) as f64, clock.now());
        Self { rate, tokens: rate * BURST, at, clock }
    }

    /// How much to send at a time.
    pub(crate) fn grain(&self) -> usize {
        (self.rate * GRAIN) as usize
    }

    fn fill(&mut self) {
        let now = self.clock.now();
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min((self.rate * BURST).max(1.0));
        self.at = now;
    }

    /// Takes without waiting; whoever comes next pays.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.fill();
        self.tokens -= bytes as f64;
    }

    /// How long it takes until the debts are paid.
    pub(crate) fn debt(&mut self) -> Duration {
        self.fill();
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Fake(Arc<Mutex<Instant>>);
    impl Clock for Fake {
        fn now(&self) -> Instant {
            *self.0.lock().unwrap()
        }
    }
    impl Fake {
        fn wait(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    proptest! {
        #[test]
        fn a_second_carries_the_cap_to_a_few_per_cent(
            rate in 100_000u64..2_000_000_000, pauses in prop::collection::vec(0u64..3_000, 1..50),
        ) {
            let clock = Fake(Arc::new(Mutex::new(Instant::now())));
            let start = clock.now();
            let mut bucket = Bucket::new(rate, clock.clone());
            let mut sent = 0;
            for n in 0.. {
                if clock.now() - start >= Duration::from_secs(1) {
                    break;
                }
                let piece = bucket.grain().clamp(4096, 256 << 10);
                clock.wait(bucket.debt());
                bucket.take(piece);
                sent += piece;
                // What the program does in between takes time too, and is not lost for the link.
                clock.wait(Duration::from_micros(pauses[n % pauses.len()]));
            }
            prop_assert!(sent as f64 <= rate as f64 * 1.05 + 4096.0, "{sent} at {rate}");
            // Work that takes longer than the burst lasts is what the cap cannot make good.
            let busy = pauses.iter().any(|pause| *pause > 2_000);
            prop_assert!(busy || rate > 12_000_000 || sent as f64 >= rate as f64 * 0.95, "{sent} at {rate}");
        }

        #[test]
        fn a_pause_saves_nothing_up(rate in 1_000_000u64..1_000_000_000) {
            let clock = Fake(Arc::new(Mutex::new(Instant::now())));
            let mut bucket = Bucket::new(rate, clock.clone());
            clock.wait(Duration::from_secs(3600));
            bucket.take(rate as usize);
            let debt = bucket.debt().as_secs_f64();
            prop_assert!((0.95..=1.0).contains(&debt), "{debt}");
        }
    }
}
