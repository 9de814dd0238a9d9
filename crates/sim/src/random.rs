//! Randomness by name: every purpose has its own stream, made of the run's seed and the stream's name.
//!
//! So what is drawn for one user does not depend on how much was drawn for another. The generator is xoshiro256++
//! (Blackman, Vigna, "Scrambled linear pseudorandom number generators", doi 10.1145/3460772), seeded by splitmix64;
//! a stream's seed is the run's seed mixed with the FNV-1a hash of its name. Only integers and one multiplication
//! are involved: the same on every machine.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The streams of one run.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    seed: u64,
}

/// One stream.
#[derive(Debug, Clone)]
pub struct Stream(Xoshiro256PlusPlus);

impl Streams {
    /// Of a run with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The stream of that name, from its beginning.
    pub fn stream(self, name: &str) -> Stream {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let hash = name.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        // A weak mix of seed and name would make streams of neighbouring seeds alike: hash the seed first.
        let mut mixed = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        Stream(Xoshiro256PlusPlus::seed_from_u64(mixed.next_u64() ^ hash))
    }
}

impl Stream {
    /// Uniform in 0..1, in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, name: &str) -> f64 {
        Streams::new(seed).stream(name).uniform()
    }

    #[test]
    fn a_stream_depends_on_seed_and_name_only() {
        assert_eq!(first(1, "rtt/car/edge1"), first(1, "rtt/car/edge1"));
        assert_ne!(first(1, "rtt/car/edge1"), first(2, "rtt/car/edge1"));
        assert_ne!(first(1, "rtt/car/edge1"), first(1, "rtt/car/edge2"));
    }

    #[test]
    fn the_figures_are_these_on_every_machine() {
        let mut stream = Streams::new(1).stream("rtt/car/edge1");
        let drawn: Vec<u64> = (0..3).map(|_| (stream.uniform() * 1e6) as u64).collect();
        // From an implementation of the same algorithms in another language.
        assert_eq!(drawn, [298_199, 914_014, 15_739]);
    }

    #[test]
    fn draws_are_spread_over_the_unit_interval() {
        let mut stream = Streams::new(7).stream("spread");
        let draws: Vec<f64> = (0..10_000).map(|_| stream.uniform()).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
