//! A source that CRIU has let go of, and what is to be done when whoever moved it has died.

use std::time::Duration;

use crate::cgroup::{Cgroups, Freezer};
use crate::dump::DumpTimes;
use crate::error::Result;
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::process::{self, Member};
use crate::runc::Runc;
use crate::sockets;
use crate::stage::Stage;

/// Between two looks at who traces a task, which nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// CRIU has let go; the container still stands in its frozen cgroup, its sockets as they were. Dropping it thaws it.
#[derive(Debug)]
pub struct ReleasedDump {
    id: String,
    // None once thawed.
    freezer: Option<Freezer>,
    times: DumpTimes,
}

impl ReleasedDump {
    pub(crate) fn new(id: String, freezer: Freezer, times: DumpTimes) -> Self {
        Self { id, freezer: Some(freezer), times }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How long the parts took.
    pub fn times(&self) -> DumpTimes {
        self.times
    }

    /// Lets the container run.
    pub fn thaw(mut self) -> Result<()> {
        self.freezer.take().map_or(Ok(()), |freezer| freezer.thaw())
    }

    pub(crate) fn took(&mut self, decision: Duration) {
        self.times.decision = decision;
    }

    /// Waits until every task stands, and takes the sockets out of repair mode.
    pub(crate) fn revive(&self, limit: &Limit) -> Result<()> {
        let Some(freezer) = &self.freezer else { return Ok(()) };
        freezer.wait_frozen(limit)?;
        sockets::recover_sockets(&freezer.pids()?).map(|_| ())
    }
}

impl Drop for ReleasedDump {
    fn drop(&mut self) {
        if let Some(freezer) = self.freezer.take() {
            let _ = freezer.thaw();
        }
    }
}

/// Brings the source back after the process that was moving it has died at any moment **before** its commit point: the
/// roll-back of a [`crate::HeldDump`] that is lost. Its CRIU, seeing the other end gone, lets go of the tasks by
/// itself and leaves them frozen; this waits for that, and freezes a container that runs for an instant.
///
/// As after a roll-back, packets are let through next, and then it is thawed.
pub fn recover_source(env: &NodeEnv, id: &str, limit: &Limit) -> Result<ReleasedDump> {
    let released = stand(env, id, limit)?;
    released.revive(limit)?;
    Ok(released)
}

/// Ends the source after the process that was moving it has died **after** its commit point: the commit of a
/// [`crate::HeldDump`] that is lost. It sends no packet, and it does nothing where runc knows no such container.
pub fn end_source(env: &NodeEnv, id: &str, limit: &Limit) -> Result<()> {
    let runc = Runc::new(env);
    if !knows(env, &runc, id) {
        return Ok(());
    }
    end_silently(&stand(env, id, limit)?, limit)?;
    runc.delete(id, true, limit)
}

/// Makes the target as it was after the process that was restoring there has died **before** its commit point: the
/// abort of a [`crate::HeldRestore`] or [`crate::PreparedRestore`] that is lost. It ends the container if it runs, and
/// does nothing where runc knows none.
pub fn clear_target(env: &NodeEnv, id: &str, limit: &Limit) -> Result<()> {
    let runc = Runc::new(env);
    if knows(env, &runc, id) {
        end_silently(&stand(env, id, limit)?, limit)?;
        runc.delete(id, true, limit)?;
    }
    Stage::left_behind(env, id)?.map_or(Ok(()), Stage::remove)
}

/// Whether the container runs on after the process that restored it has died, at whatever moment. It waits for a CRIU that is
/// still there: one that was not told to let the processes run ends them, one that was lets them run.
pub fn survives(env: &NodeEnv, id: &str, limit: &Limit) -> Result<bool> {
    let runc = Runc::new(env);
    if !knows(env, &runc, id) {
        return Ok(false);
    }
    let freezer = Cgroups::new(env, &runc.state_file(id)?.cgroup_paths()).freezer()?;
    loop {
        let pids = freezer.pids()?;
        // It runs in the container's own control group.
        if !pids.iter().any(|pid| process::status_line(*pid, "Name:").is_ok_and(|name| name == "criu")) {
            return Ok(pids
                .iter()
                .any(|pid| process::status_line(*pid, "State:").is_ok_and(|state| !state.starts_with('Z'))));
        }
        limit.pause(LOOK_AGAIN, "CRIU to leave the container")?;
    }
}

/// The same for a target whose memory was put in place while it ran. It waits, too, until none of it is missing: where the
/// process that had the rest has died, the guard is about to end what cannot have it.
pub fn survives_whole(env: &NodeEnv, id: &str, limit: &Limit) -> Result<bool> {
    while survives(env, id, limit)? {
        let freezer = Cgroups::new(env, &Runc::new(env).state_file(id)?.cgroup_paths()).freezer()?;
        let pids = freezer.pids()?;
        let runs = |pid: &&i32| process::status_line(**pid, "State:").is_ok_and(|state| !state.starts_with('Z'));
        // One without memory is about to end, and says nothing of the others.
        let whole: Vec<_> = pids.iter().filter(runs).map(|pid| process::awaits_memory(*pid)).collect();
        if !whole.is_empty() && whole.iter().all(|awaits| *awaits == Some(false)) {
            return Ok(true);
        }
        limit.pause(LOOK_AGAIN, "all memory to be in place, or the container to end")?;
    }
    Ok(false)
}

/// The processes of a container that is in nobody's hands.
pub fn members(env: &NodeEnv, id: &str) -> Result<Vec<Member>> {
    let freezer = Cgroups::new(env, &Runc::new(env).state_file(id)?.cgroup_paths()).freezer()?;
    Ok(process::members(&freezer.pids()?))
}

/// Takes away what the restoring process needed and a survivor does not: the end of a [`crate::RestoredContainer`] that is lost.
pub fn finish_target(env: &NodeEnv, id: &str) -> Result<()> {
    Stage::left_behind(env, id)?.map_or(Ok(()), Stage::remove)
}

fn end_silently(released: &ReleasedDump, limit: &Limit) -> Result<()> {
    let Some(freezer) = &released.freezer else { return Ok(()) };
    freezer.wait_frozen(limit)?;
    sockets::silence_sockets(&freezer.pids()?)?;
    freezer.kill_all(limit)
}

fn knows(env: &NodeEnv, runc: &Runc, id: &str) -> bool {
    env.host_path(runc.dir(id)).join("state.json").exists()
}

/// The container frozen, and in nobody's hands.
fn stand(env: &NodeEnv, id: &str, limit: &Limit) -> Result<ReleasedDump> {
    let runc = Runc::new(env);
    let freezer = Cgroups::new(env, &runc.state_file(id)?.cgroup_paths()).freezer()?;
    // A CRIU that still holds the tasks is about to let go. A freeze would stop it from doing so in good order.
    while freezer.pids()?.iter().any(|pid| process::status_line(*pid, "TracerPid:").is_ok_and(|t| t != "0")) {
        limit.pause(LOOK_AGAIN, "CRIU to let go of the container")?;
    }
    freezer.ask()?;
    Ok(ReleasedDump::new(id.into(), freezer, DumpTimes::default()))
}
