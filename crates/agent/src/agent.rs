//! The migrations of a node: who works on which, and which step is whose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_migration::{PartError, Told};
use godwit_model::{Bandwidth, Bytes};
use tokio::sync::mpsc;

use crate::config::AgentConfig;
use crate::note;
use crate::source::{SourceWork, illegal};
use crate::target::TargetWork;
use crate::wire::{CopyEvent, Migration, Open, Plans, Step, StepReply, StepRequest};
use crate::worker::Worker;

/// How long a status waits for somebody who is in the middle of a step.
const LOOK: Duration = Duration::from_millis(50);

type Result<T> = std::result::Result<T, PartError>;
type Work<W> = Result<W>;

/// All that an agent works on.
pub(crate) struct Agent {
    pub(crate) config: Arc<AgentConfig>,
    sources: Side<SourceWork>,
    targets: Side<TargetWork>,
}

/// One side's migrations by their id.
struct Side<W> {
    name: &'static str,
    open: Mutex<BTreeMap<u64, Entry<W>>>,
}

struct Entry<W> {
    worker: Worker<Work<W>>,
    migration: Migration,
    asked: Instant,
}

impl<W: 'static> Side<W> {
    fn new(name: &'static str) -> Self {
        Self { name, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Entry<W>>> {
        // Plain entries: whole even if a thread has panicked over them.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who works on a migration; a new one where nobody does.
    fn of(&self, migration: &Migration, make: impl FnOnce() -> Work<W> + Send + 'static) -> Result<Worker<Work<W>>> {
        let mut open = self.open();
        if let Some(entry) = open.get_mut(&migration.id) {
            entry.asked = Instant::now();
            return Ok(entry.worker.clone());
        }
        let name = format!("{}-{}", self.name, migration.id);
        let worker = Worker::start(&name, make).map_err(|e| PartError::caused_by("start to work", e))?;
        let entry = Entry { worker: worker.clone(), migration: migration.clone(), asked: Instant::now() };
        open.insert(migration.id, entry);
        Ok(worker)
    }

    async fn look_at_leases(&self, lease: Duration, is_over: fn(&mut W) -> bool) {
        let away: Vec<_> = (self.open().iter())
            .filter(|(_, entry)| entry.asked.elapsed() > lease)
            .map(|(id, entry)| (*id, entry.worker.clone()))
            .collect();
        for (id, worker) in away {
            if worker.run(move |work| work.as_mut().map_or(true, is_over)).await == Some(true) {
                tracing::warn!(id, side = self.name, "given up: no controller has asked for it any more");
                self.over(id);
            }
        }
    }

    async fn status(&self, told: fn(&W) -> &'static str, lease: Duration) -> Vec<Open> {
        let list: Vec<_> = (self.open().values())
            .map(|entry| (entry.worker.clone(), entry.migration.clone(), entry.asked.elapsed().as_secs_f64()))
            .collect();
        let mut all = Vec::new();
        for (worker, migration, idle_s) in list {
            let asked = worker.run(move |work| work.as_ref().map_or("cannot be worked on", told));
            let state = tokio::time::timeout(LOOK, asked).await.ok().flatten().unwrap_or("in the middle of a step");
            let mut state = state.to_owned();
            if idle_s > lease.as_secs_f64() {
                state.push_str("; its controller is away, it waits to be recovered");
            }
            all.push(Open { migration: Some(migration), side: self.name.into(), state, idle_s });
        }
        all
    }

    fn over(&self, id: u64) {
        self.open().remove(&id);
    }
}

fn flat<W, T>(work: &mut Work<W>, step: impl FnOnce(&mut W) -> Result<T>) -> Result<T> {
    match work {
        Ok(work) => step(work),
        Err(error) => Err(PartError::new(error.chain())),
    }
}

fn panicked<T>(answer: Option<Result<T>>) -> Result<T> {
    answer.unwrap_or_else(|| Err(PartError::new("the step panicked: this is a bug in Godwit, see the agent's log")))
}

fn nothing(_: ()) -> StepReply {
    StepReply::default()
}

impl Agent {
    pub(crate) fn new(config: AgentConfig) -> Self {
        Self { config: Arc::new(config), sources: Side::new("source"), targets: Side::new("target") }
    }

    /// Takes up what cannot wait for a controller: memory of which an agent that was killed had the only copy.
    pub(crate) fn take_up(&self) {
        for note in note::open(&self.config).into_iter().filter(|note| note.door.is_some()) {
            let migration = Migration { id: note.id, workload: note.workload, strategy: note.strategy };
            if let Err(error) = self.source(&migration) {
                tracing::warn!(id = note.id, error = error.chain(), "a migration is not taken up");
            }
        }
    }

    fn source(&self, migration: &Migration) -> Result<Worker<Work<SourceWork>>> {
        let (config, of) = (Arc::clone(&self.config), migration.clone());
        self.sources.of(migration, move || SourceWork::new(config, &of))
    }

    fn target(&self, migration: &Migration) -> Result<Worker<Work<TargetWork>>> {
        let (config, of) = (Arc::clone(&self.config), migration.clone());
        self.targets.of(migration, move || TargetWork::new(config, &of))
    }

    /// Does a step.
    pub(crate) async fn step(&self, request: StepRequest) -> StepReply {
        let failed = |e: PartError| StepReply { failure: Some(e.chain()), gone: e.is_gone(), ..StepReply::default() };
        self.tried(request).await.unwrap_or_else(failed)
    }

    async fn tried(&self, request: StepRequest) -> Result<StepReply> {
        let step = request.step();
        let Some(migration) = request.migration.clone() else { return Err(PartError::new("a step of no migration")) };
        let id = migration.id;
        match step {
            Step::SourcePreflight
            | Step::SourceStage
            | Step::SourceConnect
            | Step::SourceFreeze
            | Step::SourceDump
            | Step::SourceSend
            | Step::SourceDiscard
            | Step::SourceDrain
            | Step::SourceThaw => {
                let worker = self.source(&migration)?;
                let reply = source_step(&worker, step, request).await;
                if matches!(step, Step::SourceDrain | Step::SourceThaw) && reply.is_ok() {
                    self.sources.over(id);
                }
                reply
            }
            Step::TargetPreflight
            | Step::TargetStage
            | Step::TargetReceived
            | Step::TargetRestore
            | Step::TargetResume
            | Step::TargetSettle
            | Step::TargetAbort => {
                let worker = self.target(&migration)?;
                let reply = target_step(&worker, step, request).await;
                let lost = step == Step::TargetSettle && reply.as_ref().is_err_and(PartError::is_gone);
                if lost || (matches!(step, Step::TargetSettle | Step::TargetAbort) && reply.is_ok()) {
                    self.targets.over(id);
                }
                reply
            }
            Step::Unknown => {
                Err(PartError::new("this agent does not know that step: is it older than its controller?"))
            }
        }
    }

    /// Pre-copy; the events end with one that is done or a failure. Who does not listen any more ends it.
    pub(crate) fn copy(&self, request: StepRequest, events: mpsc::Sender<CopyEvent>) {
        let failure = |error: PartError| CopyEvent { failure: Some(error.chain()), ..CopyEvent::default() };
        let worker = match &request.migration {
            Some(migration) => self.source(migration),
            None => Err(PartError::new("pre-copy of no migration")),
        };
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                // The first event: there is room for it.
                let _ = events.try_send(failure(error));
                return;
            }
        };
        worker.ask(move |work| {
            let mut told = |told: Told| events.blocking_send(told.into()).is_ok();
            let result = flat(work, |work| work.precopy(&mut told));
            let last = result.map_or_else(failure, |()| CopyEvent { done: true, ..CopyEvent::default() });
            let _ = events.blocking_send(last);
        });
    }

    /// What is open here.
    pub(crate) async fn status(&self) -> Vec<Open> {
        let mut all = self.sources.status(SourceWork::told, self.lease()).await;
        all.extend(self.targets.status(TargetWork::told, self.lease()).await);
        for note in note::open(&self.config) {
            let known =
                |open: &Open| open.side == note.mark.side() && open.migration.as_ref().is_some_and(|m| m.id == note.id);
            if !all.iter().any(known) {
                let (side, state) = (note.mark.side().into(), note.mark.told().into());
                let migration = Migration { id: note.id, workload: note.workload, strategy: note.strategy };
                all.push(Open { migration: Some(migration), side, state, idle_s: 0.0 });
            }
        }
        all
    }

    fn lease(&self) -> Duration {
        Duration::from_secs(self.config.lease_s)
    }

    /// Gives up what was prepared for a controller that has been away for longer than the lease.
    pub(crate) async fn look_at_leases(&self) {
        self.sources.look_at_leases(self.lease(), SourceWork::lease_is_over).await;
        self.targets.look_at_leases(self.lease(), TargetWork::lease_is_over).await;
    }
}

