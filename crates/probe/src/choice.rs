//! ICMP or TCP for the next probe of a user; pure.

use std::time::{Duration, Instant};

use crate::Method;

/// By what means a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Means {
    /// ICMP echo.
    Icmp,
    /// TCP connect.
    Tcp,
}

/// The choice for one user.
///
/// ```text
///   Icmp ── switch_after silent in a row ──► Tcp (and ICMP beside it, each icmp_retry)
///    ▲  ◄── switch_after silent in a row ──   │
///    └────────── ICMP answered ───────────────┘
/// ```
#[derive(Debug)]
pub(crate) struct Choice {
    means: Means,
    may_switch: bool,
    silent: u32,
    switch_after: u32,
    retry: Duration,
    next_retry: Option<Instant>,
}

impl Choice {
    pub(crate) fn new(method: Method, icmp_is_open: bool, switch_after: u32, retry: Duration) -> Self {
        let (means, may_switch) = match method {
            Method::Auto { .. } if icmp_is_open => (Means::Icmp, true),
            Method::Icmp => (Means::Icmp, false),
            Method::Auto { .. } | Method::Tcp { .. } => (Means::Tcp, false),
        };
        Self { means, may_switch, silent: 0, switch_after: switch_after.max(1), retry, next_retry: None }
    }

    /// By what means the next probe goes.
    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// Whether an ICMP probe goes beside it now.
    pub(crate) fn retries_icmp(&mut self, now: Instant) -> bool {
        if !self.may_switch || self.means != Means::Tcp || self.next_retry.is_some_and(|at| now < at) {
            return false;
        }
        self.next_retry = Some(now + self.retry);
        true
    }

    /// A probe was answered; whether this changed the means.
    pub(crate) fn answered(&mut self, by: Means) -> bool {
        if by == self.means {
            self.silent = 0;
            return false;
        }
        // The other means answered: a late ICMP loss must not keep us on TCP, a TCP answer from before is no news.
        self.may_switch && by == Means::Icmp && self.switch(Means::Icmp, None)
    }

    /// A probe was lost at `now`; whether this changed the means.
    pub(crate) fn lost(&mut self, by: Means, now: Instant) -> bool {
        if by != self.means {
            return false;
        }
        self.silent = self.silent.saturating_add(1);
        if !self.may_switch || self.silent < self.switch_after {
            return false;
        }
        match self.means {
            Means::Icmp => self.switch(Means::Tcp, Some(now + self.retry)),
            Means::Tcp => self.switch(Means::Icmp, None),
        }
    }

    fn switch(&mut self, to: Means, next_retry: Option<Instant>) -> bool {
        self.means = to;
        self.silent = 0;
        self.next_retry = next_retry;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(10);

    fn auto() -> Choice {
        Choice::new(Method::Auto { port: 7 }, true, 3, RETRY)
    }

    #[test]
    fn silence_switches_to_tcp_and_a_retry_that_answers_switches_back() {
        let (mut choice, t0) = (auto(), Instant::now());
        assert!(!choice.lost(Means::Icmp, t0) && !choice.lost(Means::Icmp, t0));
        assert!(choice.lost(Means::Icmp, t0));
        assert_eq!(choice.means(), Means::Tcp);
        assert!(!choice.retries_icmp(t0));
        assert!(choice.retries_icmp(t0 + RETRY));
        assert!(!choice.retries_icmp(t0 + RETRY), "one retry an interval");
        assert!(!choice.lost(Means::Icmp, t0 + RETRY), "a silent retry changes nothing");
        assert!(!choice.answered(Means::Tcp));
        assert!(choice.answered(Means::Icmp));
        assert_eq!(choice.means(), Means::Icmp);
    }

    #[test]
    fn a_user_who_answers_neither_is_tried_by_both_in_turn() {
        let (mut choice, t0) = (auto(), Instant::now());
        let mut seen = Vec::new();
        for _ in 0..9 {
            seen.push(choice.means());
            choice.lost(choice.means(), t0);
        }
        assert_eq!(seen, [[Means::Icmp; 3], [Means::Tcp; 3], [Means::Icmp; 3]].concat());
    }

    #[test]
    fn one_answer_ends_a_row_of_silence() {
        let (mut choice, t0) = (auto(), Instant::now());
        for _ in 0..5 {
            choice.lost(Means::Icmp, t0);
            choice.lost(Means::Icmp, t0);
            choice.answered(Means::Icmp);
        }
        assert_eq!(choice.means(), Means::Icmp);
    }

    #[test]
    fn a_fixed_method_never_switches() {
        let t0 = Instant::now();
        for (method, open, means) in [
            (Method::Icmp, true, Means::Icmp),
            (Method::Tcp { port: 7 }, true, Means::Tcp),
            (Method::Auto { port: 7 }, false, Means::Tcp),
        ] {
            let mut choice = Choice::new(method, open, 1, RETRY);
            choice.lost(means, t0);
            assert!(!choice.retries_icmp(t0 + RETRY));
            assert_eq!(choice.means(), means);
        }
    }
}
