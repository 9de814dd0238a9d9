//! A run on the testbed: the scenario moves the users and loads the nodes, probes and clients measure, the control loop
//! decides, and the engine moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use godwit_control::{ControlConfig, Controller, Decided, Event, Order, Output, account};
use godwit_migration::{Cancel, Ended, Progress};
use godwit_model::{
    Bandwidth, MigrationId, MigrationRecord, NodeName, Outcome, Phase, RunRecord, StrategyChoice, Time, UserName,
    WorkloadName, WorkloadSummary,
};
use godwit_policy::Policy;
use godwit_probe::{Measurement, ProbeConfig, Prober, RunningProber};
use godwit_scenario::Scenario;
use godwit_traffic::{Client, ClientConfig};

use crate::checkpoint::{self, NotDone, RestoreCheckpoint, Restored, TakeCheckpoint, Taken, Window};
use crate::choose::Chosen;
use crate::error::TestbedError;
use crate::gauge::Gauge;
use crate::live::{Live, Observer, RunEvent};
use crate::remote::{self, Ask, Asked, Reply};
use crate::schedule::{Change, Schedule};
use crate::stop::Stop;
use crate::stress::Stressers;
use crate::world::Testbed;

/// How often the live state is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// How often loads are measured.
const LOAD_EVERY: Duration = Duration::from_secs(1);
/// How often a stop is looked for, at the least.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);
/// How long after a migration its gap is settled: the client must have had answers again.
const GAP_SETTLES: Duration = Duration::from_millis(1500);
/// How often it is told how far a checkpoint is.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// When more than one packet in so many is late, it is said.
const LATE_ONE_IN: u64 = 50;
/// How long before the freeze and after the switch a silence still belongs to the migration.
const GAP_MARGIN: Duration = Duration::from_millis(100);

/// How a run goes.
pub struct DriveOptions {
    /// Who decides.
    pub policy: Box<dyn Policy>,
    /// Seconds of the scenario a second of the wall clock.
    pub speed: f64,
    /// How workloads move.
    pub strategy: StrategyChoice,
    /// Noted in the summary; nothing on a testbed is random by its own doing.
    pub seed: u64,
    /// Stay at the scenario's first instant, without load, until stopped.
    pub standing: bool,
    /// How often a sample is taken, in the scenario's time.
    pub sample_every: Duration,
}

/// What a run was.
#[derive(Debug)]
pub struct Run {
    /// Summary and samples.
    pub record: RunRecord,
    /// Every round of decisions.
    pub decided: Vec<Decided>,
    /// It was stopped before its end.
    pub interrupted: bool,
}

/// A message to the run's thread.
enum Message {
    Measured(NodeName, Measurement),
    Progress(MigrationId, Progress),
    Ended(MigrationId, Chosen, Ended),
    Asked(Asked),
    Taken(WorkloadName, Sender<Reply>, Result<(Taken, Option<Window>), NotDone>),
    Restored(Vec<WorkloadName>, Sender<Reply>, Result<Restored, NotDone>),
}

/// A checkpoint that is written and whose gap is not known yet.
struct SettlingCheckpoint {
    taken: Taken,
    window: Window,
    asker: Sender<Reply>,
}

/// A migration under way.
struct Moving {
    order: Order,
    start: Time,
    cancel: Cancel,
    phase: Phase,
    /// Whoever wants to know how it goes.
    askers: Vec<Sender<Reply>>,
}

/// A migration that is over and whose gap is not known yet.
struct Settling {
    record: MigrationRecord,
    window: Option<(Instant, Instant)>,
    at: Instant,
    askers: Vec<Sender<Reply>>,
}

struct Driver<'scope, 'env, 't> {
    scope: &'scope thread::Scope<'scope, 'env>,
    testbed: &'env Testbed,
    scenario: &'t Scenario,
    speed: f64,
    standing: bool,
    strategy: StrategyChoice,
    start: Instant,
    controller: Controller,
    gauge: Gauge,
    sender: Sender<Message>,
    moving: BTreeMap<MigrationId, Moving>,
    settling: Vec<Settling>,
    /// Workloads and copies that a checkpoint is taken or restored of.
    busy: BTreeMap<WorkloadName, Stop>,
    /// What the policy ordered meanwhile.
    waiting: Vec<Order>,
    settling_checkpoints: Vec<SettlingCheckpoint>,
    stress: BTreeMap<usize, Stressers>,
    decided: Vec<Decided>,
    migrations: Vec<MigrationRecord>,
    down: bool,
    dead: BTreeSet<NodeName>,
    observer: &'t mut dyn Observer,
}

