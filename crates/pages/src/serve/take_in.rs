//! Pages that have come from elsewhere: into their places.

use std::ops::Range;

use super::Server;
use crate::PAGE;
use crate::task::Step;

/// Put in place between two looks for faults.
const AT_ONCE: u64 = 64 * PAGE;

impl Server {
    /// That first for which a process waits, however much has come before it.
    pub(super) fn take_in(&mut self, filling: bool) -> Result<(), String> {
        let has_come = |(pid, addr): &(i32, u64)| self.store.absent(*pid, *addr, PAGE) == 0;
        let wanted: Vec<(i32, u64)> = self.wanted.keys().copied().filter(has_come).collect();
        for (pid, addr) in wanted {
            self.place(pid, addr..addr + PAGE)?;
        }
        // Before that the mappings are not where they will be.
        let mut most = if filling { AT_ONCE } else { 0 };
        while most > 0 {
            let Some((pid, range)) = self.shared.state().arrived.pop_front() else { break };
            if !self.place(pid, range.clone())? {
                self.shared.state().arrived.push_front((pid, range));
                break;
            }
            most = most.saturating_sub(range.end - range.start);
        }
        Ok(())
    }

    /// Puts what has come of a range in its place; false if events have to be read first.
    fn place(&mut self, pid: i32, range: Range<u64>) -> Result<bool, String> {
        let (mut filled, mut expected) = (0, !self.released);
        for task in self.tasks.iter_mut().filter(|task| task.pid == pid) {
            expected = false;
            match task.arrived(&range, &self.store).map_err(|e| format!("process {pid}: {e}"))? {
                Step::Filled(bytes) => filled += bytes,
                Step::Events => return Ok(false),
                Step::Gone => task.gone = true,
                Step::Absent | Step::Idle => {}
            }
        }
        // A process that is still to be handed over finds it in the store.
        if !expected {
            self.store.forget(pid, range.clone()).map_err(|e| e.to_string())?;
        }
        let waited: Vec<_> = self.wanted.range((pid, range.start)..(pid, range.end)).map(|(k, v)| (*k, *v)).collect();
        let mut state = self.shared.state();
        state.stats.filled += filled;
        for (key, since) in waited {
            self.wanted.remove(&key);
            let waited = since.elapsed();
            state.stats.fetched += 1;
            state.stats.all_faults += waited;
            state.stats.worst_fault = state.stats.worst_fault.max(waited);
        }
        Ok(true)
    }
}
