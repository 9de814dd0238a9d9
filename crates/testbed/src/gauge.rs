//! The latest of everything that is measured, for samples and for whoever watches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use godwit_control::{Decided, Order, Verdict};
use godwit_migration::Progress;
use godwit_model::{Bytes, ClientSummary, Decision, Load, NodeName, Phase, Rtt, Sample, Time, UserName, WorkloadName};
use godwit_probe::Measurement;
use godwit_scenario::Scenario;
use godwit_traffic::Client;

use crate::live::{Live, LiveClient, LiveNode, LiveSent, LiveWorkload};
use crate::world::Testbed;

type Placement = BTreeMap<WorkloadName, NodeName>;

/// See the module.
pub(crate) struct Gauge {
    testbed: String,
    scenario: String,
    policy: String,
    speed: f64,
    duration_s: Option<f64>,
    nodes: Vec<NodeName>,
    workloads: Vec<(WorkloadName, String, Option<String>)>,
    clients: BTreeMap<(UserName, WorkloadName), Client>,
    rtt: BTreeMap<UserName, BTreeMap<NodeName, Rtt>>,
    load: BTreeMap<NodeName, Load>,
    migrating: BTreeMap<WorkloadName, (NodeName, Phase)>,
    sent: BTreeMap<WorkloadName, LiveSent>,
    gone: BTreeSet<WorkloadName>,
    decisions: BTreeMap<WorkloadName, (Decision, Verdict)>,
    samples: Vec<Sample>,
    sample_every: Duration,
    next_sample: Time,
    sampled: Instant,
}

impl Gauge {
    pub(crate) fn new(
        testbed: &Testbed,
        scenario: &Scenario,
        policy: &str,
        speed: f64,
        standing: bool,
        sample_every: Duration,
        clients: BTreeMap<(UserName, WorkloadName), Client>,
    ) -> Self {
        let addresses = |name: &WorkloadName| {
            let v6 = testbed.service_address_v6(name).map(|at| at.to_string());
            (name.clone(), testbed.service_address(name).to_string(), v6)
        };
        Self {
            testbed: testbed.name().to_string(),
            scenario: scenario.name.clone(),
            policy: policy.to_owned(),
            speed,
            duration_s: (!standing).then_some(scenario.duration.as_secs_f64()),
            nodes: scenario.nodes.iter().map(|n| n.name.clone()).collect(),
            workloads: scenario.workloads.iter().map(|w| addresses(&w.name)).collect(),
            clients,
            rtt: BTreeMap::new(),
            load: BTreeMap::new(),
            migrating: BTreeMap::new(),
            sent: BTreeMap::new(),
            gone: BTreeSet::new(),
            decisions: BTreeMap::new(),
            samples: Vec::new(),
            sample_every,
            next_sample: Time::ZERO,
            sampled: Instant::now(),
        }
    }

    pub(crate) fn measured(&mut self, node: &NodeName, measured: &Measurement) {
        let of_user = self.rtt.entry(measured.user.clone()).or_default();
        match measured.smoothed {
            Some(rtt) => drop(of_user.insert(node.clone(), rtt)),
            None => drop(of_user.remove(node)),
        }
    }

    pub(crate) fn loaded(&mut self, node: &NodeName, load: Option<Load>) {
        match load {
            Some(load) => drop(self.load.insert(node.clone(), load)),
            None => drop(self.load.remove(node)),
        }
    }

    pub(crate) fn decided(&mut self, decided: &Decided) {
        for (decision, verdict) in &decided.decisions {
            self.decisions.insert(decision.workload.clone(), (decision.clone(), verdict.clone()));
        }
    }

    pub(crate) fn moving(&mut self, order: &Order) {
        self.entered(order, Phase::Preflight);
    }

    pub(crate) fn entered(&mut self, order: &Order, phase: Phase) {
        self.migrating.insert(order.workload.clone(), (order.to.clone(), phase));
    }

    /// Its copying went on.
    pub(crate) fn copied(&mut self, order: &Order, progress: Progress) {
        let none = LiveSent { rounds: 0, bytes: Bytes(0), expected: Bytes(0) };
        let sent = self.sent.entry(order.workload.clone()).or_insert(none);
        match progress {
            Progress::Copied(_) => sent.rounds += 1,
            Progress::Sent { bytes, expected } => (sent.bytes, sent.expected) = (bytes, expected),
            Progress::Entered(_) | Progress::Left(_) | Progress::RollingBack => {}
        }
    }

