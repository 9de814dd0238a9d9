//! The workload on the node to which it goes.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use godwit_criu::{
    HeldRestore, ImagesDir, Limit, MemoryMode, PreparedRestore, RestoreOptions, RestorePlan, RestoredContainer, Runc,
};
use godwit_migration::PartError;
use godwit_model::{Bytes, Strategy};
use godwit_pages::remote::{PageSource, Patience, RemotePages};
use godwit_pages::{FillOptions, LazyHandler, PageStore};
use godwit_transport::{Ender, Peer, Receiver};

use crate::config::AgentConfig;
use crate::files::{self, Arriving, Layout};
use crate::meeting;
use crate::note::{Known, Mark, Page};
use crate::paging::{self, Ahead, Door};
use crate::precopy::Kept;
use crate::source::{illegal, memory_mode, part, remove_dir};
use crate::wire::{Meeting, Migration};
use crate::{FREEZE_LIMIT, STAGE_LIMIT};

/// Of a target that was let run.
const ENDED: &str = "all its processes have ended";

/// How far the target is.
enum TargetState {
    Empty,
    Prepared(PreparedRestore),
    Held(HeldRestore),
    Running(RestoredContainer),
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
    strategy: Strategy,
    /// Stop-copy: the memory comes beside the images.
    beside: bool,
    images: PathBuf,
    /// Its bundle as this process sees it.
    bundle: PathBuf,
    page: Page,
    handler: Option<LazyHandler>,
    /// Post-copy: what fetches from the source.
    pages: Option<Arc<RemotePages>>,
    /// And its way there.
    ahead: Option<mpsc::Receiver<Ahead>>,
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
        let (handler, pages, ahead, receiving, state) = (None, None, None, None, TargetState::Empty);
        let (beside, source) = (false, String::new());
        Ok(Self {
            config,
            workload,
            strategy,
            beside,
            images,
            bundle,
            page,
            handler,
            pages,
            ahead,
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
            TargetState::Running(_) if self.pages.is_some() => "runs, some of its memory is only on the source",
            TargetState::Running(_) => "runs, memory is put in place",
            TargetState::Settled => "runs",
            TargetState::Lost(_) => "lost: some of its memory was only on the source",
        }
    }

    /// Whether it could keep memory that comes beside the images.
    pub(crate) fn preflight(&mut self, needs: Bytes) -> Result<bool, PartError> {
        self.config.must_fit(&self.workload, needs)?;
        Ok(godwit_memory::supported().is_ok())
    }

