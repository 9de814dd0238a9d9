//! Messages between processes, with descriptors.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg,
    socketpair,
};

/// The kernel takes at most 253 with a message.
const DESCRIPTORS: usize = 200;

const MORE: u8 = 1;
const LAST: u8 = 0;

/// Two ends of a line. Messages stay whole; the end of one is seen at the other.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// The end that a process was started with, as its standard input.
pub(crate) fn inherited() -> OwnedFd {
    // SAFETY: this process uses its standard input for nothing else, and calls this once.
    unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) }
}

/// Says something; false when nobody hears it.
pub(crate) fn send(line: BorrowedFd<'_>, message: &[u8]) -> bool {
    nix::sys::socket::send(line.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL).is_ok()
}

/// A message; none is the other side's end.
pub(crate) fn receive(line: BorrowedFd<'_>, room: &mut [u8]) -> Option<usize> {
    loop {
        match recv(line.as_raw_fd(), room, MsgFlags::empty()) {
            Ok(0) => return None,
            Ok(n) => return Some(n),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Says something with at most one descriptor, and does not wait: false when it cannot be said at once.
pub(crate) fn send_at_once(line: BorrowedFd<'_>, message: &[u8], descriptor: Option<RawFd>) -> bool {
    let rights: Vec<RawFd> = descriptor.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&rights)];
    let rights = if descriptor.is_some() { &rights[..] } else { &[] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(message)], rights, flags, None).is_ok()
}

/// A message and what descriptors come with it; none is the other side's end.
pub(crate) fn receive_with(line: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut rights = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(room)];
    let message = loop {
        match recvmsg::<()>(line.as_raw_fd(), &mut slices, Some(&mut rights), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes > 0).then_some((message.bytes, descriptors)))
}

/// Sends any number of descriptors.
pub(crate) fn send_descriptors(line: BorrowedFd<'_>, descriptors: &[RawFd]) -> io::Result<()> {
    let batches = descriptors.chunks(DESCRIPTORS);
    let last = batches.len().saturating_sub(1);
    for (n, batch) in batches.enumerate() {
        let more = [if n < last { MORE } else { LAST }];
        sendmsg::<()>(
            line.as_raw_fd(),
            &[IoSlice::new(&more)],
            &[ControlMessage::ScmRights(batch)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
    }
    Ok(())
}

/// What [`send_descriptors`] has sent; none is the other side's end.
pub(crate) fn receive_descriptors(line: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut all = Vec::new();
    loop {
        let mut more = [LAST];
        let Some((_, descriptors)) = receive_with(line, &mut more)? else { return Ok(None) };
        all.extend(descriptors);
        if more[0] == LAST {
            return Ok(Some(all));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn more_descriptors_than_fit_a_message_arrive_in_order() {
        let (ours, theirs) = pair().unwrap();
        let files: Vec<File> =
            (0..450).map(|n| File::open(if n % 2 == 0 { "/dev/zero" } else { "/dev/null" }).unwrap()).collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        send_descriptors(ours.as_fd(), &numbers).unwrap();
        let received = receive_descriptors(theirs.as_fd()).unwrap().unwrap();
        let devices = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_rdev;
        assert_eq!(
            received.iter().map(|fd| devices(fd.as_fd())).collect::<Vec<_>>(),
            files.iter().map(|file| devices(file.as_fd())).collect::<Vec<_>>()
        );
        drop(ours);
        assert!(receive_descriptors(theirs.as_fd()).unwrap().is_none());
    }
}