    pub(crate) fn ended(&mut self, order: &Order) {
        self.migrating.remove(&order.workload);
        self.sent.remove(&order.workload);
    }

    /// All its processes have ended; false when that was known.
    pub(crate) fn gone(&mut self, workload: &WorkloadName) -> bool {
        self.gone.insert(workload.clone())
    }

    /// It was restored.
    pub(crate) fn back(&mut self, workload: &WorkloadName) {
        self.gone.remove(workload);
    }

    /// The longest silence (ms) that a client of the workload saw between two moments.
    pub(crate) fn gap_ms(&self, workload: &WorkloadName, from: Instant, to: Instant) -> Option<f64> {
        let of_workload = self.clients.iter().filter(|((_, served), _)| served == workload);
        let gaps = of_workload.filter_map(|(_, client)| client.worst_gap_between(from, to));
        gaps.map(|gap| gap.len().as_secs_f64() * 1e3).max_by(f64::total_cmp)
    }

    /// When the next sample is due.
    pub(crate) fn next_sample(&self) -> Time {
        self.next_sample
    }

    /// Takes a sample if one is due. Those that were missed (a machine that stood still) are not made up for.
    pub(crate) fn sample(&mut self, now: Time, placement: &Placement) {
        if now < self.next_sample {
            return;
        }
        let every = (self.sample_every.as_micros() as u64).max(1);
        self.next_sample = Time::from_micros((now.micros() / every + 1) * every);
        let moment = Instant::now();
        let since = std::mem::replace(&mut self.sampled, moment);
        let mut gap_ms: BTreeMap<UserName, f64> = BTreeMap::new();
        for ((user, _), client) in &self.clients {
            if let Some(gap) = client.worst_gap_between(since, moment) {
                let worst = gap_ms.entry(user.clone()).or_default();
                *worst = worst.max(gap.len().as_secs_f64() * 1e3);
            }
        }
        self.samples.push(Sample {
            at: now,
            rtt: self.rtt.clone(),
            load: self.load.clone(),
            placement: placement.clone(),
            gap_ms,
        });
    }

    pub(crate) fn take_samples(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }

    pub(crate) fn live(&self, at: Time, placement: &Placement, agent_runs: impl Fn(&NodeName) -> bool) -> Live {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Live {
            testbed: self.testbed.clone(),
            scenario: self.scenario.clone(),
            policy: self.policy.clone(),
            at,
            duration_s: self.duration_s,
            speed: self.speed,
            nodes: self
                .nodes
                .iter()
                .map(|name| LiveNode {
                    name: name.clone(),
                    agent: agent_runs(name),
                    load: self.load.get(name).copied(),
                    rtt_ms: self
                        .rtt
                        .iter()
                        .filter_map(|(user, nodes)| Some((user.clone(), *nodes.get(name)?)))
                        .collect(),
                })
                .collect(),
            workloads: self
                .workloads
                .iter()
                .filter_map(|(name, service, service_v6)| {
                    Some(LiveWorkload {
                        name: name.clone(),
                        node: placement.get(name)?.clone(),
                        running: !self.gone.contains(name),
                        service: service.clone(),
                        service_v6: service_v6.clone(),
                        migrating: self.migrating.get(name).cloned(),
                        sent: self.sent.get(name).copied(),
                        decision: self.decisions.get(name).cloned(),
                    })
                })
                .collect(),
            clients: self
                .clients
                .iter()
                .map(|((user, workload), client)| {
                    let seen = client.snapshot();
                    LiveClient {
                        user: user.clone(),
                        workload: workload.clone(),
                        silence_ms: ms(seen.silence),
                        worst_gap_ms: ms(seen.worst_gap),
                        received: seen.received,
                        broken: seen.broken,
                        harm: seen.harm,
                    }
                })
                .collect(),
        }
    }

    /// Ends the clients; what each saw.
    pub(crate) fn finish_clients(&mut self) -> Vec<ClientSummary> {
        let clients = std::mem::take(&mut self.clients);
        let ended = clients.into_iter().filter_map(|((user, workload), client)| match client.finish() {
            Ok(report) => Some(report.summary(user, workload)),
            Err(error) => {
                tracing::error!(%user, %workload, %error, "the client has no report");
                None
            }
        });
        ended.collect()
    }
}
