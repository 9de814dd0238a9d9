//! The memory of a container that is on its way in: kept ready for its processes, and fetched where it follows (post-copy).

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use godwit_criu::Member;
use godwit_migration::PartError;
use godwit_pages::remote::{PageSource, Patience, RemotePages};
use godwit_pages::{FillOptions, HandlerProgram, LazyHandler, PageStore, Reserve};
use godwit_transport::Peer;

use crate::paging::{self, Ahead, Door};
use crate::unit::Unit;

/// Hears of every file that has arrived.
pub(crate) type Listener = Box<dyn FnMut(&str) + Send>;

/// What serves it. Dropping it ends the fetching.
pub(crate) struct Memory {
    images: PathBuf,
    handler: LazyHandler,
    /// Post-copy: what fetches from the source.
    pages: Option<Arc<RemotePages>>,
    /// And its way there.
    ahead: Option<mpsc::Receiver<Ahead>>,
}

impl Memory {
    /// Listens among the images of a container, in `all`. Of the peer that `follows` what is missing is fetched later.
    pub(crate) fn listen(
        unit: &Unit,
        all: &Path,
        reserve: &Arc<Reserve>,
        follows: Option<Peer>,
    ) -> Result<(Self, Arc<PageStore>, Option<Listener>), PartError> {
        let (images, store) = (unit.images(all), Arc::new(PageStore::with_reserve(Arc::clone(reserve))));
        let pages = follows.is_some().then(RemotePages::new);
        let remote = pages.clone().map(|pages| pages as Arc<dyn PageSource>);
        let options = FillOptions { remote, apart: Some(apart()), ..FillOptions::default() };
        let handler = LazyHandler::listen(&images, Arc::clone(&store), options);
        let handler = handler.map_err(|e| PartError::caused_by("keep memory ready", e))?;
        let (ahead, listener) = match follows {
            Some(peer) => {
                let (ahead, listener) = goes_ahead(unit, &images, peer);
                (Some(ahead), Some(listener))
            }
            None => (None, None),
        };
        Ok((Self { images, handler, pages, ahead }, store, listener))
    }

    /// Whether it comes from the source while the processes run.
    pub(crate) fn fetches(&self) -> bool {
        self.pages.is_some()
    }

    /// Begins to fetch what the images promise and nobody has sent, if it is to be fetched.
    pub(crate) fn fetch(&mut self, peer: &Peer) -> Result<(), PartError> {
        let Some(pages) = &self.pages else { return Ok(()) };
        let (door, peer) = (Door::read(&self.images)?, peer.clone());
        let ahead = self.ahead.take().and_then(|ahead| ahead.try_recv().ok()).and_then(Ahead::finish);
        // What does not work is found before the commit.
        let first = ahead.map_or_else(|| door.connect(&peer), Ok);
        let mut first = Some(first.map_err(|e| PartError::caused_by("reach the source's memory", e))?);
        let missing = self.handler.missing().map_err(|e| PartError::caused_by("see what memory is missing", e))?;
        pages
            .begin(&missing, self.handler.arrivals(), Patience::default(), move || {
                first.take().map_or_else(|| door.connect(&peer), Ok)
            })
            .map_err(|e| PartError::caused_by("start to fetch memory", e))
    }

    /// Whether the restore, which is held, may go beyond the commit; from here its processes do not run on with zeroes.
    pub(crate) fn check(&self, members: &[Member]) -> Result<(), PartError> {
        let complete = if self.fetches() { self.handler.check_processes() } else { self.handler.check() };
        complete.map_err(|e| PartError::caused_by("have all its memory", e))?;
        // If this agent is killed before all is in place, pages must not turn into zeroes.
        let pids: Vec<i32> = members.iter().map(|member| member.host_pid).collect();
        self.handler.guard(&pids).map_err(|e| PartError::caused_by("guard its memory", e))
    }

    pub(crate) fn start_filling(&self) {
        self.handler.start_filling();
    }

    /// Waits until all of it is in its place.
    pub(crate) fn wait_filled(&self, within: Duration) -> godwit_pages::Result<()> {
        let filled = self.handler.wait_filled(within)?;
        tracing::debug!(?filled, "memory is in place");
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(pages) = &self.pages {
            pages.stop();
        }
    }
}

/// This very program, whatever is at its path by now.
fn apart() -> HandlerProgram {
    HandlerProgram { path: "/proc/self/exe".into(), args: vec!["page-handler".into()] }
}

/// When it is known where the source's memory will be, it is gone there.
fn goes_ahead(unit: &Unit, images: &Path, peer: Peer) -> (mpsc::Receiver<Ahead>, Listener) {
    let (begun, ahead) = mpsc::channel();
    let (images, awaited) = (images.to_owned(), unit.file(paging::FILE));
    let listener = Box::new(move |name: &str| {
        if name == awaited
            && let Ok(door) = Door::read(&images)
        {
            // Nobody wants to go there where nothing is to be fetched.
            let _ = begun.send(Ahead::begin(door, peer.clone()));
        }
    });
    (ahead, listener)
}
