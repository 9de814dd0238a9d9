//! The workload on the node where it runs.

use std::fs;
use std::path::{Path, PathBuf};

use godwit_criu::{DumpOptions, FrozenDump, HeldDump, ImagesDir, Limit, MemoryMode, PreparedDump, ReleasedDump};
use godwit_migration::{PartError, Source, Told};
use godwit_model::{Bytes, CopyRound, Strategy};

use super::precopy::Copying;
use super::{FREEZE_LIMIT, STAGE_LIMIT, Shared, illegal, part, remove_dir};
use crate::container::Container;
use crate::node::Node;

/// How far the source is.
enum SourceState {
    Running,
    Prepared(PreparedDump),
    Frozen(FrozenDump),
    Held(HeldDump),
    Released(ReleasedDump),
    /// Ended after the commit, or in a state that a failed step has left behind.
    Gone,
}

/// The workload on the node where it runs.
pub(crate) struct SourceSide<'a> {
    pub(crate) node: &'a Node,
    pub(crate) container: &'a Container,
    strategy: Strategy,
    images: PathBuf,
    between: Shared,
    state: SourceState,
    copying: Option<Copying>,
}

impl<'a> SourceSide<'a> {
    pub(crate) fn new(
        node: &'a Node,
        container: &'a Container,
        strategy: Strategy,
        migration: u64,
        between: Shared,
    ) -> Self {
        let images = node.host_path(container.images(migration));
        Self { node, container, strategy, images, between, state: SourceState::Running, copying: None }
    }

    fn take(&mut self) -> SourceState {
        std::mem::replace(&mut self.state, SourceState::Gone)
    }
}

impl Source for SourceSide<'_> {
    fn preflight(&mut self) -> Result<(), PartError> {
        let id = self.container.name.as_str();
        let obstacles = godwit_criu::preflight(&self.node.env(), id, &Limit::within(STAGE_LIMIT))
            .map_err(part("it cannot be looked at"))?;
        if obstacles.is_empty() {
            return Ok(());
        }
        let list = obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(PartError::new(format!("CRIU cannot carry {id}: {list}")))
    }

    fn stage(&mut self) -> Result<(), PartError> {
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let dump = PreparedDump::new(
            &self.node.env(),
            self.container.name.as_str(),
            images,
            DumpOptions { memory: memory_mode(self.strategy), ..DumpOptions::default() },
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the dump"))?;
        self.between.borrow_mut().plan = Some(dump.plan().clone());
        self.state = SourceState::Prepared(dump);
        Ok(())
    }

    fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        let SourceState::Prepared(dump) = &self.state else { return Err(illegal("pre-copy")) };
        let mut between = self.between.borrow_mut();
        let Some(stream) = &mut between.stream else { return Err(illegal("pre-copy")) };
        let mut copying = Copying::begin(&dump.members().map_err(part("find its processes"))?)?;
        copying.rounds(&|| dump.members(), stream, told)?;
        self.copying = Some(copying);
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), PartError> {
        let SourceState::Prepared(dump) = self.take() else { return Err(illegal("the freeze")) };
        // A failed freeze has thawed by itself.
        let frozen = dump.freeze(&Limit::within(FREEZE_LIMIT)).map_err(part("freeze it"))?;
        self.state = SourceState::Frozen(frozen);
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        let SourceState::Frozen(frozen) = self.take() else { return Err(illegal("the dump")) };
        let mut last = None;
        if let Some(copying) = &mut self.copying {
            let mut between = self.between.borrow_mut();
            let sent = match (frozen.members(), &mut between.stream) {
                (Ok(members), Some(stream)) => copying.last(&members, stream),
                (Err(error), _) => Err(part("find its processes")(error)),
                (_, None) => Err(illegal("the last round")),
            };
            match sent {
                Ok(round) => last = Some(round),
                Err(error) => {
                    self.state = SourceState::Frozen(frozen);
                    return Err(error);
                }
            }
        }
        match frozen.dump(&Limit::within(FREEZE_LIMIT)) {
            Ok(held) => {
                self.state = SourceState::Held(held);
                Ok(last)
            }
            Err(failed) => {
                let failed = *failed;
                self.state = SourceState::Released(failed.back);
                Err(part("dump it")(failed.error))
            }
        }
    }

    fn send(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<Bytes, PartError> {
        let Some(mut stream) = self.between.borrow_mut().stream.take() else { return Err(illegal("the transfer")) };
        let expected = size_of(&self.images);
        if !told(Told::Sent { bytes: Bytes(0), expected }) {
            return Err(PartError::new("cancelled"));
        }
        let sent = stream.dir(&self.images, |name| !name.ends_with(".log")).and_then(|()| stream.finish());
        told(Told::Sent { bytes: expected, expected });
        sent.map_err(|e| PartError::caused_by("send the images", e))
    }

    fn discard(&mut self) -> Result<(), PartError> {
        self.copying = None;
        match self.take() {
            SourceState::Held(held) => {
                held.commit(&Limit::within(FREEZE_LIMIT)).map_err(part("end the frozen copy"))?;
                Ok(())
            }
            // Tried again: CRIU's hold is gone, so whatever is left of the container is killed by its runtime.
            SourceState::Gone => self.container.delete(&self.node.env()).map_err(part("kill the frozen copy")),
            other => {
                self.state = other;
                Err(illegal("the end of the source"))
            }
        }
    }

    fn drain(&mut self) -> Result<(), PartError> {
        self.container.delete(&self.node.env()).map_err(part("remove the source's container"))?;
        remove_dir(&self.images)
    }

    fn thaw(&mut self) -> Result<(), PartError> {
        self.copying = None;
        let released = match self.take() {
            SourceState::Running | SourceState::Gone => Ok(()),
            SourceState::Prepared(dump) => {
                drop(dump);
                Ok(())
            }
            SourceState::Frozen(frozen) => frozen.thaw().map_err(part("thaw it")),
            SourceState::Held(held) => match held.rollback() {
                Ok(released) => released.thaw().map_err(part("thaw it")),
                Err(failed) => {
                    let failed = *failed;
                    self.state = SourceState::Released(failed.back);
                    Err(part("take it back from CRIU")(failed.error))
                }
            },
            SourceState::Released(released) => released.thaw().map_err(part("thaw it")),
        };
        released?;
        let removed = remove_dir(&self.images);
        if let Err(error) = removed {
            tracing::warn!(error = error.chain(), "left behind");
        }
        Ok(())
    }
}

/// What the files of a directory hold.
fn size_of(dir: &Path) -> Bytes {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    Bytes(files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum())
}

/// Where the memory is in a dump and a restore of this strategy.
pub(super) fn memory_mode(strategy: Strategy) -> MemoryMode {
    match strategy {
        Strategy::StopCopy => MemoryMode::Copied,
        Strategy::PreCopy => MemoryMode::Lazy,
    }
}
