//! The server in a process of its own, and its fork that guards it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Server;
use crate::apart::{Entry, Forked, Standby, begin, heard, name, refuse};
use crate::handler::Phase;
use crate::task::Task;

const HANDLER: &std::ffi::CStr = c"godwit-pages";

impl Server {
    /// Waits for what it is to serve; none when it is not needed.
    pub(crate) fn received() -> io::Result<Option<Self>> {
        name(HANDLER);
        // Neither a terminal's ^C nor its owner's end is its end. It leads a group already where it was started so.
        let _ = nix::unistd::setsid();
        // Whoever is ended to gain memory, this would be the wrong one: it gives some back soon. (As much as it may ask for.)
        let _ = fs::write("/proc/self/oom_score_adj", "-900");
        let Some((owner, descriptors)) = begin()? else { return Ok(None) };
        let line = owner.try_clone()?;
        match Self::handed_over(owner, descriptors) {
            Ok(server) => Ok(Some(server)),
            Err(error) => {
                refuse(line.as_fd(), &error);
                Err(error)
            }
        }
    }

    /// The whole life of a handler that is a process of its own, or of its guard.
    pub(crate) fn run_apart(mut self) -> ExitCode {
        let begun = self.fork_guard().map_err(|e| format!("no guard: {e}"));
        let end = begun.and_then(|()| {
            if let Some(apart) = &self.apart {
                apart.guarded();
            }
            self.serve()
        });
        let end = end.unwrap_or_else(Phase::Failed);
        if !self.released {
            self.refuse();
        }
        let stats = self.shared.state().stats;
        let Some(mut apart) = self.apart.take() else { return ExitCode::FAILURE };
        if matches!(end, Phase::Failed(_)) {
            apart.end_processes();
        }
        apart.dismiss_guard();
        self.tasks.clear();
        apart.told(&end, &stats);
        ExitCode::SUCCESS
    }

    /// Has a guard as long as there is something to guard.
    pub(super) fn keep_guarded(&mut self) {
        let guarded = self.apart.as_ref().is_none_or(|apart| apart.standby.as_ref().is_some_and(Standby::hears));
        if !guarded && !self.tasks.is_empty() {
            // It goes without where that fails, and tries again.
            let _ = self.fork_guard();
        }
    }

    /// Returns in the handler; and in the guard when that has become the handler.
    fn fork_guard(&mut self) -> io::Result<()> {
        loop {
            let Some(apart) = &mut self.apart else { return Ok(()) };
            apart.standby = None;
            match Standby::fork()? {
                Forked::Handler(standby) => {
                    apart.standby = Some(standby);
                    return Ok(());
                }
                Forked::Guard(line) => self.stand_by(&line)?,
            }
        }
    }

    /// Follows the handler, until it ends.
    fn stand_by(&mut self, line: &OwnedFd) -> io::Result<()> {
        while let Some(entry) = heard(line)? {
            match entry {
                Entry::Filled => self.tasks.clear(),
                Entry::Event { task, event } => {
                    if let Some(task) = self.tasks.iter_mut().find(|known| known.id == task) {
                        let outcome = task.on_events(vec![event], &self.store)?;
                        self.adopt(outcome.children);
                    }
                }
            }
        }
        let Some(apart) = &mut self.apart else { return Ok(()) };
        if apart.flags.done.load(Ordering::SeqCst) {
            std::process::exit(0);
        }
        name(HANDLER);
        if apart.flags.busy.load(Ordering::SeqCst) {
            return Err(io::Error::other("who put its memory in place was killed while it read what has become of it"));
        }
        self.released = apart.flags.released.load(Ordering::SeqCst);
        self.shared.fill.store(apart.flags.fill.load(Ordering::SeqCst), Ordering::SeqCst);
        apart.took_over();
        if self.released {
            self.run_now();
        }
        self.idle = Instant::now();
        // Those whose faults were read and not answered ask again.
        self.tasks.iter().for_each(|task| task.uffd.wake_all());
        Ok(())
    }

    /// Children have the numbers that they have in the guard.
    pub(super) fn adopt(&mut self, children: Vec<Task>) {
        for mut child in children {
            child.id = self.next_id;
            self.next_id += 1;
            self.tasks.push(child);
        }
    }
}
