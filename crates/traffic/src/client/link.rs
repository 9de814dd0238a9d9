//! A client's connection.

use std::io::{self, ErrorKind, PipeReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use godwit_model::Protocol;
use nix::poll::{PollFd, PollFlags, ppoll};
use socket2::{Domain, Socket, Type};

use super::ClientConfig;
use super::socket::Speaker;
use crate::BreakCause;
use crate::wire::{self, Answer, MAX_PAYLOAD};

/// While more than this is unsent, requests are left out.
const MAX_UNSENT: usize = 4 * MAX_PAYLOAD;

#[derive(Debug)]
pub(super) struct Link {
    speaker: Speaker,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Link {
    pub(super) fn new(speaker: Speaker) -> Self {
        Self { speaker, input: Vec::new(), output: Vec::new() }
    }

    pub(super) fn interest(&self) -> PollFlags {
        if self.output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    pub(super) fn has_room(&self) -> bool {
        // A datagram is sent whole, and alone.
        if self.speaker.is_udp() { self.output.is_empty() } else { self.output.len() < MAX_UNSENT }
    }

    pub(super) fn ask(&mut self, seq: u64, clock_ns: u64, payload: usize) {
        wire::put_request(&mut self.output, seq, clock_ns, payload);
    }

    /// Writes what goes.
    pub(super) fn write(&mut self) -> Result<(), BreakCause> {
        while !self.output.is_empty() {
            match self.speaker.send(&self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(BreakCause::Reset),
            }
        }
        Ok(())
    }

    /// Reads what is there and hands every whole answer to `sink` with the moment that it was read.
    pub(super) fn read(&mut self, mut sink: impl FnMut(Instant, &Answer<'_>)) -> Result<(), BreakCause> {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.speaker.receive(&mut chunk) {
                Ok(0) if !self.speaker.is_udp() => return Err(BreakCause::Closed),
                Ok(len) => self.input.extend(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Err(BreakCause::Reset),
            }
            let (at, mut taken) = (Instant::now(), 0);
            let outcome = loop {
                match wire::answer(&self.input[taken..]) {
                    Ok(Some((answer, len))) => {
                        sink(at, &answer);
                        taken += len;
                    }
                    Ok(None) => break Ok(()),
                    Err(_) => break Err(BreakCause::Garbage),
                }
            };
            self.input.drain(..taken);
            outcome?;
            if self.speaker.is_udp() && !(taken > 0 && self.input.is_empty()) {
                return Err(BreakCause::Garbage);
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.speaker.as_fd()
    }
}

/// Connects, and tries again while nobody is there, until the time-out.
pub(super) fn connect_patiently(addr: SocketAddr, config: &ClientConfig, stop: &PipeReader) -> io::Result<Speaker> {
    let deadline = Instant::now() + config.connect_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match connect(addr, config, left, stop) {
            Ok(speaker) => return Ok(speaker),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) if deadline <= Instant::now() => return Err(error),
            Err(_) if is_stopped(stop, config.reconnect_every.min(left))? => return Err(ErrorKind::Interrupted.into()),
            Err(_) => {}
        }
    }
}

/// Connects once. [`ErrorKind::Interrupted`] when `stop` says so meanwhile.
pub(super) fn connect(
    addr: SocketAddr,
    config: &ClientConfig,
    timeout: Duration,
    stop: &PipeReader,
) -> io::Result<Speaker> {
    match config.protocol {
        Protocol::Tcp => Ok(Speaker::Tcp(connect_tcp(addr, config, timeout, stop)?)),
        Protocol::Udp => {
            let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(socket2::Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            socket.connect(&addr.into())?;
            Ok(Speaker::Udp(socket.into()))
        }
    }
}

fn connect_tcp(addr: SocketAddr, config: &ClientConfig, timeout: Duration, stop: &PipeReader) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // The kernel is to be as patient as we are, neither less nor (15 minutes by default) more.
    socket.set_tcp_user_timeout(Some(config.silence_limit))?;
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {
            let mut fds =
                [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let ready = poll(&mut fds, timeout)?;
            if ready > 0 && fds[0].any().unwrap_or(true) {
                return Err(ErrorKind::Interrupted.into());
            }
            if ready == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Waits for so long, or until told to stop, which is what it returns.
pub(super) fn is_stopped(stop: &PipeReader, wait: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, wait)? > 0)
}

/// Polls once; a signal counts as the time being over.
pub(super) fn poll(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<i32> {
    match ppoll(fds, Some(timeout.into()), None) {
        Err(nix::Error::EINTR) => {
            // What the kernel left in the answers is not to be read after an error.
            Ok(0)
        }
        outcome => Ok(outcome?),
    }
}
