//! Connections that CRIU cannot carry, because no process has them: half made ones, complete ones that the service has not
//! accepted yet, and closed ones with bytes or a FIN that the peer has not acknowledged yet.
//!
//! At the target nothing would be known of them, and its kernel would answer the peer's next packet with a RST. While no
//! new connection comes in, they are gone within a round trip and a moment of the service's time.

use std::thread;
use std::time::{Duration, Instant};

use godwit_net::{NetError, SockDiag};

/// Who needs longer than this to answer a SYN-ACK is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks, each of which takes the kernel about a millisecond.
const PAUSE: Duration = Duration::from_millis(2);

/// Returns when nobody is in the door, or time is up.
pub(super) fn wait_until_nobody_stands_in_it(sockets: &Result<SockDiag, NetError>) {
    let left = sockets.as_ref().map(wait);
    match left {
        Ok(Ok(0)) => {}
        Ok(Ok(left)) => {
            tracing::warn!(left, "connections are neither made nor over; they may break or roll the move back");
        }
        Ok(Err(error)) => tracing::warn!(%error, "the service's connections cannot be counted"),
        Err(error) => tracing::warn!(%error, "the service's connections cannot be counted"),
    }
}

/// How many are left.
fn wait(sockets: &SockDiag) -> Result<u64, NetError> {
    let begun = Instant::now();
    loop {
        match sockets.in_between()? {
            1.. if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            left => return Ok(left),
        }
    }
}
