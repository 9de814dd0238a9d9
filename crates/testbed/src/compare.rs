//! The same move by plain `runc checkpoint` and `runc restore`, for comparison.

mod lazy;
mod plain;

use std::time::{Duration, Instant};

use godwit_model::{BaselineMove, NodeName, UserName, WorkloadName};
use godwit_traffic::{Client, ClientConfig};

use crate::error::TestbedError;
use crate::stop::Stop;
use crate::world::Testbed;

pub(crate) use plain::{Plain, plain_move};

/// How long a service may take to answer at first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after a move its gap is looked at, and how long the connection is left alone before the next.
const SETTLES: Duration = Duration::from_millis(700);
/// How long before the move and after it a silence still belongs to it.
const MARGIN: Duration = Duration::from_millis(100);
/// Plain moves are numbered from here, so that none has the number of a migration.
const FIRST_NUMBER: u64 = 2_000_000;

/// The one who would notice.
pub(crate) struct Watched<'a> {
    pub(crate) testbed: &'a Testbed,
    pub(crate) workload: &'a WorkloadName,
    pub(crate) client: Client,
}

impl<'a> Watched<'a> {
    /// Connects a client in the user's namespace, and waits until it is answered.
    pub(crate) fn new(
        testbed: &'a Testbed,
        workload: &'a WorkloadName,
        user: &UserName,
        stop: &Stop,
    ) -> Result<Self, TestbedError> {
        let address = testbed.service_address(workload);
        let client = testbed.network().user_netns(user).enter(|| Client::connect(address, ClientConfig::default()))?;
        let client = client.map_err(|source| TestbedError::Client { user: user.clone(), source })?;
        // A service that is still filling its memory has not accepted the connection yet.
        let deadline = Instant::now() + PATIENCE;
        while client.snapshot().received < 20 && !stop.is_asked() {
            if Instant::now() >= deadline {
                let what = format!("{workload} does not answer within {} s", PATIENCE.as_secs());
                return Err(TestbedError::Compare { what, source: None });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { testbed, workload, client })
    }

    /// Where it is now.
    pub(crate) fn node(&self) -> NodeName {
        self.testbed.placement()[self.workload].clone()
    }

    /// Leaves it alone until what a move did to the client can be told.
    pub(crate) fn settle(&self) {
        std::thread::sleep(SETTLES);
    }

    /// The longest silence around a freeze, ms.
    pub(crate) fn gap_ms(&self, freeze: (Instant, Instant)) -> Option<f64> {
        let gap = self.client.worst_gap_between(freeze.0 - MARGIN, freeze.1 + MARGIN)?;
        Some(gap.len().as_secs_f64() * 1e3)
    }

    pub(crate) fn plain_move(&self, to: &NodeName, nth: u32, plain: Plain) -> Result<plain::PlainMove, TestbedError> {
        plain_move(self.testbed, self.workload, to, FIRST_NUMBER + u64::from(nth), plain)
    }
}

/// Moves `workload` there and back between its node and `other`, `rounds` times, by plain runc while a client of `user`
/// measures. Ends early, with what there is, when stopped.
pub fn compare(
    testbed: &Testbed,
    workload: &WorkloadName,
    user: &UserName,
    other: &NodeName,
    rounds: u32,
    stop: &Stop,
    mut note: impl FnMut(&str),
) -> Result<Vec<BaselineMove>, TestbedError> {
    let watched = Watched::new(testbed, workload, user, stop)?;
    let home = watched.node();
    let mut moves = Vec::new();
    for nth in 0..rounds * 2 {
        if stop.is_asked() {
            break;
        }
        let to = if nth % 2 == 0 { other } else { &home };
        let moved = watched.plain_move(to, nth, Plain::StopCopy)?;
        watched.settle();
        let record = moved.record(watched.gap_ms(moved.freeze()));
        note(&format!("plain runc: {} -> {to}: stood still for {:.0} ms", record.from, record.freeze_ms));
        moves.push(record);
    }
    Ok(moves)
}
