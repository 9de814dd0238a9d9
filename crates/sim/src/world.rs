//! A run: the scenario's world, event by event.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_control::account::{self, Facts};
use godwit_control::{Controller, Decided, Event, Order, Output};
use godwit_model::{
    Load, MigrationId, MigrationRecord, NodeName, Outcome, Rtt, RunRecord, Sample, Strategy, Time, UserName,
    WorkloadName, WorkloadSummary,
};
use godwit_scenario::Scenario;

use crate::measure::{self, Path};
use crate::{Cost, CostModel, Kernel, LoadModel, SimConfig, Streams};

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct SimRun {
    /// The summary and the samples.
    pub record: RunRecord,
    /// Every round of decisions, in order.
    pub decided: Vec<Decided>,
}

/// Something happens.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Probe,
    Load,
    Sample,
    Poll,
    /// The workload runs on the target.
    Switched(MigrationId),
    /// The migration is over.
    Ended(MigrationId),
}

/// Plays a scenario to its end, and the migrations that are in flight then to theirs.
pub fn run(scenario: &Scenario, config: SimConfig) -> SimRun {
    let facts = facts(scenario, &config);
    let mut world = World::new(scenario, config);
    let mut kernel = Kernel::new();
    // In this order at the start: a sample shows what was measured at its instant.
    for happening in [Happening::Probe, Happening::Load, Happening::Sample] {
        kernel.schedule(Time::ZERO, happening);
    }
    kernel.schedule(world.controller.next_poll(), Happening::Poll);
    while let Some((now, happening)) = kernel.next_event() {
        world.happen(now, happening, &mut kernel);
    }
    world.migrations.sort_by_key(|migration| migration.id);
    let summary = account::summary(&facts, &world.samples, world.migrations, Vec::new());
    SimRun { record: RunRecord { summary, samples: world.samples }, decided: world.decided }
}

fn facts(scenario: &Scenario, config: &SimConfig) -> Facts {
    let workloads = scenario.workloads.iter().map(|workload| WorkloadSummary {
        name: workload.name.clone(),
        kind: workload.kind,
        users: workload.users.clone(),
    });
    Facts {
        scenario: scenario.name.clone(),
        world: "sim".into(),
        policy: config.policy.name().into(),
        policy_params: config.policy.parameters(),
        seed: config.seed,
        speed: speed(config),
        end: scenario.end(),
        nodes: scenario.nodes.iter().map(|node| node.name.clone()).collect(),
        rtt_bound: scenario.rtt_bound,
        users: scenario.users.iter().map(|user| user.name.clone()).collect(),
        workloads: workloads.collect(),
    }
}

fn speed(config: &SimConfig) -> f64 {
    if config.speed.is_finite() && config.speed > 0.0 { config.speed } else { 1.0 }
}

/// The state of the world between two events.
struct World<'a> {
    scenario: &'a Scenario,
    controller: Controller,
    intervals: Intervals,
    speed: f64,
    rtt_noise: Rtt,
    cost_model: CostModel,
    load_model: LoadModel,
    paths: Vec<Path<'a>>,
    placement: BTreeMap<WorkloadName, NodeName>,
    rtt: BTreeMap<UserName, BTreeMap<NodeName, Rtt>>,
    load: BTreeMap<NodeName, Load>,
    in_flight: BTreeMap<MigrationId, (Order, Time, Cost)>,
    samples: Vec<Sample>,
    migrations: Vec<MigrationRecord>,
    decided: Vec<Decided>,
}

