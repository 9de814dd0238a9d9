//! How the service gets on with its own work; pure: moments are handed in.
//!
//! One step is one page written or checked, or one turn of answering: things that take microseconds where nothing stands in
//! the way. A step that took long was kept waiting, by a page that was not there yet, say, or by whoever had the processor.
//! Idle time is no step, so a freeze shows only where it fell into one.

use std::time::{Duration, Instant};

/// So many of the longest steps are told in an answer: one may have the freeze in it, the other is what came after.
pub(crate) const TOLD: usize = 2;

/// A step that took long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlowStep {
    /// How long, in ns.
    pub took_ns: u64,
    /// How long before the answer that tells it it was over, in ns.
    pub ago_ns: u64,
}

/// What a service says of its own work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Pages written anew since the start.
    pub written: u64,
    /// How long that took, in ns: without the time in which none was due.
    pub writing_ns: u64,
    /// The longest steps since the answer before, whoever got that; the longest first.
    pub slow: [SlowStep; TOLD],
}

/// Counts and times the steps of a service.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    written: u64,
    writing: Duration,
    longest: [Option<(Duration, Instant)>; TOLD],
}

impl Steps {
    /// A page was written between two moments. Returns the later one.
    pub(crate) fn wrote(&mut self, began: Instant, ended: Instant) -> Instant {
        self.written += 1;
        self.writing += ended.saturating_duration_since(began);
        self.took(began, ended)
    }

    /// Another step. Returns the later moment.
    pub(crate) fn took(&mut self, began: Instant, ended: Instant) -> Instant {
        let mut step = Some((ended.saturating_duration_since(began), ended));
        for place in &mut self.longest {
            if place.map(|(took, _)| took) < step.map(|(took, _)| took) {
                std::mem::swap(place, &mut step);
            }
        }
        ended
    }

    /// What an answer at `now` tells; the longest steps are told once.
    pub(crate) fn tell(&mut self, now: Instant) -> Work {
        let slow = std::mem::take(&mut self.longest).map(|step| {
            step.map_or(SlowStep::default(), |(took, ended)| SlowStep {
                took_ns: took.as_nanos() as u64,
                ago_ns: now.saturating_duration_since(ended).as_nanos() as u64,
            })
        });
        Work { written: self.written, writing_ns: self.writing.as_nanos() as u64, slow }
    }
}

/// The slow steps of a service as its client was told of them.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// When each was over, by the client's clock, and how long it took.
    steps: std::collections::VecDeque<(Instant, Duration)>,
}

/// Two minutes of a client that asks every 5 ms.
const KEPT: usize = 1 << 16;

impl Told {
    /// An answer has told of its service's work.
    pub(crate) fn add(&mut self, at: Instant, work: &Work) {
        for step in work.slow.iter().filter(|step| step.took_ns > 0) {
            let Some(ended) = at.checked_sub(Duration::from_nanos(step.ago_ns)) else { continue };
            if self.steps.len() == KEPT {
                self.steps.pop_front();
            }
            self.steps.push_back((ended, Duration::from_nanos(step.took_ns)));
        }
    }

    /// The longest that a step took between two moments; of one that began before, what lies after `from`.
    pub(crate) fn longest_between(&self, from: Instant, to: Instant) -> Option<Duration> {
        let within = self.steps.iter().filter(|(ended, _)| (from..=to).contains(ended));
        within.map(|(ended, took)| (*took).min(ended.saturating_duration_since(from))).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_two_longest_steps_are_told_once_and_counts_go_on() {
        let t0 = Instant::now();
        let mut steps = Steps::default();
        steps.wrote(t0, t0 + MS);
        steps.took(t0 + MS, t0 + 8 * MS);
        steps.wrote(t0 + 8 * MS, t0 + 11 * MS);
        let told = steps.tell(t0 + 20 * MS);
        let ms = |ms: u64| ms * 1_000_000;
        assert_eq!((told.written, told.writing_ns), (2, ms(4)));
        assert_eq!(told.slow[0], SlowStep { took_ns: ms(7), ago_ns: ms(12) });
        assert_eq!(told.slow[1], SlowStep { took_ns: ms(3), ago_ns: ms(9) });
        assert_eq!(steps.tell(t0 + 30 * MS), Work { slow: Default::default(), ..told });
    }

    #[test]
    fn a_clock_that_goes_back_is_no_step() {
        let t0 = Instant::now();
        let mut steps = Steps::default();
        steps.wrote(t0 + 5 * MS, t0);
        assert_eq!(steps.tell(t0), Work { written: 1, ..Work::default() });
    }

    #[test]
    fn of_a_step_with_the_freeze_in_it_only_what_came_after_counts() {
        let t0 = Instant::now();
        let mut told = Told::default();
        let step =
            |took: Duration, ago: Duration| SlowStep { took_ns: took.as_nanos() as u64, ago_ns: ago.as_nanos() as u64 };
        // One began 90 ms before the freeze's end and was over 2 ms after it; one lay wholly after it.
        let slow = [step(92 * MS, 8 * MS), step(3 * MS, MS)];
        told.add(t0 + 110 * MS, &Work { slow, ..Work::default() });
        assert_eq!(told.longest_between(t0 + 100 * MS, t0 + 200 * MS), Some(3 * MS));
        assert_eq!(told.longest_between(t0 + 101 * MS, t0 + 103 * MS), Some(MS));
        assert_eq!(told.longest_between(t0, t0 + 200 * MS), Some(92 * MS));
        assert_eq!(told.longest_between(t0 + 110 * MS, t0 + 200 * MS), None);
    }
}
