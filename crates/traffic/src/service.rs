//! The counting service: one thread, one poll loop, plain sockets, memory that changes; made to be checkpointed.
//!
//! It holds what CRIU knows well and nothing else: TCP sockets, one of UDP, anonymous memory, a pipe or signalfd to be ended by. It
//! never waits by an absolute time: after a restore the monotonic clock may be another machine's.

mod connection;
mod datagrams;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use godwit_model::Bytes;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use socket2::{Domain, Protocol, Socket, Type};

use crate::pace::Pace;
use crate::steps::Steps;
use crate::wire::Standing;
use crate::{Memory, PAGE, Verdict};
use connection::Connection;
use datagrams::Datagrams;

/// What the service is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Where it listens, by TCP and UDP; `[::]:PORT` takes IPv4 too.
    pub listen: SocketAddr,
    /// How much memory it holds; 16 MiB. Whole pages of it.
    pub memory: Bytes,
    /// How much of it is written anew a second; 1 MiB. Whole pages, spread over the region.
    pub dirty_per_second: Bytes,
    /// How much of it is read and checked a second, in turn; `None` for all of it every 5 s.
    pub check_per_second: Option<Bytes>,
    /// So many connections at once; further ones wait to be accepted. 1024.
    pub max_connections: usize,
}

impl ServiceConfig {
    /// Listening there, the rest as documented at the fields.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            memory: Bytes(16 << 20),
            dirty_per_second: Bytes(1 << 20),
            check_per_second: None,
            max_connections: 1024,
        }
    }
}

/// Why the service does not start or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It cannot listen there.
    #[error("cannot listen at {addr}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// SIGTERM cannot be had as a descriptor.
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    /// Waiting on the sockets failed.
    #[error("cannot wait for requests")]
    Poll(#[source] io::Error),
}

/// What a service did until it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceReport {
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed, and datagrams ignored, because of what came in.
    pub refused: u64,
    /// Requests answered.
    pub answered: u64,
    /// How its memory is.
    pub memory: Verdict,
}

/// A service that listens.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    datagrams: Datagrams,
    local: SocketAddr,
    memory: Memory,
    dirty: Pace,
    check: Pace,
    run: u64,
    max_connections: usize,
    connections: Vec<Connection>,
    steps: Steps,
    report: ServiceReport,
}

/// [`Service::bind`] and [`Service::run`].
///
/// # Errors
/// As they do.
pub fn run(config: ServiceConfig, stop: impl AsFd) -> Result<ServiceReport, ServiceError> {
    Service::bind(config)?.run(stop)
}

/// SIGTERM and SIGINT as a descriptor to hand to [`run`]. Both are blocked for the calling thread and those that it
/// spawns from now on: call it first thing in `main`.
///
/// # Errors
/// [`ServiceError::Signals`] when the kernel refuses.
pub fn termination() -> Result<impl AsFd, ServiceError> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().map_err(|e| ServiceError::Signals(e.into()))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(|e| ServiceError::Signals(e.into()))
}

impl Service {
    /// Fills its memory and listens, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ServiceError::Listen`] when the address is taken or not ours.
    pub fn bind(config: ServiceConfig) -> Result<Self, ServiceError> {
        let (listener, datagrams, local) =
            listen(config.listen).map_err(|source| ServiceError::Listen { addr: config.listen, source })?;
        let run = RandomState::new().hash_one(std::process::id());
        let check = config.check_per_second.map_or(config.memory.0 / 5, |rate| rate.0);
        let pages = |bytes: u64| bytes as f64 / PAGE as f64;
        let memory = Memory::new(config.memory.0, run);
        let now = Instant::now();
        Ok(Self {
            listener,
            datagrams: Datagrams::new(datagrams),
            local,
            memory,
            dirty: Pace::new(pages(config.dirty_per_second.0), now),
            check: Pace::new(pages(check), now),
            run,
            max_connections: config.max_connections,
            connections: Vec::new(),
            steps: Steps::default(),
            report: ServiceReport::default(),
        })
    }

