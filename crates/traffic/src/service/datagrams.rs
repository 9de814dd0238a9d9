//! Requests that come as datagrams: each is answered by one, to where it came from. Nothing is kept of who asks.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;

use crate::wire::{self, MAX_PAYLOAD, Standing};

/// Read at a turn, so that those who have connections are not kept waiting.
const MAX_TURN: usize = 64;

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    /// What the kernel had no room for. Nothing more is read meanwhile.
    unsent: VecDeque<(Vec<u8>, SocketAddr)>,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) answered: u64,
    /// Datagrams that are no requests.
    pub(super) garbage: u64,
}

impl Datagrams {
    /// The socket must not wait.
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, unsent: VecDeque::new() }
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.unsent.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    /// Reads what is there and answers it. `standing` is the service's, before these answers.
    pub(super) fn serve(&mut self, standing: Standing) -> Served {
        let mut served = Served::default();
        let mut buffer = [0; MAX_PAYLOAD];
        self.flush();
        for _ in 0..MAX_TURN {
            if !self.unsent.is_empty() {
                break;
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => match wire::request(&buffer[..len]) {
                    Ok(Some((request, taken))) if taken == len => {
                        served.answered += 1;
                        let nth = standing.total + served.answered;
                        let mut answer = Vec::new();
                        wire::put_answer(&mut answer, &request, &Standing { nth, total: nth, ..standing });
                        self.unsent.push_back((answer, from));
                        self.flush();
                    }
                    _ => served.garbage += 1,
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Somebody is not there any more (an ICMP message says so); the next call tells of the next datagram.
                Err(error) => tracing::debug!(%error, "datagrams"),
            }
        }
        served
    }

    /// Sends what goes; what can never go is lost, as datagrams may be.
    fn flush(&mut self) {
        while let Some((answer, to)) = self.unsent.front() {
            match self.socket.send_to(answer, to) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => tracing::debug!(%error, %to, "an answer is lost"),
                Ok(_) => {}
            }
            self.unsent.pop_front();
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
