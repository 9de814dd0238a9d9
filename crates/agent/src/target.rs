//! The workload on the node to which it goes.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use godwit_criu::{Limit, MemoryMode, RestoreOptions, RestorePlan};
use godwit_migration::PartError;
use godwit_model::{Bytes, Strategy};
use godwit_pages::Reserve;
use godwit_transport::{Ender, Receiver};

use crate::config::AgentConfig;
use crate::files::{self, Arriving, Layout};
use crate::lazy::Memory;
use crate::meeting;
use crate::note::{Known, Mark, Page};
use crate::precopy::Kept;
use crate::restores::{Held, NotResumed, Prepared, Running};
use crate::source::{illegal, memory_mode, part, remove_dir};
use crate::together::{Fence, all_of};
use crate::unit::Units;
use crate::wire::{Meeting, Migration};
use crate::{FREEZE_LIMIT, STAGE_LIMIT};

/// So long it may take before the freeze to find memory that the freeze then need not wait for.
const RESERVE_LIMIT: Duration = Duration::from_secs(5);

/// Of a target that was let run.
const ENDED: &str = "all its processes have ended";

fn unfilled(error: godwit_pages::Error) -> PartError {
    PartError::caused_by("put all memory in place", error)
}

/// How far the target is.
enum TargetState {
    Empty,
    Prepared(Prepared),
    Held(Held),
    Running(Running),
    Settled,
    /// It has run, and cannot any more.
    Lost(String),
}

/// Images and memory on their way in, on a thread of its own.
struct Receiving {
    result: mpsc::Receiver<Result<Bytes, PartError>>,
    ender: Ender,
}

/// The workload on the node to which it goes.
pub(crate) struct TargetWork {
    config: Arc<AgentConfig>,
    workload: String,
    units: Units,
    strategy: Strategy,
    /// Stop-copy: the memory comes beside the images.
    beside: bool,
    /// What the workload holds.
    needs: Bytes,
    images: PathBuf,
    /// Its bundle as this process sees it.
    bundle: PathBuf,
    page: Page,
    /// Of each container; empty where it is in the images.
    memory: Vec<Memory>,
    /// By its name.
    source: String,
    receiving: Option<Receiving>,
    state: TargetState,
}

impl TargetWork {
    pub(crate) fn new(config: Arc<AgentConfig>, migration: &Migration) -> Result<Self, PartError> {
        let strategy = migration.strategy()?;
        let images = config.images(&migration.workload, migration.id);
        let workload = migration.workload.clone();
        let page = Page::of(&config, migration);
        let bundle = config.env().host_path(config.bundle(&workload));
        let units = Units::of(&config, &workload)?;
        let (memory, receiving, state) = (Vec::new(), None, TargetState::Empty);
        let (beside, needs, source) = (false, Bytes(0), String::new());
        Ok(Self {
            config,
            workload,
            units,
            strategy,
            beside,
            needs,
            images,
            bundle,
            page,
            memory,
            source,
            receiving,
            state,
        })
    }

