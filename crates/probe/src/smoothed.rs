//! The smoothed figure of a series of probes; pure, so that the simulator smooths as the prober does.

use std::collections::VecDeque;

use godwit_model::Rtt;

/// How to smooth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smoothing {
    /// Weight of a new sample in the moving average. Brought into 0.01..=1; NaN counts as the default, 1/4.
    pub alpha: f64,
    /// Over how many of the last probes the loss fraction is taken; at least 1.
    pub window: usize,
    /// After this many losses in a row there is no figure any more; at least 1.
    pub forget_after: u32,
}

impl Smoothing {
    const ALPHA: f64 = 0.25;
}

impl Default for Smoothing {
    /// 1/4, 20 probes, 5 losses.
    fn default() -> Self {
        Self { alpha: Self::ALPHA, window: 20, forget_after: 5 }
    }
}

/// An exponentially weighted moving average with loss and jitter.
///
/// The first sample (and the first after the figure was forgotten) is taken as it is. Jitter is that of RFC 3550
/// section 6.4.1, `J += (|D| - J) / 16`, with D the difference of two consecutive round-trip times.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothed {
    smoothing: Smoothing,
    average_ms: Option<f64>,
    last_ms: Option<f64>,
    jitter_ms: f64,
    lost_in_a_row: u32,
    window: VecDeque<bool>,
}

impl Smoothed {
    /// Nothing measured yet.
    pub fn new(smoothing: Smoothing) -> Self {
        let alpha = if smoothing.alpha.is_nan() { Smoothing::ALPHA } else { smoothing.alpha.clamp(0.01, 1.0) };
        let smoothing =
            Smoothing { alpha, window: smoothing.window.max(1), forget_after: smoothing.forget_after.max(1) };
        Self { smoothing, average_ms: None, last_ms: None, jitter_ms: 0.0, lost_in_a_row: 0, window: VecDeque::new() }
    }

    /// A probe was answered.
    pub fn answered(&mut self, rtt: Rtt) {
        let ms = rtt.ms();
        self.push(false);
        self.lost_in_a_row = 0;
        if let Some(last) = self.last_ms {
            self.jitter_ms += ((ms - last).abs() - self.jitter_ms) / 16.0;
        }
        self.average_ms = Some(self.average_ms.map_or(ms, |average| average + self.smoothing.alpha * (ms - average)));
        self.last_ms = Some(ms);
    }

    /// A probe was lost.
    pub fn lost(&mut self) {
        self.push(true);
        self.lost_in_a_row = self.lost_in_a_row.saturating_add(1);
        if self.lost_in_a_row >= self.smoothing.forget_after {
            self.average_ms = None;
            self.last_ms = None;
            self.jitter_ms = 0.0;
        }
    }

    /// The average; `None` before the first answer and after too many losses in a row.
    pub fn rtt(&self) -> Option<Rtt> {
        self.average_ms.and_then(Rtt::from_ms)
    }

    /// The jitter; `None` when [`Self::rtt`] is.
    pub fn jitter(&self) -> Option<Rtt> {
        self.average_ms.and_then(|_| Rtt::from_ms(self.jitter_ms))
    }

    /// Lost probes as a fraction of the last ones (as many as there were, up to the window), 0..=1; 0 before the first.
    pub fn loss(&self) -> f64 {
        if self.window.is_empty() {
            return 0.0;
        }
        self.window.iter().filter(|lost| **lost).count() as f64 / self.window.len() as f64
    }

    /// Losses since the last answer.
    pub fn lost_in_a_row(&self) -> u32 {
        self.lost_in_a_row
    }

    fn push(&mut self, lost: bool) {
        if self.window.len() == self.smoothing.window {
            self.window.pop_front();
        }
        self.window.push_back(lost);
    }
}

impl Default for Smoothed {
    fn default() -> Self {
        Self::new(Smoothing::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rtt(ms: f64) -> Rtt {
        Rtt::from_ms(ms).unwrap()
    }

    #[test]
    fn the_first_sample_is_the_average_and_later_ones_weigh_alpha() {
        let mut s = Smoothed::default();
        assert_eq!((s.rtt(), s.jitter(), s.loss()), (None, None, 0.0));
        s.answered(rtt(10.0));
        assert_eq!((s.rtt(), s.jitter()), (Some(rtt(10.0)), Some(rtt(0.0))));
        s.answered(rtt(26.0));
        assert_eq!((s.rtt(), s.jitter()), (Some(rtt(14.0)), Some(rtt(1.0))));
    }

    #[test]
    fn losses_in_a_row_forget_the_figure_and_the_next_answer_starts_anew() {
        let mut s = Smoothed::new(Smoothing { forget_after: 3, ..Smoothing::default() });
        s.answered(rtt(10.0));
        s.lost();
        s.lost();
        assert_eq!(s.rtt(), Some(rtt(10.0)));
        s.lost();
        assert_eq!((s.rtt(), s.jitter(), s.loss()), (None, None, 0.75));
        s.answered(rtt(90.0));
        assert_eq!((s.rtt(), s.jitter()), (Some(rtt(90.0)), Some(rtt(0.0))));
    }

    #[test]
    fn loss_is_of_the_last_probes_only() {
        let mut s = Smoothed::new(Smoothing { window: 4, ..Smoothing::default() });
        s.lost();
        assert_eq!(s.loss(), 1.0);
        for _ in 0..3 {
            s.answered(rtt(1.0));
        }
        assert_eq!(s.loss(), 0.25);
        s.answered(rtt(1.0));
        assert_eq!(s.loss(), 0.0);
    }

    proptest! {
        #[test]
        fn the_average_stays_within_what_was_measured(
            alpha: f64, window in 0usize..40, forget_after in 0u32..8,
            series in proptest::collection::vec(proptest::option::weighted(0.8, 0.0f64..1e4), 1..200),
        ) {
            let mut s = Smoothed::new(Smoothing { alpha, window, forget_after });
            for sample in &series {
                match sample {
                    Some(ms) => s.answered(rtt(*ms)),
                    None => s.lost(),
                }
                prop_assert!((0.0..=1.0).contains(&s.loss()));
                prop_assert_eq!(s.rtt().is_some(), s.jitter().is_some());
            }
            let measured = || series.iter().flatten();
            if let Some(average) = s.rtt() {
                let low = measured().copied().fold(f64::INFINITY, f64::min);
                let high = measured().copied().fold(0.0, f64::max);
                prop_assert!(average.ms() >= low - 1e-6 && average.ms() <= high + 1e-6);
            }
        }
    }
}