/// From measurement to measurement, in scenario time.
struct Intervals {
    probe: Duration,
    load: Duration,
    sample: Duration,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, config: SimConfig) -> Self {
        let speed = speed(&config);
        let least = Duration::from_millis(1);
        let intervals = Intervals {
            probe: scale(scenario.probe.interval, speed).max(least),
            load: scale(config.load_every, speed).max(least),
            sample: config.sample_every.max(least),
        };
        let mut world = Self {
            scenario,
            controller: Controller::new(config.control, config.policy),
            intervals,
            speed,
            rtt_noise: config.rtt_noise,
            cost_model: config.cost,
            load_model: config.load,
            paths: Path::all(scenario, Streams::new(config.seed)),
            placement: scenario.workloads.iter().map(|w| (w.name.clone(), w.node.clone())).collect(),
            rtt: BTreeMap::new(),
            load: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            samples: Vec::new(),
            migrations: Vec::new(),
            decided: Vec::new(),
        };
        world.announce();
        world
    }

    fn announce(&mut self) {
        for node in &self.scenario.nodes {
            self.controller.handle(Time::ZERO, Event::NodeReady { node: node.name.clone(), ready: true });
        }
        for workload in &self.scenario.workloads {
            let event = Event::WorkloadAt {
                workload: workload.name.clone(),
                kind: workload.kind,
                node: workload.node.clone(),
                users: workload.users.clone(),
            };
            self.controller.handle(Time::ZERO, event);
        }
    }

    fn happen(&mut self, now: Time, happening: Happening, kernel: &mut Kernel<Happening>) {
        let end = self.scenario.end();
        match happening {
            Happening::Probe => {
                self.probe(now);
                again(kernel, now + self.intervals.probe, end, Happening::Probe);
            }
            Happening::Load => {
                self.measure_load(now);
                again(kernel, now + self.intervals.load, end, Happening::Load);
            }
            Happening::Sample => {
                self.sample(now);
                if now < end {
                    // The last one shows the end, wherever the interval falls.
                    kernel.schedule((now + self.intervals.sample).min(end), Happening::Sample);
                }
            }
            Happening::Poll => {
                // Nothing is begun at the very end.
                if now < end {
                    self.poll(now, kernel);
                    again(kernel, self.controller.next_poll(), end, Happening::Poll);
                }
            }
            Happening::Switched(id) => {
                if let Some((order, ..)) = self.in_flight.get(&id) {
                    self.placement.insert(order.workload.clone(), order.to.clone());
                }
            }
            Happening::Ended(id) => self.ended(now, id),
        }
    }

    fn probe(&mut self, now: Time) {
        for path in &mut self.paths {
            let rtt = path.probe(now, self.rtt_noise);
            if let Some(rtt) = rtt {
                self.rtt.entry(path.user.clone()).or_default().insert(path.node.clone(), rtt);
            }
            let (user, node) = (path.user.clone(), path.node.clone());
            self.controller.handle(now, Event::RttMeasured { user, node, rtt });
        }
    }

    fn measure_load(&mut self, now: Time) {
        for node in &self.scenario.nodes {
            let load = measure::load(self.scenario, self.load_model, &self.placement, node, now);
            self.load.insert(node.name.clone(), load);
            self.controller.handle(now, Event::LoadMeasured { node: node.name.clone(), load: Some(load) });
        }
    }

    fn sample(&mut self, at: Time) {
        let (rtt, load, placement) = (self.rtt.clone(), self.load.clone(), self.placement.clone());
        self.samples.push(Sample { at, rtt, load, placement, gap_ms: BTreeMap::new() });
    }

    fn poll(&mut self, now: Time, kernel: &mut Kernel<Happening>) {
        for output in self.controller.poll(now) {
            match output {
                Output::Decided(decided) => self.decided.push(decided),
                Output::Migrate(order) => {
                    let memory = self.scenario.workload(order.workload.as_str()).map(|w| w.memory).unwrap_or_default();
                    let cost = self.cost_model.stop_copy(memory);
                    let after = |ms: f64| now + scale(Duration::from_secs_f64(ms.max(0.0) / 1e3), self.speed);
                    kernel.schedule(after(cost.until_switched_ms()), Happening::Switched(order.id));
                    kernel.schedule(after(cost.total_ms()), Happening::Ended(order.id));
                    self.in_flight.insert(order.id, (order, now, cost));
                }
            }
        }
    }

    fn ended(&mut self, now: Time, id: MigrationId) {
        let Some((order, start, cost)) = self.in_flight.remove(&id) else { return };
        let outcome = Outcome::Done;
        self.controller.handle(now, Event::MigrationEnded { id, outcome });
        self.migrations.push(MigrationRecord {
            id,
            workload: order.workload,
            from: order.from,
            to: order.to,
            strategy: Strategy::StopCopy,
            strategy_why: None,
            rounds: Vec::new(),
            reason: order.reason,
            start,
            freeze_ms: cost.freeze_ms(),
            gap_ms: None,
            total_ms: cost.total_ms(),
            phases: cost.phases,
            bytes: cost.bytes,
            wire_bytes: None,
            outcome,
            error: None,
        });
    }
}

fn again(kernel: &mut Kernel<Happening>, at: Time, end: Time, happening: Happening) {
    if at <= end {
        kernel.schedule(at, happening);
    }
}

fn scale(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}
