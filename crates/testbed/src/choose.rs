//! Which strategy a migration takes when none is asked for.

mod weigh;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use godwit_memory::Tracker;
use godwit_migration::PartError;
use godwit_model::{Strategy, StrategyChoice};

use crate::backhaul;
use crate::container::Container;
use crate::network::NodeNet;
use crate::node::Node;
use weigh::{Measured, weigh};

/// How long it is watched what the workload writes.
const WATCH: Duration = Duration::from_millis(50);
/// Sent over the link to see how fast it is: at a gigabit a second 34 ms.
const PROBE: usize = 4 << 20;

/// A strategy, and why, where it was not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) strategy: Strategy,
    pub(crate) why: Option<String>,
}

/// What was asked for; else what fits to memory, dirty rate and link, where the kernel can track what the workload writes and
/// nothing of the workload writes unseen; else stop-copy.
pub(crate) fn choose(
    wanted: StrategyChoice,
    node: &Node,
    container: &Container,
    from: &NodeNet,
    to: &NodeNet,
) -> Chosen {
    let chosen = |strategy, why: String| Chosen { strategy, why: Some(why) };
    if let StrategyChoice::Fixed(strategy) = wanted {
        return Chosen { strategy, why: None };
    }
    if let Err(why) = godwit_memory::supported() {
        return chosen(Strategy::StopCopy, format!("memory cannot be tracked here: {why}"));
    }
    let pids = container.pids(node);
    for pid in &pids {
        match godwit_memory::hazards(*pid) {
            Ok(hazards) => {
                if let Some(hazard) = hazards.first() {
                    return chosen(Strategy::StopCopy, format!("its memory changes unseen: {hazard}"));
                }
            }
            // It has ended meanwhile, or cannot be looked at: the migration itself will say so.
            Err(error) => tracing::debug!(pid, %error, "hazards are not known"),
        }
    }
    let (memory, dirty) = match watch(&pids) {
        Ok((memory, dirty)) => (Some(memory), Some(dirty)),
        Err(error) => {
            tracing::debug!(%error, "what it writes is not known");
            (None, None)
        }
    };
    let link =
        probe(from, to).inspect_err(|e| tracing::debug!(error = e.chain(), "the link's speed is not known")).ok();
    let (strategy, why) = weigh(&Measured { memory, dirty, link });
    chosen(strategy, why)
}

/// The private memory that is there, in bytes, and what is written of it, in bytes a second.
fn watch(pids: &[i32]) -> godwit_memory::Result<(u64, f64)> {
    let mut tracker = Tracker::attach(pids)?;
    let memory = tracker.round(pids)?.bytes();
    thread::sleep(WATCH);
    let round = tracker.round(pids)?;
    let since = round.since_last.unwrap_or(WATCH).as_secs_f64();
    let dirty = round.bytes() as f64 / since;
    tracker.detach()?;
    Ok((memory, dirty))
}

/// What the link between the nodes carries, in bytes a second.
fn probe(from: &NodeNet, to: &NodeNet) -> Result<f64, PartError> {
    let failed = |e| PartError::caused_by("measure the backhaul", e);
    let (mut sender, mut receiver) = backhaul::connect(from, to)?;
    receiver.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    let start = Instant::now();
    thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(&vec![0x5a; PROBE]));
        let mut room = vec![0; PROBE];
        receiver.read_exact(&mut room).map_err(failed)?;
        let took = start.elapsed();
        match sending.join() {
            Ok(sent) => sent.map_err(failed)?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(PROBE as f64 / took.as_secs_f64())
    })
}
