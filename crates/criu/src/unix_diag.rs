//! Unix sockets and their peers, as the kernel lists them. Source: sock_diag(7).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::{Context, Result};
use crate::node::in_thread;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const UDIAG_SHOW_PEER: u32 = 0x4;
const UNIX_DIAG_PEER: u16 = 2;

/// struct nlmsghdr, struct unix_diag_req, struct unix_diag_msg.
const HEAD: usize = 16;
const REQUEST: usize = HEAD + 24;
const MESSAGE: usize = 16;

/// How long the kernel may take to go on with its list.
const PATIENCE_S: i64 = 5;

/// The inodes of all connected unix sockets of the network namespace `netns`, each with its peer's.
pub(crate) fn peers(netns: &OwnedFd) -> Result<Vec<(u32, u32)>> {
    in_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).context(|| "enter a network namespace".into())?;
        list().context(|| "list unix sockets (UNIX_DIAG in the kernel?)".into())
    })
}

fn list() -> nix::Result<Vec<(u32, u32)>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    sendto(socket.as_raw_fd(), &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let (mut found, mut room) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let n = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
        if take(&room[..n], &mut found)? {
            return Ok(found);
        }
    }
}

/// All unix sockets, in whatever state.
fn request() -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[HEAD] = libc::AF_UNIX as u8;
    bytes[HEAD + 4..HEAD + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes[HEAD + 12..HEAD + 16].copy_from_slice(&UDIAG_SHOW_PEER.to_ne_bytes());
    bytes
}

/// Adds what is in one piece of the answer; true at its end.
fn take(mut piece: &[u8], found: &mut Vec<(u32, u32)>) -> nix::Result<bool> {
    while piece.len() >= HEAD {
        let (length, kind) = (u32_at(piece, 0) as usize, u16_at(piece, 4));
        let Some(body) = piece.get(HEAD..length) else { return Err(nix::errno::Errno::EBADMSG) };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR if body.len() >= 4 => {
                return Err(nix::errno::Errno::from_raw(u32_at(body, 0).cast_signed().saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY if body.len() >= MESSAGE => {
                let peer = attribute(&body[MESSAGE..], UNIX_DIAG_PEER).filter(|peer| *peer != 0);
                found.extend(peer.map(|peer| (u32_at(body, 4), peer)));
            }
            _ => {}
        }
        piece = piece.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A number among attributes.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<u32> {
    while rest.len() >= 4 {
        let (length, kind) = (usize::from(u16_at(rest, 0)), u16_at(rest, 2));
        if kind == wanted && length >= 8 && rest.len() >= 8 {
            return Some(u32_at(rest, 4));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_two_ends_of_a_pair_are_each_others_peers() {
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |stream: &UnixStream| {
            let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
            u32::try_from(std::fs::metadata(path).unwrap().ino()).unwrap()
        };
        let all = list().unwrap();
        assert!(all.contains(&(inode(&one), inode(&other))) && all.contains(&(inode(&other), inode(&one))));
    }
}
