//! The engine under everything that can go wrong: the real `migrate` and `recover`, against simulated nodes, gateway, network
//! and journal, with chance that comes from a seed.
//!
//! ```text
//!   controller ──(calls: lost, late, doubled, unheard)──► agents of three nodes, gateway ──► copies, packets
//!      │ dies before or after any call, lives again                │ die at any tick, or in the middle of a step
//!      └────────► journal: a record fails, and is there or not     └ know what is on their disk
//! ```
//! After every step: never two copies that run; no packet to a copy that does not run, and none from a frozen one beside one
//! that runs; the target is resumed only when the commit is on the disk and the source frozen for it; the source is thawed only
//! when nobody can resume the target any more, and ended only when the target ran; each answer that the client sees
//! follows from the one before. When the faults have stopped: exactly one copy, where the journal says, with its packets,
//! nothing held, nothing open, and the next migrations go well.
//!
//! A failing seed prints its trace; `GODWIT_SEED=n cargo test -p godwit-migration --test simulation` runs that one alone.

mod calls;
mod controller;
mod dice;
mod disk;
mod faults;
mod gateway;
mod mutant;
mod node;
mod parties;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use controller::simulate;
use mutant::Mutant;
use world::Counts;

const SEEDS: u64 = 10_000;
/// A mutant that so many seeds do not find would not be found.
const SEEDS_FOR_A_MUTANT: u64 = 3_000;

/// The least seed of a range whose run breaks, and what happened in all of them.
fn search(seeds: u64, mutant: Option<Mutant>, stop_at_first: bool) -> (Option<u64>, Vec<Counts>) {
    let (next, broken) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let counts = thread::scope(|scope| {
        let work = || {
            let mut counts = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || (stop_at_first && broken.load(Ordering::Relaxed) != u64::MAX) {
                    return counts;
                }
                let report = simulate(seed, mutant, false);
                if report.broken.is_some() {
                    broken.fetch_min(seed, Ordering::Relaxed);
                }
                counts.push(report.counts);
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a simulation panicked")).collect()
    });
    (Some(broken.into_inner()).filter(|seed| *seed != u64::MAX), counts)
}

fn fail(seed: u64, mutant: Option<Mutant>) -> ! {
    let report = simulate(seed, mutant, true);
    let trace = report.trace.join("\n");
    panic!("seed {seed}: {}\n{trace}\nagain with GODWIT_SEED={seed}", report.broken.unwrap_or_default());
}

#[test]
fn ten_thousand_seeds_of_faults_end_with_one_running_copy() {
    if let Ok(seed) = std::env::var("GODWIT_SEED") {
        let seed = seed.parse().expect("GODWIT_SEED is a number");
        let report = simulate(seed, None, true);
        println!("{}", report.trace.join("\n"));
        assert_eq!(report.broken, None, "seed {seed}");
        return;
    }
    let (broken, counts) = search(SEEDS, None, true);
    if let Some(seed) = broken {
        fail(seed, None);
    }
    assert_eq!(counts.len() as u64, SEEDS);
    // What never happens is not checked.
    let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
    let happened = [
        ("done", sum(|c| c.done)),
        ("rolled back", sum(|c| c.rolled_back)),
        ("left open", sum(|c| c.open)),
        ("recovered: begun", sum(|c| c.recovered_begun)),
        ("recovered: committed", sum(|c| c.recovered_committed)),
        ("recovered: taken back", sum(|c| c.recovered_taken_back)),
        ("taken back", sum(|c| c.taken_back)),
        ("commit in doubt", sum(|c| c.commit_in_doubt)),
        ("controller died", sum(|c| c.controller_deaths)),
        ("agent died", sum(|c| c.agent_deaths)),
        ("late calls", sum(|c| c.late_calls)),
        ("second one refused", sum(|c| c.refused_second)),
        ("cancelled", sum(|c| c.cancelled)),
    ];
    println!("{happened:?}, {} calls", sum(|c| c.calls));
    for (what, times) in happened {
        assert!(times > 100, "{what}: {times} times only");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 77, 4242] {
        assert_eq!(simulate(seed, None, true).trace, simulate(seed, None, true).trace);
    }
}

/// The simulation can fail: whatever is wrong with engine, parties or journal, it finds it.
#[test]
fn every_mutant_is_found() {
    let mut alive = Vec::new();
    for mutant in Mutant::ALL {
        let (broken, _) = search(SEEDS_FOR_A_MUTANT, Some(mutant), true);
        match broken {
            Some(seed) => {
                let what = simulate(seed, Some(mutant), false).broken.unwrap_or_default();
                println!("{mutant:?}: seed {seed}: {what}");
            }
            None => alive.push(mutant),
        }
    }
    assert_eq!(alive, [], "not found in {SEEDS_FOR_A_MUTANT} seeds");
}
