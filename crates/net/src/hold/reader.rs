//! The thread that empties a hold's device.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Shared;
use super::state::State;
use crate::sched;
use crate::tun::Tun;

/// Reads until `stop` becomes readable or the device is gone.
pub(super) fn run(shared: &Shared, stop: BorrowedFd<'_>) {
    sched::raise_current_thread();
    let mut fds = [PollFd::new(shared.tun.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => {
                tracing::error!(hold = shared.tun.name(), error = %e, "hold stopped: it cannot wait for packets");
                return;
            }
        }
        if fds[1].any() == Some(true) {
            return;
        }
        if fds[0].any() == Some(true) && !drain(&shared.tun, &mut shared.lock()) {
            tracing::warn!(hold = shared.tun.name(), "hold stopped: its device is gone");
            return;
        }
    }
}

/// Handles all packets that wait at the device; false if there is no device any more.
pub(super) fn drain(tun: &Tun, state: &mut State) -> bool {
    let mut buffer = [0; 1 << 16];
    loop {
        match tun.read(&mut buffer) {
            Ok(Some(len)) => state.arrived(&buffer[..len], tun),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
