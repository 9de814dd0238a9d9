//! What all containers of a workload go through at once.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use godwit_criu::{Freezer, Limit};
use godwit_migration::PartError;
use godwit_net::{NetError, Netlink, Netns};

use crate::STAGE_LIMIT;
use crate::source::part;
use crate::unit::Units;

/// How often a freeze is tried in which no connection is half made, and how long the workload runs in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);

/// Does the same to all of them side by side.
pub(crate) fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if items.len() == 1 {
        return items.into_iter().map(work).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The first failure, when all has been tried.
pub(crate) fn all_of<E>(results: impl IntoIterator<Item = Result<(), E>>) -> Result<(), E> {
    results.into_iter().fold(Ok(()), Result::and)
}

/// The switch above all of a workload's containers; none where there is only one.
pub(crate) struct Switch(Option<Freezer>);

impl Switch {
    /// For containers that runc knows.
    pub(crate) fn of(units: &Units) -> Result<Self, PartError> {
        if !units.are_several() {
            return Ok(Self(None));
        }
        let above = Freezer::above(&units.env, &units.list[0].id);
        above.map(|freezer| Self(Some(freezer))).map_err(part("find its control group"))
    }

    /// The same to give them back: whatever can be found.
    pub(crate) fn if_there(units: &Units) -> Self {
        Self::of(units).unwrap_or(Self(None))
    }

    /// Stops all of them at one instant, when none of them has a connection to another that is half made or half closed, for
    /// the connection would be in no dump. After a few attempts it is no matter any more.
    pub(crate) fn stop(&self, units: &Units, limit: &Limit) -> Result<(), PartError> {
        let Some(freezer) = &self.0 else { return Ok(()) };
        for attempt in 1..=ATTEMPTS {
            if let Err(error) = freezer.freeze(limit) {
                self.start();
                return Err(part("freeze it")(error));
            }
            if attempt == ATTEMPTS || !has_half_made_connections(units) {
                break;
            }
            self.start();
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Lets go of them: those stand on that are frozen themselves.
    pub(crate) fn start(&self) {
        if let Some(freezer) = &self.0
            && let Err(error) = freezer.thaw()
        {
            tracing::error!(%error, "the workload's control group cannot be thawed");
        }
    }

    /// Does something to frozen containers one by one, of which none is to be seen before all of it is done.
    pub(crate) fn as_one<T>(&self, work: impl FnOnce() -> T) -> T {
        if let Some(freezer) = &self.0
            && let Err(error) = freezer.freeze(&Limit::within(STAGE_LIMIT))
        {
            tracing::warn!(%error, "the workload's containers do not start at one instant");
        }
        let done = work();
        self.start();
        done
    }
}

/// In doubt there are none: then the dump says so.
fn has_half_made_connections(units: &Units) -> bool {
    let look = || -> Result<bool, PartError> {
        let netns = Netns::at(units.netns()?).map_err(net("look at its connections"))?;
        netns.enter(|| ["tcp", "tcp6"].iter().any(|table| half_made(table))).map_err(net("look at its connections"))
    };
    look().unwrap_or_else(|error| {
        tracing::warn!(error = error.chain(), "connections between its containers are not known");
        false
    })
}

fn half_made(table: &str) -> bool {
    let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).unwrap_or_default();
    text.lines().skip(1).any(is_half_made)
}

/// A row of `/proc/net/tcp`, proc(5): no process has the connection, or it is not there yet; and both ends are here.
fn is_half_made(row: &str) -> bool {
    const SYN_SENT: u8 = 0x02;
    const SYN_RECV: u8 = 0x03;
    const FIN_WAIT1: u8 = 0x04;
    const LAST_ACK: u8 = 0x09;
    const LISTEN: u8 = 0x0a;
    const CLOSING: u8 = 0x0b;
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    let [_, local, remote, state, queues, _, _, _, _, inode, ..] = fields[..] else { return false };
    let address = |end: &str| end.split_once(':').map(|(address, _)| address.to_owned());
    let within =
        address(local) == address(remote) || local.starts_with("7F") || local[..8.min(local.len())].ends_with("7F");
    match u8::from_str_radix(state, 16) {
        // In the place of what is to be read: how many wait to be accepted.
        Ok(LISTEN) => queues.split_once(':').is_some_and(|(_, waiting)| waiting != "00000000"),
        Ok(SYN_SENT | SYN_RECV) => within,
        Ok(FIN_WAIT1 | LAST_ACK | CLOSING) => within && inode == "0",
        _ => false,
    }
}

fn net(what: &'static str) -> impl FnOnce(NetError) -> PartError {
    move |e| PartError::caused_by(what, e)
}

/// Between the first dump and the last, and between the first restore and the last, nothing may go from one container to
/// another: what the kernel of one acknowledged after its dump would be lost to the other.
#[derive(Debug)]
pub(crate) struct Fence(Option<Netlink>);

impl Fence {
    /// Drops what goes over the loopback device of the containers' network namespace. The kernel repeats it later.
    pub(crate) fn put_up(units: &Units) -> Result<Self, PartError> {
        if !units.are_several() {
            return Ok(Self(None));
        }
        let netlink = loopback(units)?;
        netlink.silence("lo").map_err(net("fence its containers from each other"))?;
        Ok(Self(Some(netlink)))
    }

    /// One that another agent has left.
    pub(crate) fn take_down_any(units: &Units) -> Result<(), PartError> {
        if !units.are_several() {
            return Ok(());
        }
        loopback(units)?.unsilence("lo").map_err(net("let its containers speak to each other"))
    }

    /// Where there is none.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn take_down(mut self) -> Result<(), PartError> {
        let Some(netlink) = self.0.take() else { return Ok(()) };
        netlink.unsilence("lo").map_err(net("let its containers speak to each other"))
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if let Some(netlink) = &self.0
            && let Err(error) = netlink.unsilence("lo")
        {
            tracing::warn!(%error, "a fence is left behind");
        }
    }
}

fn loopback(units: &Units) -> Result<Netlink, PartError> {
    let netns = Netns::at(units.netns()?).map_err(net("enter its network namespace"))?;
    Netlink::open(&netns).map_err(net("enter its network namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_between_containers_that_no_dump_has_are_seen_and_others_are_not() {
        let row = |local: &str, remote: &str, state: &str, waiting: u8, inode: u32| {
            is_half_made(&format!(
                " 0: {local} {remote} {state} 00000000:{waiting:08X} 00:00000000 00000000 0 0 {inode} 1 0 20 4 30 10 -1"
            ))
        };
        let (lo, own, other) = ("0100007F:1F90", "0100000A:1F90", "0200000A:C350");
        let lo6 = "00000000000000000000000001000000:1F90";
        assert!(
            row("00000000:1F90", "00000000:0000", "0A", 1, 7) && !row("00000000:1F90", "00000000:0000", "0A", 0, 7)
        );
        assert!(row(lo, lo, "02", 0, 7) && row(own, own, "03", 0, 0) && row(lo6, lo6, "02", 0, 7));
        assert!(row(lo, lo, "04", 0, 0) && !row(lo, lo, "04", 0, 7), "one that a process has is dumped");
        assert!(!row(own, other, "03", 0, 0) && !row(own, other, "04", 0, 0), "others are looked after elsewhere");
        assert!(!row(lo, lo, "01", 0, 7) && !row(lo, lo, "06", 0, 0));
    }
}
