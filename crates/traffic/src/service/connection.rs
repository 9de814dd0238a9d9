//! One client's connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;
use socket2::{SockRef, TcpKeepalive};

use super::{KEEPALIVE_EACH, KEEPALIVE_IDLE};
use crate::wire::{self, MAX_PAYLOAD, Standing};

/// While more than this is unsent, nothing more is read: a client that does not read cannot fill our memory.
const MAX_UNSENT: usize = 4 * MAX_PAYLOAD;
/// Read at a turn, so that one client cannot keep the others waiting.
const MAX_TURN: usize = 4 * MAX_PAYLOAD;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    answered: u64,
    /// The client sends no more; it may still read.
    is_half_closed: bool,
}

/// What came of a turn.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) answered: u64,
    pub(super) stays_open: bool,
    pub(super) is_garbage: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_EACH))?;
        Ok(Self { stream, input: Vec::new(), output: Vec::new(), answered: 0, is_half_closed: false })
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.is_half_closed && self.output.len() < MAX_UNSENT);
        flags.set(PollFlags::POLLOUT, !self.output.is_empty());
        flags
    }

    /// Reads what is there, answers what is whole, writes what goes. `standing` is the service's, before these answers.
    pub(super) fn serve(&mut self, standing: Standing) -> Served {
        let before = self.answered;
        let outcome = self.turn(standing);
        Served {
            answered: self.answered - before,
            stays_open: matches!(outcome, Ok(true)),
            is_garbage: matches!(&outcome, Err(error) if error.kind() == ErrorKind::InvalidData),
        }
    }

    fn turn(&mut self, standing: Standing) -> io::Result<bool> {
        // Answers first: an error in reading must not take back what was asked well.
        let read = self.read();
        let answered = self.answer(standing);
        self.write()?;
        read?;
        answered?;
        Ok(!(self.is_half_closed && self.output.is_empty()))
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let mut turn = 0;
        while !self.is_half_closed && self.output.len() < MAX_UNSENT && turn < MAX_TURN {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.is_half_closed = true,
                Ok(len) => {
                    self.input.extend(&chunk[..len]);
                    turn += len;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&mut self, standing: Standing) -> io::Result<()> {
        let (mut taken, mut total, mut work) = (0, standing.total, standing.work);
        let outcome = loop {
            match wire::request(&self.input[taken..]) {
                Ok(Some((request, len))) => {
                    self.answered += 1;
                    total += 1;
                    let standing = Standing { nth: self.answered, total, work, ..standing };
                    wire::put_answer(&mut self.output, &request, &standing);
                    // Told once.
                    work.slow = Default::default();
                    taken += len;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(io::Error::new(ErrorKind::InvalidData, error)),
            }
        };
        self.input.drain(..taken);
        outcome
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
