//! Connections that CRIU cannot carry, because no process has them: half made ones, complete ones that the service has not
//! accepted yet, and closed ones with bytes or a FIN that the peer has not acknowledged yet.
//!
//! At the target nothing would be known of them, and its kernel would answer the peer's next packet with a RST. While no
//! new connection comes in, they are gone within a round trip and a moment of the service's time.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use godwit_net::{NetError, Netns};

/// Who needs longer than this to answer a SYN-ACK is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks, each of which takes the kernel about a millisecond.
const PAUSE: Duration = Duration::from_millis(2);

/// Returns when nobody is in the door, or time is up.
pub(super) fn wait_until_nobody_stands_in_it(inside: &Netns) -> Result<(), NetError> {
    let begun = Instant::now();
    let left = inside.enter(|| {
        loop {
            let left = standing_in_it();
            match left {
                Ok(n) if n > 0 && begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
                left => return left,
            }
        }
    })?;
    match left {
        Ok(0) => {}
        Ok(left) => tracing::warn!(left, "connections are neither made nor over; they may break or roll the move back"),
        Err(error) => tracing::warn!(%error, "the service's connections cannot be counted"),
    }
    Ok(())
}

/// How many there are in this thread's network namespace.
fn standing_in_it() -> io::Result<u64> {
    let mut found = count(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    match fs::read_to_string("/proc/thread-self/net/tcp6") {
        Ok(text) => found += count(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(found)
}

fn count(table: &str) -> u64 {
    table.lines().skip(1).filter_map(row).sum()
}

/// `SL LOCAL REMOTE STATE TX:RX TIMER RETRANSMITS UID TIMEOUT INODE …`, proc(5).
fn row(line: &str) -> Option<u64> {
    const FIN_WAIT1: u8 = 0x04;
    const SYN_RECV: u8 = 0x03;
    const LAST_ACK: u8 = 0x09;
    const LISTEN: u8 = 0x0a;
    const CLOSING: u8 = 0x0b;
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let nobodys = *fields.get(9)? == "0";
    match state {
        // In the place of what is to be read: how many wait to be accepted.
        LISTEN => u64::from_str_radix(fields[4].split_once(':')?.1, 16).ok(),
        SYN_RECV => Some(1),
        FIN_WAIT1 | LAST_ACK | CLOSING if nobodys => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100000A:0050 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 5001 1 0 100 0 0 10 0
   1: 0100000A:0050 0200000A:C350 03 00000000:00000000 01:00000063 00000000     0        0 0 1 0
   2: 0100000A:0050 0200000A:C351 01 00000000:00000000 00:00000000 00000000    33        0 5002 1 0 20 4 30 10 -1
   3: 0100000A:0050 0200000A:C352 04 00000001:00000000 01:00000014 00000000     0        0 0 2 0 20 4 24 10 -1
   4: 0100000A:0050 0200000A:C353 04 00000001:00000000 01:00000014 00000000    33        0 5003 2 0 20 4 24 10 -1
   5: 0100000A:0050 0200000A:C354 06 00000000:00000000 03:00001765 00000000     0        0 0 3 0
";

    #[test]
    fn what_no_process_has_is_counted() {
        // Two to be accepted, one half made, one closed with a byte on its way.
        assert_eq!(count(TABLE), 4);
    }

    #[test]
    fn a_connection_stands_in_the_door_until_it_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let line = |text: &str| {
            let port = format!(":{:04X} 00000000:0000 0A", at.port());
            text.lines().filter(|l| l.contains(&port)).map(str::to_owned).next().unwrap()
        };
        let waiting = || row(&line(&fs::read_to_string("/proc/thread-self/net/tcp").unwrap())).unwrap();
        assert_eq!(waiting(), 0);
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(b"hello").unwrap();
        assert_eq!(waiting(), 1);
        let _accepted = listener.accept().unwrap();
        assert_eq!(waiting(), 0);
    }
}
