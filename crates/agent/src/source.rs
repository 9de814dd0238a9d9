//! The workload on the node where it runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_criu::{DumpOptions, Limit, Member, MemoryMode, RestorePlan, Runc};
use godwit_migration::{PartError, Told};
use godwit_model::{Bandwidth, Bytes, CopyRound, Strategy};
use godwit_transport::{Options, Sender, StreamError};

use crate::beside;
use crate::config::AgentConfig;
use crate::dumps::{Frozen, Held, Prepared, Released};
use crate::files::{self, Layout, Leaving};
use crate::meeting;
use crate::note::{Known, Mark, Page};
use crate::paging::{self, Serving};
use crate::precopy::{Copying, Rounds};
use crate::together::{Fence, all_of};
use crate::unit::{Unit, Units, members_of, unit_and_pid};
use crate::wire::{Meeting, Migration};
use crate::{FREEZE_LIMIT, STAGE_LIMIT};

/// How far the source is.
enum SourceState {
    Running,
    Prepared(Prepared),
    Frozen(Frozen),
    Held(Held),
    Released(Released),
    /// Ended after the commit, or in a state that a failed step has left behind.
    Gone,
}

/// The workload on the node where it runs.
pub(crate) struct SourceWork {
    config: Arc<AgentConfig>,
    workload: String,
    units: Units,
    strategy: Strategy,
    images: PathBuf,
    /// Its bundle as this process sees it.
    bundle: PathBuf,
    page: Page,
    /// By this agent, which so knows all that has happened.
    began: bool,
    stream: Option<Sender>,
    /// The most that is sent; none: as much as goes through.
    bandwidth: Option<Bandwidth>,
    /// What came of sending, which begins as soon as there is something to send.
    sent: Option<Result<Sent, PartError>>,
    state: SourceState,
    copying: Option<Copying>,
    files: Option<Leaving>,
    /// Stop-copy: the memory goes beside the images.
    beside: bool,
    /// Post-copy: what the target lacks is fetched from here, of each container.
    serving: Vec<Serving>,
}

/// How much has gone over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// Of the state.
    pub(crate) bytes: Bytes,
    /// On the wire.
    pub(crate) wire: Bytes,
}

/// The target has all of it.
fn finished(stream: Sender) -> Result<Sent, PartError> {
    stream.finish_counted().map(|(bytes, wire)| Sent { bytes, wire }).map_err(sending)
}

impl SourceWork {
    pub(crate) fn new(config: Arc<AgentConfig>, migration: &Migration) -> Result<Self, PartError> {
        let strategy = migration.strategy()?;
        let images = config.images(&migration.workload, migration.id);
        let workload = migration.workload.clone();
        let page = Page::of(&config, migration);
        let bundle = config.env().host_path(config.bundle(&workload));
        let units = Units::of(&config, &workload)?;
        let (stream, sent, copying, files, serving) = (None, None, None, None, Vec::new());
        let mut work = Self {
            config,
            workload,
            units,
            strategy,
            images,
            bundle,
            page,
            began: false,
            beside: false,
            bandwidth: None,
            stream,
            sent,
            state: SourceState::Running,
            copying,
            files,
            serving,
        };
        work.serve_again();
        Ok(work)
    }

    /// Post-copy by an agent that was killed: the frozen processes have the only copy of some pages, and are here.
    fn serve_again(&mut self) {
        let noted = || -> Result<Vec<Serving>, PartError> {
            let note = self.page.note()?.filter(|note| note.mark == Mark::Leaving && self.page.is_of(note));
            let Some(paging::Noted { door, others, target }) = note.and_then(|note| note.door) else {
                return Ok(Vec::new());
            };
            let members = self.units.members().map_err(part("find its processes"))?;
            let mut all = Vec::new();
            for (number, door) in [door].into_iter().chain(others).enumerate() {
                let serving = Serving::reopen(door, self.config.peer(&target)?)?;
                serving.begin(&members_of(number, &members), Vec::new(), None)?;
                all.push(serving);
            }
            Ok(all)
        };
        match noted() {
            Ok(serving) => self.serving = serving,
            Err(error) => tracing::warn!(error = error.chain(), "its memory is not served again"),
        }
    }

