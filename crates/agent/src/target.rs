//! The workload on the node to which it goes.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use godwit_criu::{HeldRestore, ImagesDir, Limit, PreparedRestore, RestoreOptions, RestorePlan, RestoredContainer};
use godwit_migration::PartError;
use godwit_model::{Bytes, Strategy};
use godwit_pages::{FillOptions, LazyHandler, PageStore};
use godwit_transport::{NoPages, Receiver, StreamError};

use crate::config::AgentConfig;
use crate::meeting::{self, HangUp};
use crate::precopy::Kept;
use crate::source::{illegal, memory_mode, part, remove_dir};
use crate::wire::{Meeting, Migration};
use crate::{FREEZE_LIMIT, STAGE_LIMIT};

/// How far the target is.
enum TargetState {
    Empty,
    Prepared(PreparedRestore),
    Held(HeldRestore),
    Running(RestoredContainer),
    Settled,
}

/// Images and memory on their way in, on a thread of its own.
struct Receiving {
    result: mpsc::Receiver<Result<Bytes, PartError>>,
    hang_up: HangUp,
}

/// The workload on the node to which it goes.
pub(crate) struct TargetWork {
    config: Arc<AgentConfig>,
    workload: String,
    strategy: Strategy,
    images: PathBuf,
    handler: Option<LazyHandler>,
    receiving: Option<Receiving>,
    state: TargetState,
}

impl TargetWork {
    pub(crate) fn new(config: Arc<AgentConfig>, migration: &Migration) -> Result<Self, PartError> {
        let strategy = migration.strategy()?;
        let images = config.images(&migration.workload, migration.id);
        let workload = migration.workload.clone();
        let (handler, receiving, state) = (None, None, TargetState::Empty);
        Ok(Self { config, workload, strategy, images, handler, receiving, state })
    }

