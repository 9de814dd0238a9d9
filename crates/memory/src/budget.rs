//! When to stop copying memory while the service runs, and freeze it: a pure function of what the rounds have shown.

use std::time::Duration;

/// How far pre-copy may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreCopyBudget {
    /// Rounds copied while the service runs, the first (all its memory) included. 0: none, freeze at once.
    pub max_rounds: u32,
    /// Bytes copied while it runs, all rounds together.
    pub max_bytes: u64,
    /// Time since the first round began.
    pub max_time: Duration,
    /// So little that it may as well go over in the freeze.
    pub stop_below_bytes: u64,
}

/// One round, as the decision sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundStat {
    /// Bytes that its scan found: all that is populated in the first, what was written since the last in the others.
    pub bytes: u64,
    /// From the last round's scan to this one's; of no meaning in the first.
    pub since_last: Duration,
    /// How long it took to copy these bytes, or zero when it has not been done yet, as in the last round.
    pub copying: Duration,
}

/// Whether to copy what the last scan found while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Copy it, and scan again.
    CopyOn,
    /// Freeze, scan for the last time, and copy that.
    Freeze(WhyFreeze),
}

/// Why it is time to freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyFreeze {
    /// What is left is below the budget's `stop_below_bytes`.
    LittleLeft,
    /// Another round would not leave less: the service writes as fast as we copy, or writes the same pages always.
    NotShrinking,
    /// `max_rounds` have been copied.
    Rounds,
    /// What the scan found does not fit into `max_bytes` any more.
    Bytes,
    /// `max_time` is over.
    Time,
}

/// What to do after a scan. `rounds` are all so far, the last one scanned and not copied yet; `elapsed` is the time since
/// the first scan began.
///
/// The estimate of the next round: what was written since the last scan, times how much longer or shorter the copying
/// of this will take, at the speed of the last copy. It errs upwards, for who writes the same pages again and again
/// writes fewer new ones the longer it lasts; so a round is also worth it when the last two have shown that they shrink.
pub fn decide(budget: &PreCopyBudget, rounds: &[RoundStat], elapsed: Duration) -> NextStep {
    let Some((last, copied)) = rounds.split_last() else { return NextStep::CopyOn };
    let sent: u64 = copied.iter().fold(0, |sum, r| sum.saturating_add(r.bytes));
    let why = if last.bytes <= budget.stop_below_bytes {
        WhyFreeze::LittleLeft
    } else if copied.len() >= budget.max_rounds as usize {
        WhyFreeze::Rounds
    } else if elapsed >= budget.max_time {
        WhyFreeze::Time
    } else if sent.saturating_add(last.bytes) > budget.max_bytes {
        WhyFreeze::Bytes
    } else if !shrinks(copied, last) {
        WhyFreeze::NotShrinking
    } else {
        return NextStep::CopyOn;
    };
    NextStep::Freeze(why)
}

fn shrinks(copied: &[RoundStat], last: &RoundStat) -> bool {
    match copied {
        // Nothing is known yet: the first round is the one that all is about.
        [] => true,
        // What the whole copy left behind against what copying that will leave.
        [first] => expected_next(first, last).is_none_or(|next| next < last.bytes),
        [.., before] => last.bytes < before.bytes,
    }
}

/// Bytes that the scan after the next copy should find; none where there was too little to measure.
fn expected_next(copied: &RoundStat, last: &RoundStat) -> Option<u64> {
    let rate = bytes_per_second(last)?;
    if copied.bytes == 0 || copied.copying.is_zero() {
        return None;
    }
    let copying = copied.copying.as_secs_f64() * (last.bytes as f64 / copied.bytes as f64);
    Some((rate * copying) as u64)
}

/// Bytes that the service dirties in a second, pages counted once however often they are written: of the last round,
/// and none while there is only the first.
pub fn dirty_rate(rounds: &[RoundStat]) -> Option<f64> {
    match rounds {
        [] | [_] => None,
        [.., last] => bytes_per_second(last),
    }
}