    /// How far it is, for a person.
    pub(crate) fn told(&self) -> &'static str {
        match self.state {
            SourceState::Running if !self.serving.is_empty() => {
                "its agent was started again; if frozen, it has the only copy of some pages until all is over"
            }
            SourceState::Running => "runs",
            SourceState::Prepared(_) => "runs, prepared",
            SourceState::Frozen(_) => "frozen",
            SourceState::Held(_) if !self.serving.is_empty() => {
                "frozen and dumped; has the only copy of some pages until all is over"
            }
            SourceState::Held(_) => "frozen and dumped, waits for the decision",
            SourceState::Released(_) => "frozen, let go by CRIU",
            SourceState::Gone => "gone",
        }
    }

    fn take(&mut self) -> SourceState {
        std::mem::replace(&mut self.state, SourceState::Gone)
    }

    pub(crate) fn preflight(&mut self) -> Result<(), PartError> {
        let (id, ids) = (&self.workload, self.units.ids().collect::<Vec<_>>());
        let obstacles = godwit_criu::preflight_all(&self.units.env, &ids, &Limit::within(STAGE_LIMIT))
            .map_err(part("it cannot be looked at"))?;
        if obstacles.is_empty() {
            return Ok(());
        }
        let list = obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(PartError::new(format!("CRIU cannot carry {id}: {list}")))
    }

    /// The plan of each container, and whether the memory goes beside the images, which the target has to be able to take.
    pub(crate) fn stage(&mut self, target_keeps_memory: bool) -> Result<(Vec<RestorePlan>, bool), PartError> {
        self.page.begin(Mark::Leaving)?;
        self.began = true;
        self.beside = self.strategy == Strategy::StopCopy && target_keeps_memory && self.may_go_beside();
        let options = DumpOptions { memory: memory_mode(self.strategy, self.beside), ..DumpOptions::default() };
        let dump = Prepared::new(&self.units, &self.images, &options, &Limit::within(STAGE_LIMIT))?;
        let plans = dump.plans();
        self.state = SourceState::Prepared(dump);
        Ok((plans, self.beside))
    }

    fn may_go_beside(&self) -> bool {
        let members = self.units.members();
        let obstacle = members.map_or_else(|error| Some(error.to_string()), |members| beside::obstacle(&members));
        if let Some(why) = &obstacle {
            tracing::info!(why, "its memory goes in the images");
        }
        obstacle.is_none()
    }

    /// Joins the stream to the target, which awaits it, and sends the files that are there.
    pub(crate) fn connect(&mut self, meeting: &Meeting, bandwidth: Option<Bandwidth>) -> Result<(), PartError> {
        self.bandwidth = bandwidth;
        let peer = self.config.peer(&meeting.node)?;
        let options = Options { cap: bandwidth.map(Bandwidth::bytes_per_second), ..meeting::options() };
        let sender = Sender::open(meeting::join(meeting)?, peer, options);
        let mut sender = sender.map_err(|e| PartError::caused_by("reach the target over the backhaul", e))?;
        let layout = self.layout()?;
        if layout.is_some() && !sender.carries_messages() {
            return Err(PartError::new("the target's agent is of an older release, which takes no files"));
        }
        let mut files = layout.map(|layout| Leaving::new(&layout, &self.bundle));
        if self.strategy == Strategy::PostCopy {
            self.open_doors(&meeting.node, &mut sender)?;
        }
        let stream = self.stream.insert(sender);
        if let (Some(files), SourceState::Prepared(dump)) = (&mut files, &self.state) {
            files.once(&pids(dump.members())?, stream)?;
        }
        self.files = files;
        if self.strategy == Strategy::StopCopy { self.files_ahead() } else { Ok(()) }
    }

    fn layout(&self) -> Result<Option<Layout>, PartError> {
        files::layout(&self.bundle)
    }

    /// What has changed of the files, before the freeze.
    fn files_ahead(&mut self) -> Result<(), PartError> {
        match (&mut self.files, &mut self.stream, &self.state) {
            (Some(files), Some(stream), SourceState::Prepared(dump)) => files.ahead(&|| pids(dump.members()), stream),
            _ => Ok(()),
        }
    }

    /// Where the target will fetch what is left: told now, so that it has come there before the freeze.
    fn open_doors(&mut self, target: &str, stream: &mut Sender) -> Result<(), PartError> {
        let mut all = Vec::new();
        for unit in &self.units.list {
            let serving = Serving::open(self.config.node.as_str(), self.config.data, self.config.peer(target)?)?;
            serving.note(&unit.images(&self.images))?;
            all.push(serving);
        }
        let mut doors = all.iter().map(|serving| serving.door().clone());
        if let Some(door) = doors.next() {
            self.page.note_door(paging::Noted { door, others: doors.collect(), target: target.into() })?;
        }
        let tell = |unit: &Unit| stream.file(&unit.images(&self.images).join(paging::FILE), &unit.file(paging::FILE));
        let told = self.units.list.iter().try_for_each(tell).and_then(|()| stream.sync());
        told.map_err(|e| PartError::caused_by("say where its memory is", e))?;
        self.serving = all;
        Ok(())
    }

    pub(crate) fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        let SourceState::Prepared(dump) = &self.state else { return Err(illegal("pre-copy")) };
        let Some(stream) = &mut self.stream else { return Err(illegal("pre-copy")) };
        let rounds = match self.strategy {
            // Where it cannot be tracked, all of it follows.
            Strategy::PostCopy if godwit_memory::supported().is_err() => return self.files_ahead(),
            Strategy::PostCopy => Rounds::Two,
            Strategy::StopCopy | Strategy::PreCopy => Rounds::UntilLittleIsLeft,
        };
        let mut copying = Copying::begin(&dump.members().map_err(part("find its processes"))?)?;
        copying.rounds(rounds, &|| dump.members(), stream, told)?;
        self.copying = Some(copying);
        self.files_ahead()
    }

    pub(crate) fn freeze(&mut self) -> Result<(), PartError> {
        let SourceState::Prepared(dump) = self.take() else { return Err(illegal("the freeze")) };
        // A failed freeze has thawed by itself.
        let frozen = dump.freeze(&Limit::within(FREEZE_LIMIT))?;
        self.state = SourceState::Frozen(frozen);
        Ok(())
    }

    pub(crate) fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        let SourceState::Frozen(frozen) = self.take() else { return Err(illegal("the dump")) };
        let last = match self.before_dump(&frozen) {
            Ok(last) => last,
            Err(error) => {
                self.state = SourceState::Frozen(frozen);
                return Err(error);
            }
        };
        match frozen.dump(&Limit::within(FREEZE_LIMIT)) {
            Ok(held) => {
                self.state = SourceState::Held(held);
                Ok(last)
            }
            Err(failed) => {
                let (error, back) = *failed;
                self.state = SourceState::Released(back);
                Err(error)
            }
        }
    }

    /// Files that were written last are sent now; memory, too, or it is left to be fetched.
    fn before_dump(&mut self, frozen: &Frozen) -> Result<Option<CopyRound>, PartError> {
        if let (Some(files), Some(stream)) = (&mut self.files, &mut self.stream) {
            files.sync(&pids(frozen.members())?, stream, FREEZE_LIMIT / 2)?;
        }
        let follows = self.strategy == Strategy::PostCopy;
        if !follows && self.copying.is_none() {
            return Ok(None);
        }
        let members = frozen.members().map_err(part("find its processes"))?;
        let mut hot = Vec::new();
        let mut last = None;
        if let Some(copying) = &mut self.copying {
            let Some(stream) = &mut self.stream else { return Err(illegal("the last round")) };
            if follows {
                hot = copying.leave(&members, stream)?;
            } else {
                last = Some(copying.last(&members, stream)?);
            }
        }
        if follows {
            // Each fetches for itself.
            let cap = self.bandwidth.map(|all| all.bytes_per_second() / self.serving.len().max(1) as u64);
            for (number, serving) in self.serving.iter().enumerate() {
                let own =
                    hot.iter().map(|(wire, range)| (unit_and_pid(*wire), range)).filter(|((of, _), _)| *of == number);
                let hot = own.map(|((_, pid), range)| (pid, range.clone())).collect();
                serving.begin(&members_of(number, &members), hot, cap)?;
            }
        }
        Ok(last)
    }

    /// Sends what was dumped, without having been asked: the answer to the dump is still on its way to the controller.
    pub(crate) fn send_ahead(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        let wanted = |name: &str| !name.ends_with(".log") && name != paging::FILE;
        let images = self.units.list.iter().try_for_each(|unit| match &unit.name {
            Some(name) => stream.subdir(&self.images, name, wanted),
            None => stream.dir(&self.images, wanted),
        });
        let sent = images.map_err(sending).and_then(|()| self.send_beside(&mut stream));
        self.sent = Some(sent.and_then(|()| finished(stream)));
    }

    fn send_beside(&self, stream: &mut Sender) -> Result<(), PartError> {
        let SourceState::Held(held) = &self.state else { return Err(illegal("the transfer")) };
        if !self.beside {
            return Ok(());
        }
        let members = held.members().map_err(part("find its processes"))?;
        beside::send_all(&beside::promised(&self.units, &self.images)?, &members, stream)
    }

    /// What there is to be sent.
    pub(crate) fn to_send(&self) -> Bytes {
        let dirs = self.units.list.iter().map(|unit| unit.images(&self.images));
        let files = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let images: u64 = files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        // Where it cannot be read, sending says so.
        let promised =
            if self.beside { beside::promised(&self.units, &self.images).unwrap_or_default() } else { Vec::new() };
        Bytes(images + beside::bytes(&promised).0)
    }

    /// What came of it.
    pub(crate) fn send(&mut self) -> Result<Sent, PartError> {
        self.sent.take().unwrap_or_else(|| Err(illegal("the transfer")))
    }

    /// Asked again, or by a controller that did not do the rest: what this node has noted says what there is to do.
    pub(crate) fn discard(&mut self) -> Result<(), PartError> {
        let Known::At(mark @ (Mark::Leaving | Mark::Discarding)) = self.page.read()? else { return Ok(()) };
        if matches!(self.state, SourceState::Prepared(_) | SourceState::Frozen(_)) {
            return Err(illegal("the end of the source"));
        }
        if mark == Mark::Leaving {
            self.page.write(Mark::Discarding)?;
        }
        self.copying = None;
        self.serving.clear();
        let limit = Limit::within(FREEZE_LIMIT);
        if let SourceState::Held(held) = self.take() {
            return held.commit(&limit);
        }
        let end = |id: &str| godwit_criu::end_source(&self.units.env, id, &limit);
        all_of(self.units.ids().map(end)).map_err(part("end the frozen copy"))?;
        Fence::take_down_any(&self.units)
    }

    pub(crate) fn drain(&mut self) -> Result<(), PartError> {
        if self.page.read()? != Known::At(Mark::Discarding) {
            return Ok(());
        }
        let (runc, limit) = (Runc::new(&self.units.env), Limit::within(STAGE_LIMIT));
        let deleted = all_of(self.units.ids().map(|id| runc.delete(id, true, &limit)));
        deleted.map_err(part("remove the source's container"))?;
        self.forget_files()?;
        remove_dir(&self.images)?;
        self.page.write(Mark::Left)
    }

    /// They are the target's now.
    fn forget_files(&mut self) -> Result<(), PartError> {
        self.files = None;
        let Some(layout) = self.layout()? else { return Ok(()) };
        let bundle = self.config.bundle(&self.workload);
        let reset = layout.reset(&self.config.env(), &bundle, &Limit::within(STAGE_LIMIT));
        reset.map_err(part("remove the source's files"))
    }

    pub(crate) fn thaw(&mut self) -> Result<(), PartError> {
        match self.page.read()? {
            // So that a stage which is still on its way finds that it is over.
            Known::Nothing => {
                self.page.close(Mark::Left);
                return Ok(());
            }
            Known::At(Mark::Leaving) => {}
            Known::At(Mark::Discarding) => return Err(PartError::gone("it was ended after the commit")),
            Known::At(_) | Known::Outdated => return Ok(()),
        }
        self.copying = None;
        self.files = None;
        self.serving.clear();
        self.stream = None;
        match self.take() {
            SourceState::Running if self.began => Ok(()),
            SourceState::Running | SourceState::Gone => self.take_back(),
            SourceState::Prepared(dump) => {
                drop(dump);
                Ok(())
            }
            SourceState::Frozen(frozen) => frozen.thaw(),
            SourceState::Held(held) => match held.rollback() {
                (released, Ok(())) => released.thaw(),
                (released, Err(error)) => {
                    self.state = SourceState::Released(released);
                    Err(error)
                }
            },
            SourceState::Released(released) => released.thaw(),
        }?;
        // First: the images may have taken the room for the note.
        let removed = remove_dir(&self.images);
        if let Err(error) = removed {
            tracing::warn!(error = error.chain(), "left behind");
        }
        self.page.close(Mark::Left);
        Ok(())
    }

    /// What another agent has begun, or a step that failed has left in nobody's hands.
    fn take_back(&self) -> Result<(), PartError> {
        let limit = Limit::within(STAGE_LIMIT);
        let left = self.units.surviving(&limit)?;
        if left.is_empty() {
            return Err(PartError::gone("all its processes have ended"));
        }
        Released::recover(&self.units, &left, &limit)?.thaw()
    }

    /// Its controller has been away for long. What was merely prepared is given up; true if nothing is left here.
    pub(crate) fn lease_is_over(&mut self) -> bool {
        match self.state {
            SourceState::Running => self.serving.is_empty(),
            SourceState::Prepared(_) => match self.thaw() {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a migration without a controller is not given up");
                    false
                }
            },
            // Only the journal knows what has become of the target.
            _ => false,
        }
    }
}

/// Where the memory is in a dump and a restore of this strategy; at stop-copy it may be `beside` the images.
pub(crate) fn memory_mode(strategy: Strategy, beside: bool) -> MemoryMode {
    match strategy {
        Strategy::StopCopy if !beside => MemoryMode::Copied,
        Strategy::StopCopy | Strategy::PreCopy | Strategy::PostCopy => MemoryMode::Lazy,
    }
}

/// As the host knows them.
fn pids(members: godwit_criu::Result<Vec<Member>>) -> Result<Vec<i32>, PartError> {
    let members = members.map_err(part("find its processes"))?;
    Ok(members.iter().map(|member| member.host_pid).collect())
}

fn sending(error: StreamError) -> PartError {
    PartError::caused_by("send the images", error)
}

pub(crate) fn part(what: &'static str) -> impl FnOnce(godwit_criu::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

pub(crate) fn illegal(step: &str) -> PartError {
    PartError::new(format!("{step} came out of order: the agent was restarted meanwhile, or this is a bug in Godwit"))
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), PartError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(PartError::caused_by(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
