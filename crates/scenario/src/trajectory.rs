//! How an RTT goes over time: a start value and ramps of equal steps, one ramp after another.

use std::time::Duration;

use godwit_model::{Rtt, Time};

/// An RTT over time, constant between its steps and never below 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    start: Rtt,
    ramps: Vec<Ramp>,
}

/// `steps` steps of `by`, the first one `every` after the ramp's beginning, the last one at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// How many steps.
    pub steps: u32,
    /// From step to step.
    pub every: Duration,
    /// What a step adds, in ms; negative: nearer.
    pub by_ms: f64,
}

impl Ramp {
    /// How long it takes.
    pub fn length(&self) -> Duration {
        self.every.saturating_mul(self.steps)
    }
}

impl Trajectory {
    /// The same RTT all the time.
    pub fn constant(rtt: Rtt) -> Self {
        Self { start: rtt, ramps: Vec::new() }
    }

    /// From `start` through `ramps`, one after another. A ramp without steps or with `every` zero takes no time.
    pub fn new(start: Rtt, ramps: Vec<Ramp>) -> Self {
        Self { start, ramps }
    }

    /// The RTT at the beginning.
    pub fn start(&self) -> Rtt {
        self.start
    }

    /// Its ramps.
    pub fn ramps(&self) -> &[Ramp] {
        &self.ramps
    }

    /// When the last step is made; from then on it is constant.
    pub fn length(&self) -> Duration {
        self.ramps.iter().fold(Duration::ZERO, |sum, ramp| sum.saturating_add(ramp.length()))
    }

    /// The RTT at an instant. A step counts from its own instant on.
    pub fn at(&self, time: Time) -> Rtt {
        let mut left = time.since(Time::ZERO);
        let mut rtt = self.start;
        for ramp in &self.ramps {
            if left < ramp.length() {
                let made = left.as_nanos().checked_div(ramp.every.as_nanos()).unwrap_or(u128::MAX);
                return stepped(rtt, ramp, u32::try_from(made).unwrap_or(u32::MAX).min(ramp.steps));
            }
            left -= ramp.length();
            rtt = stepped(rtt, ramp, ramp.steps);
        }
        rtt
    }

    /// Each instant at which the RTT changes with its new value, in order, the start first: what a world sets on its
    /// links.
    pub fn changes(&self) -> impl Iterator<Item = (Time, Rtt)> + '_ {
        let mut begin = (Time::ZERO, self.start);
        let mut last = None;
        std::iter::once(begin)
            .chain(self.ramps.iter().flat_map(move |ramp| {
                let (from, rtt) = begin;
                begin = (from + ramp.length(), stepped(rtt, ramp, ramp.steps));
                (1..=ramp.steps).map(move |step| (from + ramp.every * step, stepped(rtt, ramp, step)))
            }))
            .filter(move |(_, rtt)| last.replace(*rtt) != Some(*rtt))
    }
}

/// The value after `made` steps from `rtt`. Counted from the ramp's beginning, so that no rounding adds up; a ramp goes
/// one way only, so that clamping its end is the same as clamping every step.
fn stepped(rtt: Rtt, ramp: &Ramp, made: u32) -> Rtt {
    let ms = rtt.ms() + ramp.by_ms * f64::from(made);
    Rtt::from_ms(ms.clamp(0.0, f64::MAX)).unwrap_or(rtt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: f64) -> Rtt {
        Rtt::from_ms(ms).unwrap()
    }

    fn ramp(steps: u32, every_s: f64, by_ms: f64) -> Ramp {
        Ramp { steps, every: Duration::from_secs_f64(every_s), by_ms }
    }

    #[test]
    fn steps_are_made_at_their_instant() {
        let t = Trajectory::new(ms(0.0), vec![ramp(20, 6.0, 3.0), ramp(20, 6.0, -3.0)]);
        for (at, rtt) in
            [(0.0, 0.0), (5.999, 0.0), (6.0, 3.0), (60.0, 30.0), (120.0, 60.0), (125.9, 60.0), (126.0, 57.0)]
        {
            assert_eq!(t.at(Time::from_secs(at)), ms(rtt), "at {at}");
        }
        assert_eq!(t.at(Time::from_secs(240.0)), ms(0.0));
        assert_eq!(t.at(Time::from_micros(u64::MAX)), ms(0.0));
        assert_eq!(t.length(), Duration::from_secs(240));
    }

    #[test]
    fn it_stops_at_zero_and_comes_back_from_there() {
        let t = Trajectory::new(ms(4.0), vec![ramp(3, 1.0, -3.0), ramp(1, 1.0, 3.0)]);
        let changes: Vec<_> = t.changes().map(|(at, rtt)| (at.secs(), rtt.ms())).collect();
        assert_eq!(changes, [(0.0, 4.0), (1.0, 1.0), (2.0, 0.0), (4.0, 3.0)]);
    }

    #[test]
    fn a_constant_changes_once_at_the_start() {
        let t = Trajectory::constant(ms(5.0));
        assert_eq!(t.changes().collect::<Vec<_>>(), [(Time::ZERO, ms(5.0))]);
        assert_eq!(t.length(), Duration::ZERO);
    }

    prop_compose! {
        fn any_ramp()(steps in 0u32..50, every_ms in 1u64..10_000, by_ms in -20.0..20.0) -> Ramp {
            Ramp { steps, every: Duration::from_millis(every_ms), by_ms }
        }
    }

    proptest! {
        #[test]
        fn changes_and_at_say_the_same(
            start in 0.0..100.0,
            ramps in prop::collection::vec(any_ramp(), 0..5),
            micros in 0u64..1_000_000_000,
        ) {
            let t = Trajectory::new(ms(start), ramps);
            let at = Time::from_micros(micros);
            let last = t.changes().take_while(|(when, _)| *when <= at).last().unwrap().1;
            prop_assert_eq!(t.at(at), last);
            prop_assert!(t.changes().map(|(when, _)| when).is_sorted());
        }
    }
}