    pub(crate) fn stage(&mut self, plan: &RestorePlan, source: &str, beside: bool) -> Result<Meeting, PartError> {
        self.beside = beside;
        let left = self.page.note()?.is_some_and(|note| note.mark == Mark::Coming);
        self.page.begin(Mark::Coming)?;
        if left {
            self.clear().map_err(part("remove what an older migration has left"))?;
        }
        let layout = files::layout(&self.bundle)?;
        if let Some(layout) = &layout {
            if self.survives()? {
                return Err(PartError::new("it runs on this node: its files are not overwritten"));
            }
            self.reset_files(layout)?;
        }
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let restore = PreparedRestore::new(
            &self.config.env(),
            &self.workload,
            images,
            plan,
            RestoreOptions {
                memory: memory_mode(self.strategy, beside),
                ..RestoreOptions::new(self.config.bundle(&self.workload))
            },
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the restore"))?;
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
                let store = Arc::new(PageStore::new());
                self.pages = (self.strategy == Strategy::PostCopy).then(RemotePages::new);
                let remote = self.pages.clone().map(|pages| pages as Arc<dyn PageSource>);
                let options = FillOptions { remote, ..FillOptions::default() };
                let handler = LazyHandler::listen(&self.images, Arc::clone(&store), options);
                self.handler = Some(handler.map_err(|e| PartError::caused_by("keep memory ready", e))?);
                Some(Kept { store, on_file: self.on_file(peer) })
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

    /// When it is known where the source's memory will be, it is gone there.
    fn on_file(&mut self, peer: Peer) -> Box<dyn FnMut(&str) + Send> {
        let (begun, ahead) = mpsc::channel();
        self.ahead = self.pages.is_some().then_some(ahead);
        let images = self.images.clone();
        Box::new(move |name| {
            if name == paging::FILE
                && let Ok(door) = Door::read(&images)
            {
                // Nobody wants to go there where nothing is to be fetched.
                let _ = begun.send(Ahead::begin(door, peer.clone()));
            }
        })
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
        if let Err(error) = self.fetch() {
            self.state = TargetState::Prepared(restore);
            return Err(error);
        }
        // A failed restore has cleaned up behind itself.
        let held = restore.restore(&Limit::within(FREEZE_LIMIT)).map_err(part("restore it"))?;
        let members = held.members().map_err(part("find its processes"));
        self.state = TargetState::Held(held);
        if let Some(handler) = &self.handler {
            let complete = if self.pages.is_some() { handler.check_processes() } else { handler.check() };
            complete.map_err(|e| PartError::caused_by("have all its memory", e))?;
            // If this agent is killed before all is in place, pages must not turn into zeroes.
            let pids: Vec<i32> = members?.iter().map(|member| member.host_pid).collect();
            handler.guard(&pids).map_err(|e| PartError::caused_by("guard its memory", e))?;
            // What is fetched comes when they run: the CPUs and the link are the switch's till then.
            if self.pages.is_none() {
                handler.start_filling();
            }
        }
        Ok(())
    }

    /// Begins to fetch what the images promise and nobody has sent: processes that are being made may wait for it already.
    fn fetch(&mut self) -> Result<(), PartError> {
        let (Some(pages), Some(handler)) = (&self.pages, &self.handler) else { return Ok(()) };
        let (door, peer) = (Door::read(&self.images)?, self.config.peer(&self.source)?);
        let ahead = self.ahead.take().and_then(|ahead| ahead.try_recv().ok()).and_then(Ahead::finish);
        // What does not work is found before the commit.
        let first = ahead.map_or_else(|| door.connect(&peer), Ok);
        let mut first = Some(first.map_err(|e| PartError::caused_by("reach the source's memory", e))?);
        let missing = handler.missing().map_err(|e| PartError::caused_by("see what memory is missing", e))?;
        pages
            .begin(&missing, handler.arrivals(), Patience::default(), move || {
                first.take().map_or_else(|| door.connect(&peer), Ok)
            })
            .map_err(|e| PartError::caused_by("start to fetch memory", e))
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
        match held.resume(&Limit::within(FREEZE_LIMIT)) {
            Ok(running) => {
                self.state = TargetState::Running(running);
                Ok(())
            }
            Err(error) => {
                // Nothing of it is left, so it does not matter if this cannot be noted.
                if let Err(error) = self.page.write(Mark::Coming) {
                    tracing::warn!(error = error.chain(), "a target that did not run is noted as one that may have");
                }
                Err(part("let it run")(error))
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
        godwit_criu::survives_whole(&self.config.env(), &self.workload, &Limit::within(STAGE_LIMIT))
            .map_err(part("look for its processes"))
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
        let ordinary = || part("make it an ordinary container");
        match std::mem::replace(&mut self.state, TargetState::Settled) {
            TargetState::Running(running) => {
                if let Some(handler) = self.handler.take() {
                    // What is fetched may have to wait for a link; who waits too long for it gives up by itself.
                    let within = if self.pages.is_some() { Duration::MAX } else { STAGE_LIMIT };
                    match handler.wait_filled(within) {
                        Ok(filled) => tracing::debug!(?filled, "memory is in place"),
                        Err(error) if self.pages.is_some() => return Err(self.lost(running, handler, error)),
                        Err(error) => return Err(PartError::caused_by("put all memory in place", error)),
                    }
                }
                if let Some(pages) = self.pages.take() {
                    pages.stop();
                }
                running.finish(&Limit::within(STAGE_LIMIT)).map(drop).map_err(ordinary())
            }
            TargetState::Lost(why) => {
                self.state = TargetState::Lost(why.clone());
                Err(PartError::gone(why))
            }
            // Another agent has let it run, or has half settled it.
            _ => {
                self.must_survive()?;
                godwit_criu::finish_target(&self.config.env(), &self.workload).map_err(ordinary())
            }
        }
    }

    /// Nothing is left to be done here but to remember it. What cannot be removed now is not noted as over.
    fn tidy_up_after_loss(&self) {
        let cleared = self.clear().map_err(part("remove what is left of it"));
        match cleared.and_then(|()| remove_dir(&self.images)) {
            Ok(()) => self.page.close(Mark::Lost),
            Err(error) => tracing::warn!(error = error.chain(), "left behind"),
        }
    }

    fn clear(&self) -> godwit_criu::Result<()> {
        godwit_criu::clear_target(&self.config.env(), &self.workload, &Limit::within(STAGE_LIMIT))
    }

    /// Pages that nobody has any more: it must not run on with zeroes in their place.
    fn lost(&mut self, running: RestoredContainer, handler: LazyHandler, error: godwit_pages::Error) -> PartError {
        drop(running);
        let limit = Limit::within(STAGE_LIMIT);
        if let Err(error) = Runc::new(&self.config.env()).delete(&self.workload, true, &limit) {
            // Its descriptors stay open for ever then, and it stands.
            tracing::error!(%error, "the incomplete copy could not be ended");
            std::mem::forget(handler);
        }
        self.pages = None;
        let why = PartError::caused_by("some of its memory was only on the source, and did not come", error).chain();
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
            TargetState::Prepared(restore) => restore.cancel().map_err(part("take the target's container away")),
            TargetState::Held(held) => held.abort().map_err(part("end the target's copy")),
            TargetState::Lost(why) => {
                self.state = TargetState::Lost(why.clone());
                return Err(PartError::gone(why));
            }
            _ => self.clear().map_err(part("end the target's copy")),
        };
        if let Some(pages) = self.pages.take() {
            pages.stop();
        }
        self.handler = None;
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