fn bytes_per_second(round: &RoundStat) -> Option<f64> {
    (!round.since_last.is_zero()).then(|| round.bytes as f64 / round.since_last.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const ROOMY: PreCopyBudget = PreCopyBudget {
        max_rounds: 30,
        max_bytes: u64::MAX,
        max_time: Duration::from_secs(60),
        stop_below_bytes: MIB / 4,
    };

    /// A service of `memory` bytes that writes `rate` bytes a second over a working set, and a link of `speed`.
    fn run(budget: &PreCopyBudget, memory: u64, set: u64, rate: u64, speed: u64) -> (Vec<RoundStat>, WhyFreeze) {
        let mut rounds = vec![RoundStat { bytes: memory, since_last: Duration::ZERO, copying: Duration::ZERO }];
        let mut elapsed = Duration::ZERO;
        loop {
            match decide(budget, &rounds, elapsed) {
                NextStep::Freeze(why) => return (rounds, why),
                NextStep::CopyOn => {
                    let last = rounds.last_mut().unwrap();
                    last.copying = Duration::from_secs_f64(last.bytes as f64 / speed as f64 + 0.0005);
                    let since_last = last.copying;
                    elapsed += since_last;
                    let bytes = ((rate as f64 * since_last.as_secs_f64()) as u64).min(set);
                    rounds.push(RoundStat { bytes, since_last, copying: Duration::ZERO });
                }
            }
        }
    }

    #[test]
    fn the_service_of_the_measurements_converges() {
        // 1 GiB, 4 pages of 4 KiB a millisecond, 1 GB/s.
        let (rounds, why) = run(&ROOMY, 1 << 30, 1 << 30, 16_384_000, 1_000_000_000);
        assert_eq!(why, WhyFreeze::LittleLeft);
        let sent: u64 = rounds[..rounds.len() - 1].iter().map(|r| r.bytes).sum();
        assert!(sent < (1 << 30) * 13 / 10, "{rounds:?}");
        assert!(rounds.len() <= 4, "{rounds:?}");
    }

    #[test]
    fn a_service_faster_than_the_link_is_copied_once() {
        let (rounds, why) = run(&ROOMY, 1 << 30, 1 << 30, 2_000_000_000, 1_000_000_000);
        assert_eq!((rounds.len(), why), (2, WhyFreeze::NotShrinking));
    }

    #[test]
    fn a_small_set_written_all_the_time_does_not_keep_us() {
        let (rounds, why) = run(&ROOMY, 256 * MIB, 8 * MIB, 4_000_000_000, 1_000_000_000);
        assert_eq!(why, WhyFreeze::NotShrinking);
        assert!(rounds.len() <= 3, "{rounds:?}");
    }

    #[test]
    fn each_limit_is_named() {
        let slow = |budget| run(&budget, 1 << 30, 1 << 30, 800_000_000, 1_000_000_000).1;
        assert_eq!(slow(PreCopyBudget { max_rounds: 0, ..ROOMY }), WhyFreeze::Rounds);
        assert_eq!(slow(PreCopyBudget { max_rounds: 2, ..ROOMY }), WhyFreeze::Rounds);
        assert_eq!(slow(PreCopyBudget { max_bytes: 1 << 30, ..ROOMY }), WhyFreeze::Bytes);
        assert_eq!(slow(PreCopyBudget { max_time: Duration::from_secs(1), ..ROOMY }), WhyFreeze::Time);
    }

    #[test]
    fn the_rate_is_that_of_the_last_round() {
        let round = |bytes, ms| RoundStat { bytes, since_last: Duration::from_millis(ms), copying: Duration::ZERO };
        assert_eq!(dirty_rate(&[]), None);
        assert_eq!(dirty_rate(&[round(MIB, 0)]), None);
        assert_eq!(dirty_rate(&[round(MIB, 0), round(1000, 10), round(500, 250)]), Some(2000.0));
        assert_eq!(dirty_rate(&[round(MIB, 0), round(1000, 0)]), None);
    }

    fn stats() -> impl Strategy<Value = Vec<RoundStat>> {
        let stat = (any::<u64>(), 0u64..10_000_000, 0u64..10_000_000).prop_map(|(bytes, since, copying)| RoundStat {
            bytes,
            since_last: Duration::from_micros(since),
            copying: Duration::from_micros(copying),
        });
        proptest::collection::vec(stat, 1..12)
    }

    fn budgets() -> impl Strategy<Value = PreCopyBudget> {
        (0u32..12, any::<u64>(), 0u64..100_000, any::<u64>()).prop_map(
            |(max_rounds, max_bytes, ms, stop_below_bytes)| PreCopyBudget {
                max_rounds,
                max_bytes,
                max_time: Duration::from_millis(ms),
                stop_below_bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn copying_on_keeps_every_limit(budget in budgets(), rounds in stats(), ms in 0u64..100_000) {
            let elapsed = Duration::from_millis(ms);
            if decide(&budget, &rounds, elapsed) == NextStep::CopyOn {
                let all: u128 = rounds.iter().map(|r| u128::from(r.bytes)).sum();
                prop_assert!(rounds.len() <= budget.max_rounds as usize);
                prop_assert!(all <= u128::from(budget.max_bytes));
                prop_assert!(elapsed < budget.max_time);
                prop_assert!(rounds[rounds.len() - 1].bytes > budget.stop_below_bytes);
            }
        }

        #[test]
        fn more_budget_never_freezes_earlier(budget in budgets(), rounds in stats(), ms in 0u64..100_000) {
            let elapsed = Duration::from_millis(ms);
            let more = PreCopyBudget {
                max_rounds: budget.max_rounds + 1,
                max_bytes: budget.max_bytes.saturating_add(1 << 40),
                max_time: budget.max_time * 2,
                stop_below_bytes: budget.stop_below_bytes / 2,
            };
            if decide(&budget, &rounds, elapsed) == NextStep::CopyOn {
                prop_assert_eq!(decide(&more, &rounds, elapsed), NextStep::CopyOn);
            }
        }

        #[test]
        fn every_run_ends_within_its_budget(
            budget in budgets(), memory in 0u64..1 << 34, set in 0u64..1 << 34,
            rate in 0u64..1 << 34, speed in 1u64 << 20..1 << 34,
        ) {
            let (rounds, _) = run(&budget, memory, set, rate, speed);
            let copied = &rounds[..rounds.len() - 1];
            prop_assert!(copied.len() <= budget.max_rounds as usize);
            prop_assert!(copied.iter().map(|r| r.bytes).sum::<u64>() <= budget.max_bytes);
        }

        #[test]
        fn what_does_not_get_smaller_is_not_copied_thrice(bytes in 1u64.., ms in 1u64..10_000) {
            let round = RoundStat {
                bytes, since_last: Duration::from_millis(ms), copying: Duration::from_millis(ms),
            };
            let budget = PreCopyBudget { stop_below_bytes: 0, ..ROOMY };
            let step = decide(&budget, &[round; 3], Duration::ZERO);
            prop_assert!(matches!(step, NextStep::Freeze(_)), "{:?}", step);
        }
    }
}
