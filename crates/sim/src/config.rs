//! How a scenario is simulated.

use std::time::Duration;

use godwit_control::ControlConfig;
use godwit_model::Rtt;
use godwit_policy::Policy;
use godwit_scenario::Scenario;

use crate::CostModel;

/// How a scenario is simulated.
pub struct SimConfig {
    /// Seeds everything random.
    pub seed: u64,
    /// Who decides.
    pub policy: Box<dyn Policy>,
    /// How the loop behaves.
    pub control: ControlConfig,
    /// Seconds of the scenario a second of the clock that is modelled. Virtual time costs nothing, but a migration
    /// that takes a second, and a probe each 200 ms, are more of a scenario that is played faster. Not above zero or
    /// not finite counts as 1.
    pub speed: f64,
    /// From sample to sample, in scenario time; zero counts as a millisecond.
    pub sample_every: Duration,
    /// From measured load to measured load, in the modelled clock's time; zero counts as a millisecond.
    pub load_every: Duration,
    /// What a path adds to the scenario's RTT at most: each probe sees a uniform part of it.
    pub rtt_noise: Rtt,
    /// What a migration costs.
    pub cost: CostModel,
    /// What loads a node besides stress.
    pub load: LoadModel,
}

/// What loads a node besides stress.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadModel {
    /// Cores that one workload uses.
    pub workload_cpu: f64,
}

impl Default for LoadModel {
    /// A hundredth of a core: a service that answers 200 small requests a second.
    fn default() -> Self {
        Self { workload_cpu: 0.01 }
    }
}

impl SimConfig {
    /// As the scenario says, at its `speed`, with the models' defaults: a sample and a load a second, 0.2 ms of noise.
    pub fn new(scenario: &Scenario, policy: Box<dyn Policy>) -> Self {
        Self {
            seed: scenario.seed,
            policy,
            control: ControlConfig::for_run(scenario.control.interval, scenario.control.cooldown, scenario.speed),
            speed: scenario.speed,
            sample_every: Duration::from_secs(1),
            load_every: Duration::from_secs(1),
            rtt_noise: Rtt::from(Duration::from_micros(200)),
            cost: CostModel::default(),
            load: LoadModel::default(),
        }
    }
}
