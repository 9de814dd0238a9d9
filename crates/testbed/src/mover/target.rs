//! The workload on the node to which it goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use godwit_criu::{HeldRestore, ImagesDir, Limit, PreparedRestore, RestoreOptions, RestoredContainer};
use godwit_migration::{PartError, Target};
use godwit_model::{Bytes, Strategy};
use godwit_pages::{FillOptions, LazyHandler, PageStore};
use godwit_transport::{NoPages, Receiver, Sender, StreamError};

use super::precopy::Kept;
use super::source::memory_mode;
use super::{FREEZE_LIMIT, STAGE_LIMIT, Shared, illegal, part, remove_dir};
use crate::backhaul;
use crate::container::Container;
use crate::network::NodeNet;
use crate::node::Node;

/// How far the target is.
enum TargetState {
    Empty,
    Prepared(PreparedRestore),
    Held(HeldRestore),
    Running(RestoredContainer),
    Settled,
}

/// The workload on the node to which it goes.
pub(crate) struct TargetSide<'a> {
    pub(crate) node: &'a Node,
    pub(crate) container: &'a Container,
    pub(crate) from: &'a NodeNet,
    pub(crate) to: &'a NodeNet,
    strategy: Strategy,
    images: PathBuf,
    between: Shared,
    handler: Option<LazyHandler>,
    receiver: Option<JoinHandle<Result<Bytes, StreamError>>>,
    state: TargetState,
}

impl<'a> TargetSide<'a> {
    pub(crate) fn new(
        node: &'a Node,
        container: &'a Container,
        from: &'a NodeNet,
        to: &'a NodeNet,
        strategy: Strategy,
        migration: u64,
        between: Shared,
    ) -> Self {
        let images = node.host_path(container.images(migration));
        let (handler, receiver, state) = (None, None, TargetState::Empty);
        Self { node, container, from, to, strategy, images, between, handler, receiver, state }
    }

    /// Joins the two nodes over the backhaul and starts to receive.
    fn connect(&mut self) -> Result<(), PartError> {
        let (stream, mut incoming) = backhaul::connect(self.from, self.to)?;
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
        let receive = move || match &mut kept {
            Some(kept) => Receiver::new(&mut incoming, &dir).run(kept),
            None => Receiver::new(&mut incoming, &dir).run(&mut NoPages),
        };
        let receiver = thread::Builder::new().name("images".into()).spawn(receive);
        let receiver = receiver.map_err(|e| PartError::caused_by("start to receive", e))?;
        self.receiver = Some(receiver);
        let sender = Sender::new(stream).map_err(|e| PartError::caused_by("start to send", e))?;
        self.between.borrow_mut().stream = Some(sender);
        Ok(())
    }
}

impl Target for TargetSide<'_> {
    fn preflight(&mut self) -> Result<(), PartError> {
        let free = self.node.size().memory.0.saturating_sub(self.node.cgroup().memory().map_or(0, |m| m.0));
        if free < self.container.memory.0 {
            return Err(PartError::new(format!(
                "{} has {} of memory left, {} holds {}",
                self.node.name(),
                Bytes(free),
                self.container.name,
                self.container.memory
            )));
        }
        Ok(())
    }

    fn stage(&mut self) -> Result<(), PartError> {
        let Some(plan) = self.between.borrow().plan.clone() else { return Err(illegal("the target's stage")) };
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let restore = PreparedRestore::new(
            &self.node.env(),
            self.container.name.as_str(),
            images,
            &plan,
            RestoreOptions { memory: memory_mode(self.strategy), ..RestoreOptions::new(self.container.bundle()) },
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the restore"))?;
        self.state = TargetState::Prepared(restore);
        self.connect()
    }

    fn received(&mut self) -> Result<(), PartError> {
        let Some(receiver) = self.receiver.take() else { return Err(illegal("the receipt")) };
        match receiver.join() {
            Ok(result) => result.map(drop).map_err(|e| PartError::caused_by("receive the images", e)),
            Err(_) => Err(PartError::new("the receiver of the images panicked")),
        }
    }

    fn restore(&mut self) -> Result<(), PartError> {
        let TargetState::Prepared(restore) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(illegal("the restore"));
        };
        // A failed restore has cleaned up behind itself.
        let held = restore.restore(&Limit::within(FREEZE_LIMIT)).map_err(part("restore it"))?;
        self.state = TargetState::Held(held);
        if let Some(handler) = &self.handler {
            handler.check().map_err(|e| PartError::caused_by("have all its memory", e))?;
            handler.start_filling();
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), PartError> {
        let TargetState::Held(held) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(illegal("the resumption"));
        };
        let running = held.resume(&Limit::within(FREEZE_LIMIT)).map_err(part("let it run"))?;
        self.state = TargetState::Running(running);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), PartError> {
        let TargetState::Running(running) = std::mem::replace(&mut self.state, TargetState::Settled) else {
            return Err(illegal("the settling"));
        };
        if let Some(handler) = self.handler.take() {
            let filled =
                handler.wait_filled(STAGE_LIMIT).map_err(|e| PartError::caused_by("put all memory in place", e))?;
            tracing::debug!(?filled, "memory is in place");
        }
        running.finish(&Limit::within(STAGE_LIMIT)).map_err(part("make it an ordinary container"))?;
        remove_dir(&self.images)
    }

    fn abort(&mut self) -> Result<(), PartError> {
        // Ends the receiver, if the source never sent.
        drop(self.between.borrow_mut().stream.take());
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
        let ended = match std::mem::replace(&mut self.state, TargetState::Empty) {
            TargetState::Empty => Ok(()),
            TargetState::Prepared(restore) => restore.cancel().map_err(part("take the target's container away")),
            TargetState::Held(held) => held.abort().map_err(part("end the target's copy")),
            TargetState::Running(_) | TargetState::Settled => Err(illegal("the abort")),
        };
        self.handler = None;
        ended.and(remove_dir(&self.images))
    }
}