    /// How far it is, for a person.
    pub(crate) fn told(&self) -> &'static str {
        match self.state {
            TargetState::Empty => "nothing is there",
            TargetState::Prepared(_) => "prepared, receives",
            TargetState::Held(_) => "restored, waits for the decision",
            TargetState::Running(_) => "runs, memory is put in place",
            TargetState::Settled => "runs",
        }
    }

    pub(crate) fn preflight(&mut self, needs: Bytes) -> Result<(), PartError> {
        self.config.must_fit(&self.workload, needs)
    }

    pub(crate) fn stage(&mut self, plan: &RestorePlan) -> Result<Meeting, PartError> {
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let restore = PreparedRestore::new(
            &self.config.env(),
            &self.workload,
            images,
            plan,
            RestoreOptions {
                memory: memory_mode(self.strategy),
                ..RestoreOptions::new(self.config.bundle(&self.workload))
            },
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the restore"))?;
        self.state = TargetState::Prepared(restore);
        self.receive()
    }

    /// Starts to receive from whoever comes to the meeting.
    fn receive(&mut self) -> Result<Meeting, PartError> {
        let (waiting, meeting) = meeting::await_source(self.config.data)?;
        let dir = self.images.clone();
        let mut kept = match self.strategy {
            Strategy::StopCopy => None,
            Strategy::PreCopy => {
                let store = Arc::new(PageStore::new());
                let handler = LazyHandler::listen(&self.images, Arc::clone(&store), FillOptions::default());
                self.handler = Some(handler.map_err(|e| PartError::caused_by("keep memory ready", e))?);
                Some(Kept(store))
            }
        };
        let (done, result) = mpsc::channel();
        let hang_up = HangUp::default();
        let line = hang_up.clone();
        let receive = move || {
            let accepted = waiting.accept(&line).map_err(|e| PartError::caused_by("await the source", e));
            let received = accepted.and_then(|mut incoming| {
                let received: Result<Bytes, StreamError> = match &mut kept {
                    Some(kept) => Receiver::new(&mut incoming, &dir).run(kept),
                    None => Receiver::new(&mut incoming, &dir).run(&mut NoPages),
                };
                received.map_err(|e| PartError::caused_by("receive the images", e))
            });
            // Nobody may be left to be told.
            let _ = done.send(received);
        };
        let thread = thread::Builder::new().name("images".into()).spawn(receive);
        thread.map_err(|e: io::Error| PartError::caused_by("start to receive", e))?;
        self.receiving = Some(Receiving { result, hang_up });
        Ok(meeting)
    }

    pub(crate) fn received(&mut self) -> Result<(), PartError> {
        let Some(receiving) = &self.receiving else { return Err(illegal("the receipt")) };
        let result = match receiving.result.recv_timeout(FREEZE_LIMIT) {
            Ok(result) => result.map(drop),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(PartError::new("the images do not come")),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(PartError::new("the receiver of the images panicked")),
        };
        if result.is_ok() {
            self.receiving = None;
        }
        result
    }

    pub(crate) fn restore(&mut self) -> Result<(), PartError> {
        let TargetState::Prepared(restore) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(illegal("the restore"));
        };
        // A failed restore has cleaned up behind itself.
        let held = restore.restore(&Limit::within(FREEZE_LIMIT)).map_err(part("restore it"))?;
        let members = held.members().map_err(part("find its processes"));
        self.state = TargetState::Held(held);
        if let Some(handler) = &self.handler {
            handler.check().map_err(|e| PartError::caused_by("have all its memory", e))?;
            // If this agent is killed before all is in place, pages must not turn into zeroes.
            let pids: Vec<i32> = members?.iter().map(|member| member.host_pid).collect();
            handler.guard(&pids).map_err(|e| PartError::caused_by("guard its memory", e))?;
            handler.start_filling();
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> Result<(), PartError> {
        match std::mem::replace(&mut self.state, TargetState::Empty) {
            TargetState::Held(held) => {
                let running = held.resume(&Limit::within(FREEZE_LIMIT)).map_err(part("let it run"))?;
                self.state = TargetState::Running(running);
                Ok(())
            }
            // Asked again.
            runs @ (TargetState::Running(_) | TargetState::Settled) => {
                self.state = runs;
                Ok(())
            }
            other => {
                self.state = other;
                Err(illegal("the resumption"))
            }
        }
    }

    pub(crate) fn settle(&mut self) -> Result<(), PartError> {
        let running = match std::mem::replace(&mut self.state, TargetState::Settled) {
            TargetState::Running(running) => running,
            TargetState::Settled => return remove_dir(&self.images),
            other => {
                self.state = other;
                return Err(illegal("the settling"));
            }
        };
        if let Some(handler) = self.handler.take() {
            let filled =
                handler.wait_filled(STAGE_LIMIT).map_err(|e| PartError::caused_by("put all memory in place", e))?;
            tracing::debug!(?filled, "memory is in place");
        }
        running.finish(&Limit::within(STAGE_LIMIT)).map_err(part("make it an ordinary container"))?;
        remove_dir(&self.images)
    }

    pub(crate) fn abort(&mut self) -> Result<(), PartError> {
        // Ends the receiver, if the source never sent.
        if let Some(receiving) = self.receiving.take() {
            receiving.hang_up.now();
            // Until it is through with the directory that is about to be removed.
            let _ = receiving.result.recv();
        }
        let ended = match std::mem::replace(&mut self.state, TargetState::Empty) {
            TargetState::Empty => Ok(()),
            TargetState::Prepared(restore) => restore.cancel().map_err(part("take the target's container away")),
            TargetState::Held(held) => held.abort().map_err(part("end the target's copy")),
            runs @ (TargetState::Running(_) | TargetState::Settled) => {
                self.state = runs;
                return Err(PartError::new("the target's copy runs: it is the workload, and is not ended"));
            }
        };
        self.handler = None;
        ended.and(remove_dir(&self.images))
    }
}