async fn source_step(worker: &Worker<Work<SourceWork>>, step: Step, request: StepRequest) -> Result<StepReply> {
    let simple = match step {
        Step::SourceStage => {
            let beside = request.beside;
            let staged = worker.run(move |work| flat(work, |work| work.stage(beside))).await;
            let (plans, beside) = panicked(staged)?;
            let plan = Plans::of(plans).to_json();
            return Ok(StepReply { plan, beside, ..StepReply::default() });
        }
        Step::SourceDump => {
            let dumped = worker
                .begin(|work, answer| {
                    let dumped = flat(work, |work| Ok((work.dump()?, work.to_send())));
                    let whole = dumped.is_ok();
                    let _ = answer.send(dumped);
                    if let (true, Ok(work)) = (whole, work) {
                        work.send_ahead();
                    }
                })
                .await;
            let (round, to_send) = panicked(dumped)?;
            return Ok(StepReply { round: round.map(Into::into), bytes: to_send.0, ..StepReply::default() });
        }
        Step::SourceSend => {
            let sent = panicked(worker.run(|work| flat(work, SourceWork::send)).await)?;
            return Ok(StepReply { bytes: sent.bytes.0, wire: sent.wire.0, ..StepReply::default() });
        }
        Step::SourceConnect => {
            let (meeting, bandwidth) = (request.meeting.unwrap_or_default(), Bandwidth::new(request.bandwidth));
            let connected = worker.run(move |work| flat(work, |work| work.connect(&meeting, bandwidth))).await;
            return panicked(connected).map(nothing);
        }
        Step::SourcePreflight => SourceWork::preflight,
        Step::SourceFreeze => SourceWork::freeze,
        Step::SourceDiscard => SourceWork::discard,
        Step::SourceDrain => SourceWork::drain,
        Step::SourceThaw => SourceWork::thaw,
        _ => return Err(illegal("a step of the target")),
    };
    panicked(worker.run(move |work| flat(work, simple)).await).map(nothing)
}

async fn target_step(worker: &Worker<Work<TargetWork>>, step: Step, request: StepRequest) -> Result<StepReply> {
    let simple = match step {
        Step::TargetPreflight => {
            let needs = Bytes(request.needs);
            let checked = worker.run(move |work| flat(work, |work| work.preflight(needs))).await;
            return Ok(StepReply { beside: panicked(checked)?, ..StepReply::default() });
        }
        Step::TargetStage => {
            let StepRequest { plan, source, beside, .. } = request;
            let plans = Plans::read(&plan)?;
            let meeting =
                panicked(worker.run(move |work| flat(work, |work| work.stage(&plans, &source, beside))).await)?;
            return Ok(StepReply { meeting: Some(meeting), ..StepReply::default() });
        }
        Step::TargetReceived => TargetWork::received,
        Step::TargetRestore => TargetWork::restore,
        Step::TargetResume => TargetWork::resume,
        Step::TargetSettle => TargetWork::settle,
        Step::TargetAbort => TargetWork::abort,
        _ => return Err(illegal("a step of the source")),
    };
    panicked(worker.run(move |work| flat(work, simple)).await).map(nothing)
}
