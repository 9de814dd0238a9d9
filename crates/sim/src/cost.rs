//! What a migration costs.
//!
//! Each phase takes a fixed time, and those that touch memory a time a byte more:
//!
//! ```text
//!   phase_ms = fixed_ms + bytes / throughput        bytes = memory of the workload + overhead
//!   freeze   = Freeze + Dump + Transfer + Restore + Commit + Switch
//! ```
//!
//! The defaults are of the order that was measured for CRIU driven directly, stop-copy, on one host (16 MiB: dump 45
//! to 60 ms, restore 38 to 47 ms; memory 9 ms a 16 MiB at the dump, 12 ms at the restore). They are to compare
//! policies by, not to predict a machine: that takes a calibration with its own runs.

use godwit_model::{Bytes, Phase, PhaseTime};

/// The parameters of the model. Times in ms, throughputs in bytes a second.
#[derive(Debug, Clone, PartialEq)]
pub struct CostModel {
    /// Checks on both sides.
    pub preflight_ms: f64,
    /// Making ready on both sides.
    pub stage_ms: f64,
    /// Holding packets and stopping.
    pub freeze_ms: f64,
    /// Writing out what is no memory.
    pub dump_ms: f64,
    /// Writing out memory.
    pub dump_throughput: f64,
    /// Starting to send.
    pub transfer_ms: f64,
    /// The link from node to node.
    pub transfer_throughput: f64,
    /// Taking up what is no memory.
    pub restore_ms: f64,
    /// Taking up memory.
    pub restore_throughput: f64,
    /// Recording the decision durably.
    pub commit_ms: f64,
    /// Handing the address over and replaying.
    pub switch_ms: f64,
    /// Removing the remains.
    pub drain_ms: f64,
    /// State that is no memory of the workload.
    pub overhead: Bytes,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            preflight_ms: 10.0,
            stage_ms: 60.0,
            freeze_ms: 8.0,
            dump_ms: 45.0,
            dump_throughput: 1.8e9,
            transfer_ms: 2.0,
            transfer_throughput: 0.5e9,
            restore_ms: 35.0,
            restore_throughput: 1.4e9,
            commit_ms: 3.0,
            switch_ms: 8.0,
            drain_ms: 20.0,
            overhead: Bytes(100 << 10),
        }
    }
}

/// What one migration costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Every phase, in order.
    pub phases: Vec<PhaseTime>,
    /// State sent from node to node.
    pub bytes: Bytes,
}

impl CostModel {
    /// Of a workload that holds so much memory.
    pub fn stop_copy(&self, memory: Bytes) -> Cost {
        let bytes = Bytes(memory.0.saturating_add(self.overhead.0));
        // A throughput that is no number above zero costs nothing rather than for ever.
        let moving = |throughput: f64| {
            if throughput > 0.0 { bytes.0 as f64 / throughput * 1e3 } else { 0.0 }
        };
        let ms = |phase| {
            let ms = match phase {
                Phase::Preflight => self.preflight_ms,
                Phase::Stage => self.stage_ms,
                Phase::PreCopy => return None,
                Phase::Freeze => self.freeze_ms,
                Phase::Dump => self.dump_ms + moving(self.dump_throughput),
                Phase::Transfer => self.transfer_ms + moving(self.transfer_throughput),
                Phase::Restore => self.restore_ms + moving(self.restore_throughput),
                Phase::Commit => self.commit_ms,
                Phase::Switch => self.switch_ms,
                Phase::Drain => self.drain_ms,
            };
            Some(PhaseTime { phase, ms })
        };
        Cost { phases: Phase::ALL.into_iter().filter_map(ms).collect(), bytes }
    }
}

impl Cost {
    /// From the decision to the end.
    pub fn total_ms(&self) -> f64 {
        self.sum(|_| true)
    }

    /// How long the workload stands still.
    pub fn freeze_ms(&self) -> f64 {
        self.sum(Phase::is_frozen)
    }

    /// From the decision until it runs on the target.
    pub fn until_switched_ms(&self) -> f64 {
        self.sum(|phase| phase <= Phase::Switch)
    }

    fn sum(&self, which: impl Fn(Phase) -> bool) -> f64 {
        self.phases.iter().filter(|p| which(p.phase)).map(|p| p.ms).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_container_freezes_for_a_tenth_to_two_tenths_of_a_second_and_memory_costs_more() {
        let model = CostModel::default();
        let (small, large) = (model.stop_copy(Bytes(16 << 20)), model.stop_copy(Bytes(1 << 30)));
        assert!((100.0..200.0).contains(&small.freeze_ms()), "{}", small.freeze_ms());
        assert!((2000.0..5000.0).contains(&large.freeze_ms()), "{}", large.freeze_ms());
        assert!(small.freeze_ms() < small.until_switched_ms());
        assert!(small.until_switched_ms() < small.total_ms());
        assert_eq!(small.bytes, Bytes((16 << 20) + (100 << 10)));
    }

    #[test]
    fn a_senseless_throughput_costs_nothing() {
        let model = CostModel { transfer_throughput: 0.0, ..CostModel::default() };
        assert!(model.stop_copy(Bytes(u64::MAX)).total_ms().is_finite());
    }
}
