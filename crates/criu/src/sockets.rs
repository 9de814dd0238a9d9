//! TCP sockets in repair mode.
//!
//! To read a connection CRIU puts its socket into repair mode (TCP_REPAIR): it then sends nothing, not even when it
//! is closed, and its owner's reads fail with EPERM. A CRIU that dies in the middle leaves it so. Duplicates of the
//! sockets, fetched from the frozen tasks by pidfd_getfd(2), are the way to bring them back before the tasks run.

use std::os::fd::{AsFd, OwnedFd};

use crate::error::{Context, Result};
use crate::process;
use crate::sys;

/// linux/tcp.h
const TCP_REPAIR: i32 = 19;

/// A socket of a process, with a duplicate of its descriptor.
#[derive(Debug)]
pub(crate) struct Socket {
    pub number: i32,
    pub fd: OwnedFd,
    pub domain: i32,
    pub kind: i32,
    pub protocol: i32,
}

/// The sockets of a process, those of several descriptors once each.
pub(crate) fn of_process(pid: i32) -> Result<Vec<Socket>> {
    let mut links = process::descriptors(pid);
    links.retain(|(_, link)| link.to_string_lossy().starts_with("socket:["));
    links.sort_by(|a, b| a.1.cmp(&b.1));
    links.dedup_by(|a, b| a.1 == b.1);
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let pidfd = sys::pidfd_open(pid).context(|| format!("open process {pid}"))?;
    let mut sockets = Vec::new();
    for (number, _) in links {
        let fd = sys::pidfd_getfd(pidfd.as_fd(), number)
            .context(|| format!("duplicate descriptor {number} of process {pid}"))?;
        let option = |name| sys::get_sockopt(&fd, libc::SOL_SOCKET, name);
        let (Ok(domain), Ok(kind), Ok(protocol)) =
            (option(libc::SO_DOMAIN), option(libc::SO_TYPE), option(libc::SO_PROTOCOL))
        else {
            continue;
        };
        sockets.push(Socket { number, fd, domain, kind, protocol });
    }
    Ok(sockets)
}

impl Socket {
    pub(crate) fn is_inet(&self) -> bool {
        matches!(self.domain, libc::AF_INET | libc::AF_INET6)
    }

    fn is_tcp(&self) -> bool {
        self.is_inet() && self.kind == libc::SOCK_STREAM && self.protocol == libc::IPPROTO_TCP
    }

    fn in_repair(&self) -> bool {
        self.is_tcp() && sys::get_sockopt(&self.fd, libc::SOL_TCP, TCP_REPAIR).is_ok_and(|on| on != 0)
    }
}

/// Takes every TCP socket of these (frozen) processes out of repair mode; returns how many were in it.
///
/// Leaving repair mode makes the kernel forget SO_REUSEADDR, and what it was is not known here. It is set: then a
/// server that is restarted later can bind its port, as nearly all servers ask for anyhow.
pub fn recover_sockets(pids: &[i32]) -> Result<usize> {
    let mut recovered = 0;
    for pid in pids {
        for socket in of_process(*pid)?.iter().filter(|s| s.in_repair()) {
            let whose = || format!("bring back socket {} of process {pid}", socket.number);
            sys::set_sockopt(&socket.fd, libc::SOL_TCP, TCP_REPAIR, 0).context(whose)?;
            sys::set_sockopt(&socket.fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).context(whose)?;
            recovered += 1;
        }
    }
    Ok(recovered)
}

/// Puts the TCP connections of these (frozen) processes into repair mode: what ends them then sends no packet.
pub(crate) fn silence_sockets(pids: &[i32]) -> Result<()> {
    for pid in pids {
        for socket in of_process(*pid)?.iter().filter(|s| s.is_tcp()) {
            // Listening sockets refuse, and have nobody to send to.
            let _ = sys::set_sockopt(&socket.fd, libc::SOL_TCP, TCP_REPAIR, 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_sockets_of_a_process_are_found_with_their_kind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sockets = of_process(std::process::id() as i32).unwrap();
        assert!(sockets.iter().filter(|s| s.is_tcp()).count() >= 2);
    }

    #[test]
    fn a_socket_left_in_repair_mode_is_brought_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        if sys::set_sockopt(&stream, libc::SOL_TCP, TCP_REPAIR, 1).is_err() {
            eprintln!("SKIPPED: repair mode needs CAP_NET_ADMIN");
            return;
        }
        assert!(recover_sockets(&[std::process::id() as i32]).unwrap() >= 1);
        assert_eq!(sys::get_sockopt(&stream, libc::SOL_TCP, TCP_REPAIR).unwrap(), 0);
    }
}