    /// Where it listens, with the port that the kernel chose if it was to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `stop` becomes readable or its other end is closed.
    ///
    /// # Errors
    /// [`ServiceError::Poll`] when waiting itself fails; nothing that a client does ends it.
    pub fn run(mut self, stop: impl AsFd) -> Result<ServiceReport, ServiceError> {
        // Not accepting for a moment: out of descriptors, and the listener stays readable.
        let mut accepts = true;
        loop {
            let now = Instant::now();
            self.work(now);

            let takes_more = accepts && self.connections.len() < self.max_connections;
            let mut fds = vec![
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), if takes_more { PollFlags::POLLIN } else { PollFlags::empty() }),
                PollFd::new(self.datagrams.as_fd(), self.datagrams.interest()),
            ];
            fds.extend(self.connections.iter().map(|c| PollFd::new(c.as_fd(), c.interest())));
            let timeout = self.dirty.wait().min(self.check.wait());
            match ppoll(&mut fds, Some(timeout.into()), None) {
                Ok(0) | Err(nix::Error::EINTR) => {
                    accepts = true;
                    continue;
                }
                Ok(_) => {}
                Err(error) => return Err(ServiceError::Poll(error.into())),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            drop(fds);
            if ready[0] {
                self.report.memory = self.memory.verdict();
                return Ok(self.report);
            }
            let began = Instant::now();
            if ready[2] {
                self.serve_datagrams(began);
            }
            self.serve(&ready[3..], began);
            self.steps.took(began, Instant::now());
            if ready[1] && takes_more {
                accepts = self.accept();
            }
        }
    }

    /// Writes and checks the pages that are due.
    fn work(&mut self, now: Instant) {
        let mut step = now;
        for _ in 0..self.dirty.take(now) {
            self.memory.dirty_one();
            step = self.steps.wrote(step, Instant::now());
        }
        for _ in 0..self.check.take(now) {
            self.memory.check_one();
            step = self.steps.took(step, Instant::now());
        }
    }

    fn serve_datagrams(&mut self, now: Instant) {
        let (total, work) = (self.report.answered, self.steps.tell(now));
        let standing = Standing { nth: 0, total, run: self.run, memory: self.memory.verdict(), work };
        let served = self.datagrams.serve(standing);
        self.report.answered += served.answered;
        self.report.refused += served.garbage;
    }

    fn serve(&mut self, ready: &[bool], now: Instant) {
        let mut ready = ready.iter();
        let Self { connections, report, memory, run, steps, .. } = self;
        connections.retain_mut(|connection| {
            if !ready.next().is_some_and(|is_ready| *is_ready) {
                return true;
            }
            let (total, work) = (report.answered, steps.tell(now));
            let standing = Standing { nth: 0, total, run: *run, memory: memory.verdict(), work };
            let served = connection.serve(standing);
            report.answered += served.answered;
            report.refused += u64::from(served.is_garbage);
            served.stays_open
        });
    }

    /// Takes one connection (more will show at the next poll); false when there are no descriptors for it.
    fn accept(&mut self) -> bool {
        match self.listener.accept() {
            Ok((stream, peer)) => match Connection::new(stream) {
                Ok(connection) => {
                    self.connections.push(connection);
                    self.report.connections += 1;
                    true
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "a connection was gone before it was served");
                    true
                }
            },
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for a moment");
                false
            }
        }
    }
}

/// Listens with SO_REUSEADDR, and takes datagrams at the same port, before it listens.
fn listen(addr: SocketAddr) -> io::Result<(TcpListener, UdpSocket, SocketAddr)> {
    let socket = open(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    let local = socket.local_addr()?.as_socket().unwrap_or(addr);
    let datagrams = open(addr, Type::DGRAM, Protocol::UDP)?;
    datagrams.bind(&local.into())?;
    socket.listen(128)?;
    Ok((socket.into(), datagrams.into(), local))
}

/// A socket that does not wait; an IPv6 wildcard takes IPv4 too, whatever net.ipv6.bindv6only says.
fn open(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Probes of a connection on which nothing is heard: a client that vanished is let go after about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EACH: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