    /// How far it is, for a person.
    pub(crate) fn told(&self) -> &'static str {
        match self.state {
            TargetState::Empty => "nothing is there",
            TargetState::Prepared(_) => "prepared, receives",
            TargetState::Held(_) => "restored, waits for the decision",
            TargetState::Running(_) if self.fetches() => "runs, some of its memory is only on the source",
            TargetState::Running(_) => "runs, memory is put in place",
            TargetState::Settled => "runs",
            TargetState::Lost(_) => "lost: it did not get all its memory",
        }
    }

    /// Whether memory comes from the source while it runs.
    fn fetches(&self) -> bool {
        self.memory.iter().any(Memory::fetches)
    }

    /// Whether it could keep memory that comes beside the images.
    pub(crate) fn preflight(&mut self, needs: Bytes) -> Result<bool, PartError> {
        self.config.must_fit(&self.workload, needs)?;
        self.needs = needs;
        Ok(godwit_memory::supported().is_ok())
    }

    pub(crate) fn stage(&mut self, plans: &[RestorePlan], source: &str, beside: bool) -> Result<Meeting, PartError> {
        self.beside = beside;
        let left = self.page.note()?.is_some_and(|note| note.mark == Mark::Coming);
        self.page.begin(Mark::Coming)?;
        if left {
            self.clear("remove what an older migration has left")?;
        }
        let layout = files::layout(&self.bundle)?;
        if let Some(layout) = &layout {
            if self.survives()? {
                return Err(PartError::new("it runs on this node: its files are not overwritten"));
            }
            self.reset_files(layout)?;
        }
        let (memory, limit) = (memory_mode(self.strategy, beside), Limit::within(STAGE_LIMIT));
        let restore = Prepared::new(
            &self.units,
            &self.images,
            plans,
            |bundle| RestoreOptions { memory, ..RestoreOptions::new(bundle) },
            &limit,
        )?;
        self.state = TargetState::Prepared(restore);
        self.receive(source, layout.as_ref())
    }

    /// Nothing of it runs here.
    fn reset_files(&self, layout: &Layout) -> Result<(), PartError> {
        let bundle = self.config.bundle(&self.workload);
        let reset = layout.reset(&self.config.env(), &bundle, &Limit::within(STAGE_LIMIT));
        reset.map_err(part("make room for its files"))
    }

    /// Starts to receive from the node that comes to the meeting.
    fn receive(&mut self, source: &str, layout: Option<&Layout>) -> Result<Meeting, PartError> {
        let (waiting, meeting) = meeting::await_source(self.config.node.as_str(), self.config.data)?;
        let peer = self.config.peer(source)?;
        self.source = source.into();
        let receiver = Receiver::listen(waiting, peer.clone(), meeting::options(), &self.images);
        let ender = receiver.ender();
        let memory = match memory_mode(self.strategy, self.beside) {
            MemoryMode::Copied => None,
            MemoryMode::Lazy => {
                let (mut stores, mut listeners) = (Vec::new(), Vec::new());
                // At stop-copy all of it comes in the freeze: memory for it is found now.
                let reserve = Reserve::of(if self.beside { self.needs.0 } else { 0 }, RESERVE_LIMIT);
                let reserve = Arc::new(reserve.map_err(|e| PartError::caused_by("find memory for its pages", e))?);
                for unit in &self.units.list {
                    let follows = (self.strategy == Strategy::PostCopy).then(|| peer.clone());
                    let (memory, store, listener) = Memory::listen(unit, &self.images, &reserve, follows)?;
                    self.memory.push(memory);
                    stores.push(store);
                    listeners.extend(listener);
                }
                let on_file = Box::new(move |name: &str| listeners.iter_mut().for_each(|hears| hears(name)));
                Some(Kept { stores, on_file })
            }
        };
        let (done, result) = mpsc::channel();
        let mut arriving = Arriving::new(memory, layout, &self.bundle);
        let receive = move || {
            let received = receiver.run(&mut arriving).map_err(|e| PartError::caused_by("receive the images", e));
            // Nobody may be left to be told.
            let _ = done.send(received.and_then(|bytes| arriving.check().map(|()| bytes)));
        };
        let thread = thread::Builder::new().name("images".into()).spawn(receive);
        thread.map_err(|e: io::Error| PartError::caused_by("start to receive", e))?;
        self.receiving = Some(Receiving { result, ender });
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
        // Begins to fetch what the images promise and nobody has sent: processes that are being made may wait for it already.
        let fetching =
            self.config.peer(&self.source).and_then(|peer| all_of(self.memory.iter_mut().map(|m| m.fetch(&peer))));
        if let Err(error) = fetching {
            self.state = TargetState::Prepared(restore);
            return Err(error);
        }
        let held = restore.restore(&Limit::within(FREEZE_LIMIT))?;
        let members = held.members().map_err(part("find its processes"));
        self.state = TargetState::Held(held);
        let members = members?;
        all_of(self.memory.iter().zip(&members).map(|(memory, members)| memory.check(members)))?;
        // What is fetched comes when they run: the CPUs and the link are the switch's till then.
        self.memory.iter().filter(|memory| !memory.fetches()).for_each(Memory::start_filling);
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> Result<(), PartError> {
        match self.page.read()? {
            Known::At(Mark::Coming) => {}
            Known::At(Mark::Resuming | Mark::Settled) => return self.must_survive(),
            Known::At(Mark::Lost) => return Err(PartError::gone(ENDED)),
            Known::Nothing | Known::At(_) | Known::Outdated => {
                return Err(PartError::new("there is nothing to resume"));
            }
        }
        let TargetState::Held(held) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(PartError::new("there is nothing to resume: its agent was started again before it had run"));
        };
        // Before its first instruction: from here on it may have run, whatever becomes of this agent.
        if let Err(error) = self.page.write(Mark::Resuming) {
            self.state = TargetState::Held(held);
            return Err(error);
        }
        match held.resume(&self.units, &Limit::within(FREEZE_LIMIT)) {
            Ok(running) => {
                self.state = TargetState::Running(running);
                Ok(())
            }
            Err(NotResumed { error, never_ran: false }) => {
                // What some of its containers have said cannot be taken back.
                let why = error.within("some of its containers ran, and others could not").chain();
                self.state = TargetState::Lost(why.clone());
                Err(PartError::gone(why))
            }
            Err(NotResumed { error, never_ran: true }) => {
                // Nothing of it is left, so it does not matter if this cannot be noted.
                if let Err(error) = self.page.write(Mark::Coming) {
                    tracing::warn!(error = error.chain(), "a target that did not run is noted as one that may have");
                }
                Err(error)
            }
        }
    }

    /// It was let run, perhaps by another agent.
    fn must_survive(&self) -> Result<(), PartError> {
        match &self.state {
            TargetState::Running(_) => Ok(()),
            TargetState::Lost(why) => Err(PartError::gone(why.clone())),
            _ if self.survives()? => Ok(()),
            _ => Err(PartError::gone(ENDED)),
        }
    }

    fn survives(&self) -> Result<bool, PartError> {
        // All of its containers: one alone is not the workload.
        for id in self.units.ids() {
            let survives = godwit_criu::survives_whole(&self.units.env, id, &Limit::within(STAGE_LIMIT));
            if !survives.map_err(part("look for its processes"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn settle(&mut self) -> Result<(), PartError> {
        match self.page.read()? {
            Known::At(Mark::Resuming) => {}
            Known::At(Mark::Lost) => return Err(PartError::gone(ENDED)),
            Known::Nothing | Known::At(_) | Known::Outdated => return Ok(()),
        }
        if let Err(error) = self.have_all() {
            if error.is_gone() {
                self.tidy_up_after_loss();
            }
            return Err(error);
        }
        // The source's are about to be removed.
        if let Some(layout) = files::layout(&self.bundle)? {
            files::flush(&layout, &self.bundle)?;
        }
        remove_dir(&self.images)?;
        self.page.write(Mark::Settled)
    }

    /// Waits until all memory is in place, and makes it an ordinary container.
    fn have_all(&mut self) -> Result<(), PartError> {
        match std::mem::replace(&mut self.state, TargetState::Settled) {
            TargetState::Running(running) => {
                for memory in &self.memory {
                    // What is fetched may have to wait for a link; who waits too long for it gives up by itself.
                    let within = if memory.fetches() { Duration::MAX } else { STAGE_LIMIT };
                    match memory.wait_filled(within) {
                        // It may yet be: to be asked again.
                        Err(error @ godwit_pages::Error::TimedOut { .. }) => {
                            self.state = TargetState::Running(running);
                            return Err(unfilled(error));
                        }
                        Err(error) => return Err(self.lost(running, unfilled(error))),
                        Ok(()) => {}
                    }
                }
                self.memory.clear();
                running.finish(&Limit::within(STAGE_LIMIT))
            }
            TargetState::Lost(why) => {
                self.state = TargetState::Lost(why.clone());
                Err(PartError::gone(why))
            }
            // Another agent has let it run, or has half settled it.
            _ => {
                self.must_survive()?;
                Fence::take_down_any(&self.units)?;
                let finish = |id| godwit_criu::finish_target(&self.units.env, id);
                all_of(self.units.ids().map(finish)).map_err(part("make it an ordinary container"))
            }
        }
    }

    /// Nothing is left to be done here but to remember it. What cannot be removed now is not noted as over.
    fn tidy_up_after_loss(&self) {
        let cleared = self.clear("remove what is left of it");
        match cleared.and_then(|()| remove_dir(&self.images)) {
            Ok(()) => self.page.close(Mark::Lost),
            Err(error) => tracing::warn!(error = error.chain(), "left behind"),
        }
    }

    fn clear(&self, why: &'static str) -> Result<(), PartError> {
        let clear = |id| godwit_criu::clear_target(&self.units.env, id, &Limit::within(STAGE_LIMIT));
        all_of(self.units.ids().map(clear)).map_err(part(why))?;
        Fence::take_down_any(&self.units)
    }

    /// Pages that nobody has any more: it must not run on with zeroes in their place.
    fn lost(&mut self, running: Running, error: PartError) -> PartError {
        let fetched = self.fetches();
        let memory = std::mem::take(&mut self.memory);
        if let Err(error) = running.end(&self.units) {
            // Its descriptors stay open for ever then, and it stands.
            tracing::error!(error = error.chain(), "the incomplete copy could not be ended");
            std::mem::forget(memory);
        }
        let what = match fetched {
            true => "some of its memory was only on the source, and did not come",
            false => "some of its memory could not be put in its place",
        };
        let why = error.within(what).chain();
        self.state = TargetState::Lost(why.clone());
        PartError::gone(why)
    }

    pub(crate) fn abort(&mut self) -> Result<(), PartError> {
        match self.page.read()? {
            // So that a stage which is still on its way finds that it is over.
            Known::Nothing => {
                self.page.close(Mark::Aborted);
                return Ok(());
            }
            Known::At(Mark::Coming) => {}
            Known::At(Mark::Resuming) if !matches!(self.state, TargetState::Running(_)) && !self.survives()? => {}
            // What its clients have seen of it is nowhere else: the source is not to run again.
            Known::At(Mark::Lost) => return Err(PartError::gone(ENDED)),
            Known::At(Mark::Resuming | Mark::Settled) => {
                return Err(PartError::new("the target's copy runs: it is the workload, and is not ended"));
            }
            Known::At(_) | Known::Outdated => return Ok(()),
        }
        // Ends the receiver, if the source never sent.
        if let Some(receiving) = self.receiving.take() {
            receiving.ender.end("the migration is rolled back");
            // Until it is through with the directory that is about to be removed.
            let _ = receiving.result.recv();
        }
        let ended = match std::mem::replace(&mut self.state, TargetState::Empty) {
            TargetState::Prepared(restore) => restore.cancel(),
            TargetState::Held(held) => held.abort(),
            TargetState::Lost(why) => {
                self.state = TargetState::Lost(why.clone());
                return Err(PartError::gone(why));
            }
            _ => self.clear("end the target's copy"),
        };
        self.memory.clear();
        ended?;
        if let Some(layout) = files::layout(&self.bundle)? {
            self.reset_files(&layout)?;
        }
        remove_dir(&self.images)?;
        self.page.close(Mark::Aborted);
        Ok(())
    }

    /// Its controller has been away for long. What was merely prepared is given up; true if nothing is left here.
    pub(crate) fn lease_is_over(&mut self) -> bool {
        match self.state {
            TargetState::Empty | TargetState::Settled => true,
            TargetState::Prepared(_) => match self.abort() {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a migration without a controller is not given up");
                    false
                }
            },
            // Only the journal knows whether it is to run.
            TargetState::Held(_) | TargetState::Running(_) | TargetState::Lost(_) => false,
        }
    }
}