/// Runs the scenario on the testbed, from its start to its end or until stopped.
pub fn drive(
    testbed: &Testbed,
    scenario: &Scenario,
    options: DriveOptions,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Run, TestbedError> {
    let (sender, receiver) = mpsc::channel();
    let deliver = sender.clone();
    // Asks may come from the first moment on; they are answered when the loop turns.
    let _listener = remote::listen(testbed.name(), move |asked| _ = deliver.send(Message::Asked(asked)))?;

    // Every link has its delay before the first probe is sent.
    let mut schedule = Schedule::new(scenario, options.standing);
    for user in &scenario.users {
        for (node, trajectory) in &user.rtt {
            testbed.network().set_rtt(&user.name, node, trajectory.at(Time::ZERO))?;
        }
    }
    let clients = start_clients(testbed, scenario)?;
    let _probers = start_probers(testbed, scenario, &sender)?;
    let config = ControlConfig::for_run(scenario.control.interval, scenario.control.cooldown, options.speed);
    let (seed, speed, sample_every) = (options.seed, options.speed, options.sample_every);
    thread::scope(|scope| {
        let mut driver = Driver {
            scope,
            testbed,
            scenario,
            speed,
            standing: options.standing,
            strategy: options.strategy,
            start: Instant::now(),
            gauge: Gauge::new(testbed, scenario, options.policy.name(), speed, options.standing, sample_every, clients),
            controller: Controller::new(config, options.policy),
            sender,
            moving: BTreeMap::new(),
            settling: Vec::new(),
            busy: BTreeMap::new(),
            waiting: Vec::new(),
            settling_checkpoints: Vec::new(),
            stress: BTreeMap::new(),
            decided: Vec::new(),
            migrations: Vec::new(),
            down: false,
            dead: BTreeSet::new(),
            observer,
        };
        driver.introduce();
        let ran = driver.turn(&mut schedule, &receiver, stop);
        driver.stress.clear();
        ran.map(|interrupted| driver.finish(seed, interrupted))
    })
}

/// Tells who asked how far a checkpoint is, ten times a second; false when nobody listens any more, or at a stop.
fn telling(reply: Sender<Reply>, stop: Stop) -> impl FnMut(u64, u64) -> bool {
    let mut next = Instant::now();
    move |done, total| {
        if Instant::now() >= next {
            next = Instant::now() + TELL_EVERY;
            if reply.send(Reply::Bytes { done, total }).is_err() {
                stop.ask();
            }
        }
        !stop.is_asked()
    }
}

fn start_clients(
    testbed: &Testbed,
    scenario: &Scenario,
) -> Result<BTreeMap<(UserName, WorkloadName), Client>, TestbedError> {
    let mut clients = BTreeMap::new();
    for workload in scenario.workloads.iter().filter(|w| testbed.container(&w.name).is_counting) {
        for user in &workload.users {
            let spoken = scenario.user(user.as_str()).map(|user| (user.protocol, user.family));
            let (protocol, family) = spoken.unwrap_or_default();
            let address = testbed.service_address_by(family, &workload.name);
            let config = ClientConfig { protocol, ..ClientConfig::default() };
            let client = (testbed.network().user_netns(user)).enter(|| Client::connect(address, config))?;
            let client = client.map_err(|source| TestbedError::Client { user: user.clone(), source })?;
            clients.insert((user.clone(), workload.name.clone()), client);
        }
    }
    Ok(clients)
}

fn start_probers(
    testbed: &Testbed,
    scenario: &Scenario,
    sender: &Sender<Message>,
) -> Result<Vec<RunningProber>, TestbedError> {
    let mut probers = Vec::new();
    for node in &scenario.nodes {
        let targets = scenario.users.iter().map(|u| (u.name.clone(), testbed.network().user_address(&u.name).into()));
        let mut config = ProbeConfig::new(targets);
        config.interval = scenario.probe.interval;
        let (name, sender) = (node.name.clone(), sender.clone());
        let sink = move |measured| _ = sender.send(Message::Measured(name.clone(), measured));
        let prober = (testbed.network().node(&node.name).netns).enter(|| Prober::spawn(config, sink))?;
        probers.push(prober.map_err(|source| TestbedError::Probe { node: node.name.clone(), source })?);
    }
    Ok(probers)
}

impl<'scope, 'env> Driver<'scope, 'env, '_> {
    fn now(&self) -> Time {
        Time::from_secs(self.start.elapsed().as_secs_f64() * self.speed)
    }

    /// When an instant of the scenario is, from now on, by the wall clock.
    fn until(&self, at: Time) -> Duration {
        let due = Duration::from_secs_f64(at.secs() / self.speed);
        due.saturating_sub(self.start.elapsed())
    }

    fn introduce(&mut self) {
        for node in &self.scenario.nodes {
            self.controller.handle(Time::ZERO, Event::NodeReady { node: node.name.clone(), ready: true });
        }
        for workload in &self.scenario.workloads {
            let event = Event::WorkloadAt {
                workload: workload.name.clone(),
                kind: workload.kind,
                node: self.testbed.placement()[&workload.name].clone(),
                users: workload.users.clone(),
            };
            self.controller.handle(Time::ZERO, event);
        }
    }

    /// The loop; true when it was stopped before its end.
    fn turn(
        &mut self,
        schedule: &mut Schedule<'_>,
        messages: &Receiver<Message>,
        stop: &Stop,
    ) -> Result<bool, TestbedError> {
        let end = self.scenario.end();
        let (mut next_show, mut next_load) = (Instant::now(), Instant::now());
        let mut stopping = false;
        loop {
            let now = self.now();
            let over = !self.standing && now >= end;
            if (stop.is_asked() || self.down) && !stopping {
                stopping = true;
                self.moving.values().for_each(|moving| moving.cancel.cancel());
                self.busy.values().for_each(Stop::ask);
            }
            if (stopping || over)
                && self.moving.is_empty()
                && self.busy.is_empty()
                && (stopping || self.settling.is_empty())
            {
                return Ok(stopping && !over && !self.standing);
            }
            if !stopping && !over {
                while let Some(change) = schedule.pop(now) {
                    self.apply(change, schedule)?;
                }
                for output in self.controller.poll(now) {
                    self.carry_out(output, now);
                }
            }
            if Instant::now() >= next_load {
                next_load = Instant::now() + LOAD_EVERY;
                self.measure_loads(now);
                self.look_after_workloads(now);
                self.look_after_agents(now);
            }
            self.settle();
            self.gauge.sample(now.min(end), &self.testbed.placement());
            if Instant::now() >= next_show {
                next_show = Instant::now() + SHOW_EVERY;
                self.show(now);
            }

            let next_change = schedule.next().filter(|_| !over).map(|at| self.until(at));
            let wait = [
                next_change.unwrap_or(LOOK_UP_EVERY),
                self.until(self.controller.next_poll()),
                self.until(self.gauge.next_sample()),
                LOOK_UP_EVERY,
            ]
            .into_iter()
            .min()
            .unwrap_or(LOOK_UP_EVERY);
            // At least a millisecond: at the very end everything is due for ever.
            match messages.recv_timeout(wait.max(Duration::from_millis(1))) {
                Ok(message) => self.receive(message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn apply(&mut self, change: Change, schedule: &Schedule<'_>) -> Result<(), TestbedError> {
        match change {
            Change::Rtt { user, node, rtt } => self.testbed.network().set_rtt(&user, &node, rtt)?,
            Change::StressBegins(number) => {
                let stress = schedule.stress(number);
                let stressers = Stressers::start(self.testbed.node(&stress.node), number, stress)?;
                self.stress.insert(number, stressers);
                self.tell(RunEvent::Note(format!(
                    "{} gets {} stresser(s): cpu {:.0} %, memory {:.0} %",
                    stress.node,
                    stress.stressers,
                    stress.total_cpu() * 100.0,
                    stress.memory * 100.0
                )));
            }
            Change::StressEnds(number) => {
                if self.stress.remove(&number).is_some() {
                    self.tell(RunEvent::Note(format!("{} has its stressers off", schedule.stress(number).node)));
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output, now: Time) {
        match output {
            Output::Decided(decided) => {
                self.gauge.decided(&decided);
                self.decided.push(decided);
            }
            Output::Migrate(order) if self.busy.contains_key(&order.workload) => self.waiting.push(order),
            Output::Migrate(order) if self.testbed.checkpoints().stopped_with(&order.workload).is_some() => {
                // There is nothing to move.
                self.controller.handle(now, Event::MigrationEnded { id: order.id, outcome: Outcome::RolledBack });
            }
            Output::Migrate(order) => self.begin(order, self.strategy, self.scenario.migration.bandwidth, now, None),
        }
    }

    fn begin(
        &mut self,
        order: Order,
        strategy: StrategyChoice,
        bandwidth: Option<Bandwidth>,
        now: Time,
        asker: Option<Sender<Reply>>,
    ) {
        self.tell(RunEvent::Started(order.clone()));
        self.gauge.moving(&order);
        let cancel = Cancel::default();
        let (testbed, sender, job, asked) = (self.testbed, self.sender.clone(), order.clone(), cancel.clone());
        self.scope.spawn(move || {
            let id = job.id;
            let mut observe = |progress| _ = sender.send(Message::Progress(id, progress));
            let (chosen, ended) = testbed.migrate(&job, strategy, bandwidth, &asked, &mut observe);
            let _ = sender.send(Message::Ended(id, chosen, ended));
        });
        self.moving.insert(
            order.id,
            Moving { order, start: now, cancel, phase: Phase::Preflight, askers: asker.into_iter().collect() },
        );
    }

    fn receive(&mut self, message: Message) {
        let now = self.now();
        match message {
            Message::Measured(node, measured) => {
                self.gauge.measured(&node, &measured);
                let event = Event::RttMeasured { user: measured.user, node, rtt: measured.smoothed };
                self.controller.handle(now, event);
            }
            Message::Progress(id, progress) => self.progressed(id, progress),
            Message::Ended(id, chosen, ended) => self.ended(id, chosen, ended, now),
            Message::Asked((ask, reply)) => self.answer(ask, reply, now),
            Message::Taken(name, asker, result) => {
                self.free(&name, now);
                self.taken(asker, result, now);
            }
            Message::Restored(names, asker, result) => {
                // Known to run again before anything that waited for it begins.
                self.restored(asker, result, now);
                names.iter().for_each(|name| self.free(name, now));
            }
        }
    }

    /// A checkpoint of it is over: what was ordered meanwhile begins.
    fn free(&mut self, name: &WorkloadName, now: Time) {
        self.busy.remove(name);
        let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|order| order.workload == *name);
        self.waiting = waiting;
        let due: Vec<Order> = due;
        due.into_iter().for_each(|order| self.carry_out(Output::Migrate(order), now));
    }

    /// Why nothing else can be done with it now.
    fn is_busy(&self, name: &WorkloadName) -> Option<String> {
        if self.busy.contains_key(name) {
            return Some(format!("a checkpoint of {name} is being taken or restored; try again when it is there"));
        }
        let moves = self.moving.values().any(|moving| moving.order.workload == *name);
        moves.then(|| format!("{name} is moving; try again when it is there"))
    }

    fn take(&mut self, ask: TakeCheckpoint, reply: Sender<Reply>) {
        if let Some(why) = self.is_busy(&ask.workload) {
            let _ = reply.send(Reply::Refused { why });
            return;
        }
        let (testbed, sender, stop) = (self.testbed, self.sender.clone(), Stop::default());
        self.busy.insert(ask.workload.clone(), stop.clone());
        self.scope.spawn(move || {
            let mut told = telling(reply.clone(), stop);
            let result = checkpoint::take(testbed, &ask, &mut told);
            let _ = sender.send(Message::Taken(ask.workload, reply, result));
        });
    }

    fn restore(&mut self, ask: RestoreCheckpoint, reply: Sender<Reply>) {
        // Which workload it is stands in the file: until that is read it may be any.
        let names: Vec<WorkloadName> = match &ask.copy {
            Some(copy) => vec![copy.clone()],
            None => self.scenario.workloads.iter().map(|workload| workload.name.clone()).collect(),
        };
        if let Some(why) = names.iter().find_map(|name| self.is_busy(name)) {
            let _ = reply.send(Reply::Refused { why });
            return;
        }
        let (testbed, sender, stop) = (self.testbed, self.sender.clone(), Stop::default());
        self.busy.extend(names.iter().map(|name| (name.clone(), stop.clone())));
        self.scope.spawn(move || {
            let mut told = telling(reply.clone(), stop);
            let result = checkpoint::restore(testbed, &ask, &mut told);
            let _ = sender.send(Message::Restored(names, reply, result));
        });
    }

    fn taken(&mut self, asker: Sender<Reply>, result: Result<(Taken, Option<Window>), NotDone>, now: Time) {
        match result {
            Ok((taken, window)) => {
                let what = if taken.stopped { "; it was ended with it" } else { "" };
                let file = taken.path.display();
                self.tell(RunEvent::Note(format!("{}: checkpoint written to {file}{what}", taken.workload)));
                if taken.stopped {
                    self.gauge.gone(&taken.workload);
                }
                match window {
                    Some(window) => self.settling_checkpoints.push(SettlingCheckpoint { taken, window, asker }),
                    None => _ = asker.send(Reply::Taken { taken: Box::new(taken) }),
                }
            }
            Err(why) => self.not_done(&asker, why, now),
        }
    }

    fn restored(&mut self, asker: Sender<Reply>, result: Result<Restored, NotDone>, now: Time) {
        match result {
            Ok(restored) => {
                self.tell(RunEvent::Note(format!("{} is restored on {}", restored.workload, restored.node)));
                if let Some(workload) = self.scenario.workloads.iter().find(|w| w.name == restored.workload) {
                    self.gauge.back(&workload.name);
                    let event = Event::WorkloadAt {
                        workload: workload.name.clone(),
                        kind: workload.kind,
                        node: restored.node.clone(),
                        users: workload.users.clone(),
                    };
                    self.controller.handle(now, event);
                }
                let _ = asker.send(Reply::Restored { restored: Box::new(restored) });
            }
            Err(why) => self.not_done(&asker, why, now),
        }
    }

    fn not_done(&mut self, asker: &Sender<Reply>, why: NotDone, _now: Time) {
        let _ = asker.send(match why {
            NotDone::Refused(why) => Reply::Refused { why },
            NotDone::Failed(why) => Reply::Failed { why },
        });
    }

    fn progressed(&mut self, id: MigrationId, progress: Progress) {
        let Some(moving) = self.moving.get_mut(&id) else { return };
        let reply = match progress {
            Progress::Entered(phase) => {
                moving.phase = phase;
                self.gauge.entered(&moving.order, phase);
                Reply::Phase { phase }
            }
            Progress::Left(_) => return,
            Progress::Copied(round) => Reply::Round { round },
            Progress::Sent { bytes, expected } => Reply::Sent { bytes, expected },
            Progress::RollingBack => Reply::RollingBack,
        };
        self.gauge.copied(&moving.order, progress);
        for asker in &moving.askers {
            let _ = asker.send(reply.clone());
        }
        if let Progress::Entered(phase) = progress {
            self.tell(RunEvent::Phase(id, phase));
        }
    }

    fn ended(&mut self, id: MigrationId, chosen: Chosen, ended: Ended, now: Time) {
        let Some(moving) = self.moving.remove(&id) else { return };
        self.controller.handle(now, Event::MigrationEnded { id, outcome: ended.outcome });
        self.gauge.ended(&moving.order);
        let record = MigrationRecord {
            id,
            workload: moving.order.workload,
            from: moving.order.from,
            to: moving.order.to,
            strategy: chosen.strategy,
            strategy_why: chosen.why,
            reason: moving.order.reason,
            start: moving.start,
            freeze_ms: ended.freeze_ms(),
            rounds: ended.rounds,
            phases: ended.phases,
            gap_ms: None,
            total_ms: ended.total.as_secs_f64() * 1e3,
            bytes: ended.bytes,
            wire_bytes: ended.wire_bytes,
            outcome: ended.outcome,
            error: ended.error,
        };
        self.tell(RunEvent::Ended(Box::new(record.clone())));
        let window = ended.freeze.map(|(from, to)| (from - GAP_MARGIN, to + GAP_MARGIN));
        self.settling.push(Settling { record, window, at: Instant::now() + GAP_SETTLES, askers: moving.askers });
    }

    /// Takes up the migrations and checkpoints whose gap is known by now.
    fn settle(&mut self) {
        let now = Instant::now();
        let is_settled = |s: &SettlingCheckpoint| s.window.1 + GAP_SETTLES <= now;
        while let Some(index) = self.settling_checkpoints.iter().position(is_settled) {
            let SettlingCheckpoint { mut taken, window, asker } = self.settling_checkpoints.swap_remove(index);
            let (from, to) = (window.0 - GAP_MARGIN, window.1 + GAP_MARGIN);
            taken.gap_ms = self.gauge.gap_ms(&taken.workload, from, to);
            let _ = asker.send(Reply::Taken { taken: Box::new(taken) });
        }
        while let Some(index) = self.settling.iter().position(|s| s.at <= now) {
            let Settling { mut record, window, askers, .. } = self.settling.swap_remove(index);
            record.gap_ms = window.and_then(|(from, to)| self.gauge.gap_ms(&record.workload, from, to));
            if let Some(gap) = record.gap_ms {
                self.tell(RunEvent::Gap(record.id, gap));
            }
            for asker in askers {
                let _ = asker.send(Reply::Ended { record: Box::new(record.clone()) });
            }
            self.migrations.push(record);
        }
    }

    fn answer(&mut self, ask: Ask, reply: Sender<Reply>, now: Time) {
        match ask {
            Ask::Status => {
                let live = Box::new(self.live(now));
                let _ = reply.send(Reply::Status { live });
            }
            Ask::Down => {
                let _ = reply.send(Reply::Ending);
                self.down = true;
            }
            Ask::Checkpoint(ask) => self.take(ask, reply),
            Ask::Restore(ask) => self.restore(ask, reply),
            Ask::Migrate { workload, .. } if self.busy.contains_key(&workload) => {
                let why = self.is_busy(&workload).unwrap_or_default();
                let _ = reply.send(Reply::Refused { why });
            }
            Ask::Migrate { workload, .. } if self.testbed.checkpoints().stopped_with(&workload).is_some() => {
                let why = format!(
                    "{workload} was ended with its checkpoint; bring it back with: godwit restore FILE --node NODE"
                );
                let _ = reply.send(Reply::Refused { why });
            }
            Ask::Migrate { workload, .. } if self.testbed.checkpoints().copy(&workload).is_some() => {
                let why = format!(
                    "{workload} is a restored copy, which stays where it is; take a checkpoint of it and restore that elsewhere"
                );
                let _ = reply.send(Reply::Refused { why });
            }
            Ask::Cancel { workload } => match self.moving.values_mut().find(|m| m.order.workload == workload) {
                Some(moving) => {
                    moving.cancel.cancel();
                    let _ = reply.send(Reply::Phase { phase: moving.phase });
                    moving.askers.push(reply);
                }
                None => {
                    let why = format!("{workload} is in no migration; godwit status says what moves");
                    let _ = reply.send(Reply::Refused { why });
                }
            },
            Ask::Migrate { workload, to, strategy, bandwidth } => {
                match self.controller.request(now, &workload, Some(&to)) {
                    Ok(order) => {
                        let bandwidth = bandwidth.or(self.scenario.migration.bandwidth);
                        self.begin(order, strategy, bandwidth, now, Some(reply));
                    }
                    Err(error) => {
                        let why = match std::error::Error::source(&error) {
                            Some(cause) => format!("{error}: {cause}"),
                            None => error.to_string(),
                        };
                        let _ = reply.send(Reply::Refused { why });
                    }
                }
            }
        }
    }

    fn measure_loads(&mut self, now: Time) {
        for node in self.testbed.nodes() {
            if !node.is_alive() {
                if self.dead.insert(node.name().clone()) {
                    let lost = format!("node {} is down: its first process has ended", node.name());
                    self.observer.event(now, &RunEvent::Warning(lost));
                    self.controller.handle(now, Event::NodeReady { node: node.name().clone(), ready: false });
                    self.gauge.loaded(node.name(), None);
                }
                continue;
            }
            let load = match node.measure_load() {
                Ok(load) => Some(load),
                Err(error) => {
                    tracing::warn!(node = %node.name(), %error, "no load");
                    None
                }
            };
            self.gauge.loaded(node.name(), load);
            self.controller.handle(now, Event::LoadMeasured { node: node.name().clone(), load });
        }
    }

    /// Says it when a workload has ended by itself. (One that moves is looked after by its migration.)
    fn look_after_workloads(&mut self, now: Time) {
        let placement = self.testbed.placement().clone();
        for (workload, node) in placement {
            let moves = self.moving.values().any(|moving| moving.order.workload == workload);
            let gone = self.testbed.container(&workload).ended(self.testbed.node(&node)).join(", ");
            let is_meant =
                self.busy.contains_key(&workload) || self.testbed.checkpoints().stopped_with(&workload).is_some();
            if !moves && !gone.is_empty() && !is_meant && self.gauge.gone(&workload) {
                let ended = format!("{gone} does not run any more: all its processes on {node} have ended");
                self.observer.event(now, &RunEvent::Warning(ended));
            }
        }
    }

    /// Says it when an agent has ended by itself; it has been started again.
    fn look_after_agents(&mut self, now: Time) {
        for node in self.testbed.agents_started_again() {
            let again = format!("the agent of {node} had ended, and was started again");
            self.observer.event(now, &RunEvent::Warning(again));
        }
    }

    fn show(&mut self, now: Time) {
        let live = self.live(now);
        self.observer.live(&live);
    }

    fn live(&self, now: Time) -> Live {
        let mut live = self.gauge.live(now, &self.testbed.placement(), |node| self.testbed.agent_runs(node));
        live.workloads.extend(self.testbed.checkpoints().live(|node| self.testbed.node(node)));
        live
    }

    fn tell(&mut self, event: RunEvent) {
        let now = self.now();
        self.observer.event(now, &event);
    }

    fn finish(mut self, seed: u64, interrupted: bool) -> Run {
        // Nobody will come back for what is held.
        for workload in self.testbed.checkpoints().stopped() {
            let network = self.testbed.network();
            for ip in network.service(&workload).ips() {
                let _ = network.hold.withdraw(ip);
            }
        }
        // Whoever waits for a gap that will not be settled any more gets the record without.
        for SettlingCheckpoint { taken, asker, .. } in self.settling_checkpoints.drain(..) {
            let _ = asker.send(Reply::Taken { taken: Box::new(taken) });
        }
        for settling in &mut self.settling {
            settling.at = Instant::now();
        }
        self.settle();
        let lateness = self.testbed.network().lateness();
        if lateness.late * LATE_ONE_IN > lateness.packets {
            self.tell(RunEvent::Warning(format!(
                "{} of {} packets left their link more than half a millisecond late, the worst by {:.0} ms: this machine is \
                 busy, and distances were that much longer than the scenario's",
                lateness.late,
                lateness.packets,
                lateness.worst.as_secs_f64() * 1e3
            )));
        }
        let end = self.now().min(if self.standing { self.now() } else { self.scenario.end() });
        let clients = self.gauge.finish_clients();
        let workloads = self.scenario.workloads.iter().map(|workload| WorkloadSummary {
            name: workload.name.clone(),
            kind: workload.kind,
            users: workload.users.clone(),
        });
        let facts = account::Facts {
            scenario: self.scenario.name.clone(),
            world: "testbed".into(),
            policy: self.controller.policy().name().to_owned(),
            policy_params: self.controller.policy().parameters(),
            seed,
            speed: self.speed,
            end,
            nodes: self.scenario.nodes.iter().map(|n| n.name.clone()).collect(),
            rtt_bound: self.scenario.rtt_bound,
            users: self.scenario.users.iter().map(|user| user.name.clone()).collect(),
            workloads: workloads.collect(),
        };
        self.migrations.sort_by_key(|m| m.id);
        let samples = self.gauge.take_samples();
        let summary = account::summary(&facts, &samples, self.migrations, clients);
        Run { record: RunRecord { summary, samples }, decided: self.decided, interrupted }
    }
}
