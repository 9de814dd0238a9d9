//! Waking in time: a sleeping thread gets its processor tens of microseconds after its timer, more in a virtual
//! machine. How much is learned; the thread sleeps so much less and spins the rest, within a budget.

use super::queue::Nanos;

/// No wake-up is expected to be later than this; what is later is an accident that says nothing about the next.
const MOST: Nanos = 100_000;
/// Of all time at most this part is spun away.
const BUDGET: u64 = 16;

/// What to do until the next packet is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It is due soon: spin.
    Spin,
    /// Sleep so long, or until a packet comes.
    Sleep(Nanos),
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How late wake-ups come on average.
    margin: Nanos,
    spun: Nanos,
}

impl Pace {
    pub(super) fn plan(&self, now: Nanos, due: Nanos) -> Wait {
        let left = due.saturating_sub(now);
        if self.spun > now / BUDGET {
            return Wait::Sleep(left);
        }
        if left <= self.margin { Wait::Spin } else { Wait::Sleep(left - self.margin) }
    }

    /// A sleep ended by itself: it was to end at `asked`.
    pub(super) fn woke(&mut self, asked: Nanos, now: Nanos) {
        let late = now.saturating_sub(asked);
        if late <= MOST {
            self.margin = (self.margin * 7 + late) / 8;
        }
    }

    pub(super) fn spun(&mut self, nanos: Nanos) {
        self.spun += nanos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_to_wake_earlier_and_forgets_accidents() {
        let mut pace = Pace::default();
        assert_eq!(pace.plan(0, 1_000_000), Wait::Sleep(1_000_000));
        for _ in 0..100 {
            pace.woke(0, 50_000);
        }
        pace.woke(0, 20_000_000);
        assert!((49_900..=50_000).contains(&pace.margin), "{pace:?}");
        assert_eq!(pace.plan(0, 1_000_000), Wait::Sleep(1_000_000 - pace.margin));
        assert_eq!(pace.plan(0, 40_000), Wait::Spin);
    }

    #[test]
    fn stops_spinning_when_its_budget_is_spent() {
        let mut pace = Pace { margin: 50_000, spun: 0 };
        pace.spun(1_000_000);
        assert_eq!(pace.plan(1_000_000, 1_010_000), Wait::Sleep(10_000));
        assert_eq!(pace.plan(100_000_000, 100_010_000), Wait::Spin);
    }
}
