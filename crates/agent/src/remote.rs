//! The engine's two runtimes, each behind an agent.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use godwit_migration::{PartError, Request, Source, Target, Told};
use godwit_model::{Bandwidth, Bytes, CopyRound};

use crate::client::AgentClient;
use crate::files::FILES_LIMIT;
use crate::wire::{Migration, Step, StepReply, StepRequest};
use crate::{FREEZE_LIMIT, STAGE_LIMIT};

/// An agent has limits of its own; one that does not answer when these are over is gone.
const GRACE: Duration = Duration::from_secs(5);

/// What one side has said for the other.
#[derive(Debug, Default)]
struct Shared {
    /// The source's, on its way to the target.
    plan: String,
    /// Memory beside the images of a stop-copy: whether the target could keep it; then, whether it will come.
    beside: bool,
}

/// The source of a migration, on a node that has an agent.
pub struct RemoteSource {
    agent: Arc<AgentClient>,
    migration: Migration,
    shared: Rc<RefCell<Shared>>,
    to_send: Bytes,
    /// What the sending came to on the wire.
    wire: Option<Bytes>,
}

/// The target of a migration, on a node that has an agent.
pub struct RemoteTarget {
    agent: Arc<AgentClient>,
    source: Arc<AgentClient>,
    migration: Migration,
    needs: Bytes,
    bandwidth: Option<Bandwidth>,
    shared: Rc<RefCell<Shared>>,
    /// Restored, and not told to run yet.
    stands: bool,
}

/// Both sides of a migration of a workload that holds `needs` of memory; the source sends no more than `bandwidth`.
pub fn sides(
    request: &Request,
    needs: Bytes,
    bandwidth: Option<Bandwidth>,
    source: &Arc<AgentClient>,
    target: &Arc<AgentClient>,
) -> (RemoteSource, RemoteTarget) {
    let migration =
        Migration { id: request.id.0, workload: request.workload.to_string(), strategy: request.strategy.to_string() };
    let shared = Rc::<RefCell<Shared>>::default();
    let (here, there) = (Arc::clone(source), Arc::clone(target));
    (
        RemoteSource {
            agent: Arc::clone(&here),
            migration: migration.clone(),
            shared: Rc::clone(&shared),
            to_send: Bytes(0),
            wire: None,
        },
        RemoteTarget { agent: there, source: here, migration, needs, bandwidth, shared, stands: false },
    )
}

fn ask(migration: &Migration, step: Step) -> StepRequest {
    StepRequest { migration: Some(migration.clone()), step: step.into(), ..StepRequest::default() }
}

/// Whatever was to be removed went with its node.
fn nothing_left(_: String) -> Result<(), PartError> {
    Ok(())
}

impl RemoteSource {
    fn step(&self, step: Step, limit: Duration) -> Result<StepReply, PartError> {
        self.agent.step(ask(&self.migration, step), limit + GRACE)
    }

    fn end(&self, step: Step, node_gone: impl FnOnce(String) -> Result<(), PartError>) -> Result<(), PartError> {
        self.agent.end(ask(&self.migration, step), STAGE_LIMIT + GRACE, node_gone)
    }
}

impl Source for RemoteSource {
    fn preflight(&mut self) -> Result<(), PartError> {
        self.step(Step::SourcePreflight, STAGE_LIMIT).map(drop)
    }

    fn stage(&mut self) -> Result<(), PartError> {
        let beside = self.shared.borrow().beside;
        let request = StepRequest { beside, ..ask(&self.migration, Step::SourceStage) };
        let StepReply { plan, beside, .. } = self.agent.step(request, STAGE_LIMIT + GRACE)?;
        *self.shared.borrow_mut() = Shared { plan, beside };
        Ok(())
    }

    fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        self.agent.copy(ask(&self.migration, Step::Unknown), told)
    }

    fn freeze(&mut self) -> Result<(), PartError> {
        self.step(Step::SourceFreeze, FREEZE_LIMIT).map(drop)
    }

    fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        let dumped = self.step(Step::SourceDump, FREEZE_LIMIT)?;
        self.to_send = Bytes(dumped.bytes);
        Ok(dumped.round.map(Into::into))
    }

    fn send(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<Bytes, PartError> {
        let expected = self.to_send;
        if !told(Told::Sent { bytes: Bytes(0), expected }) {
            return Err(PartError::new("cancelled"));
        }
        let mut go_on = || told(Told::Sent { bytes: Bytes(0), expected });
        let request = ask(&self.migration, Step::SourceSend);
        let reply = self.agent.step_while(request, FREEZE_LIMIT + GRACE, &mut go_on)?;
        let bytes = Bytes(reply.bytes);
        self.wire = (reply.wire > 0).then_some(Bytes(reply.wire));
        told(Told::Sent { bytes: expected, expected });
        Ok(bytes)
    }

    fn wire_bytes(&self) -> Option<Bytes> {
        self.wire
    }

    fn discard(&mut self) -> Result<(), PartError> {
        self.end(Step::SourceDiscard, nothing_left)
    }

    fn drain(&mut self) -> Result<(), PartError> {
        self.end(Step::SourceDrain, nothing_left)
    }

    fn thaw(&mut self) -> Result<(), PartError> {
        self.end(Step::SourceThaw, |why| Err(PartError::gone(why)))
    }
}

impl RemoteTarget {
    fn step(&self, step: Step, limit: Duration) -> Result<StepReply, PartError> {
        self.agent.step(ask(&self.migration, step), limit + GRACE)
    }

    fn end(&self, step: Step, node_gone: impl FnOnce(String) -> Result<(), PartError>) -> Result<(), PartError> {
        self.agent.end(ask(&self.migration, step), STAGE_LIMIT + GRACE, node_gone)
    }
}

impl Target for RemoteTarget {
    fn preflight(&mut self) -> Result<(), PartError> {
        let request = StepRequest { needs: self.needs.0, ..ask(&self.migration, Step::TargetPreflight) };
        self.shared.borrow_mut().beside = self.agent.step(request, STAGE_LIMIT + GRACE)?.beside;
        Ok(())
    }

    /// Also joins the two agents: the stream is there before the freeze.
    fn stage(&mut self) -> Result<(), PartError> {
        let Shared { plan, beside } = std::mem::take(&mut *self.shared.borrow_mut());
        let source = self.source.node().as_str().to_owned();
        let request = StepRequest { plan, source, beside, ..ask(&self.migration, Step::TargetStage) };
        let meeting = self.agent.step(request, STAGE_LIMIT + GRACE)?.meeting;
        let bandwidth = self.bandwidth.map_or(0, Bandwidth::bytes_per_second);
        let request = StepRequest { meeting, bandwidth, ..ask(&self.migration, Step::SourceConnect) };
        // All files that are there go over with it.
        self.source.step(request, FILES_LIMIT + STAGE_LIMIT + GRACE).map(drop)
    }

    fn received(&mut self) -> Result<(), PartError> {
        self.step(Step::TargetReceived, FREEZE_LIMIT).map(drop)
    }

    fn restore(&mut self) -> Result<(), PartError> {
        self.step(Step::TargetRestore, FREEZE_LIMIT)?;
        self.stands = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), PartError> {
        // One that was restored by this controller and has not been told to run has not run.
        let never_ran = std::mem::take(&mut self.stands);
        self.end(Step::TargetResume, |why| Err(if never_ran { PartError::new(why) } else { PartError::gone(why) }))
    }

    fn settle(&mut self) -> Result<(), PartError> {
        self.end(Step::TargetSettle, |why| Err(PartError::gone(why)))
    }

    fn abort(&mut self) -> Result<(), PartError> {
        self.end(Step::TargetAbort, nothing_left)
    }
}
