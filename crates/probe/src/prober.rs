//! The prober: one poll over the sockets of all users.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use godwit_model::Rtt;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::icmp::IcmpSocket;
use crate::packet::{Echo, Version};
use crate::tcp::{Connect, Outcome};
use crate::track::{Probe, Track};
use crate::{Means, Measurement, Method, ProbeConfig, ProbeError};

/// A prober whose ICMP sockets are open.
#[derive(Debug)]
pub struct Prober {
    config: ProbeConfig,
    v4: Option<IcmpSocket>,
    v6: Option<IcmpSocket>,
}

/// A prober at work on its own thread; [`Self::stop`] or dropping it ends it.
#[derive(Debug)]
pub struct RunningProber {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<(), ProbeError>>>,
}

struct Target {
    addr: IpAddr,
    track: Track,
}

struct TcpFlight {
    target: usize,
    number: u64,
    connect: Connect,
}

impl Prober {
    /// Opens the ICMP sockets, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ProbeError::IcmpNotPermitted`] when the method is [`Method::Icmp`] and none may be opened; with
    /// [`Method::Auto`] that is said in the log and TCP is used.
    pub fn open(config: ProbeConfig) -> Result<Self, ProbeError> {
        let secret = RandomState::new().hash_one(std::process::id());
        let open = |version, has_such: fn(&IpAddr) -> bool| {
            if matches!(config.method, Method::Tcp { .. }) || !config.targets.iter().any(|(_, addr)| has_such(addr)) {
                return Ok(None);
            }
            match IcmpSocket::open(version, secret) {
                Ok(socket) => Ok(Some(socket)),
                Err(error) if config.method == Method::Icmp => Err(ProbeError::IcmpNotPermitted(error)),
                Err(error) => {
                    tracing::warn!(%error, ?version, "may not open an ICMP socket, probing by TCP");
                    Ok(None)
                }
            }
        };
        let v4 = open(Version::V4, IpAddr::is_ipv4)?;
        let v6 = open(Version::V6, IpAddr::is_ipv6)?;
        Ok(Self { config, v4, v6 })
    }

    /// [`Self::open`] on the calling thread, [`Self::run`] on a new one, which inherits the calling thread's network
    /// namespace. `sink` is called on that thread; it should not block.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is no pipe or thread to be had.
    pub fn spawn(
        config: ProbeConfig,
        sink: impl FnMut(Measurement) + Send + 'static,
    ) -> Result<RunningProber, ProbeError> {
        let prober = Self::open(config)?;
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().map_err(ProbeError::setup("a pipe"))?;
        let thread = thread::Builder::new()
            .name("probe".into())
            .spawn(move || prober.run(reader, sink))
            .map_err(ProbeError::setup("a thread"))?;
        Ok(RunningProber { stop: Some(writer), thread: Some(thread) })
    }

    /// Probes until `stop` becomes readable or its other end is closed. TCP probes open their sockets in the network
    /// namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`ProbeError::Poll`] when waiting itself fails. Nothing that a user or a network does ends it.
    pub fn run(self, stop: impl AsFd, mut sink: impl FnMut(Measurement)) -> Result<(), ProbeError> {
        let start = Instant::now();
        let spread = self.config.interval / u32::try_from(self.config.targets.len().max(1)).unwrap_or(u32::MAX);
        let mut targets: Vec<Target> = (0..)
            .zip(&self.config.targets)
            .map(|(nth, (user, addr))| Target {
                addr: *addr,
                track: Track::new(user.clone(), &self.config, self.icmp(*addr).is_some(), start + spread * nth),
            })
            .collect();
        let mut flights: Vec<TcpFlight> = Vec::new();
        loop {
            let now = Instant::now();
            for (index, target) in targets.iter_mut().enumerate() {
                target.track.expire(now).into_iter().for_each(&mut sink);
                for probe in target.track.due(now) {
                    self.send(index, target, probe, &mut flights).into_iter().for_each(&mut sink);
                }
            }
            flights.retain(|f| targets[f.target].track.sent(f.number).is_some());

            let deadline = targets.iter().map(|t| t.track.next_deadline()).min();
            let Some(ready) = self.wait(&stop, &flights, deadline)? else { return Ok(()) };
            let woke = Instant::now();
            for icmp in [&self.v4, &self.v6].into_iter().flatten() {
                read_answers(icmp, &mut targets, &mut sink);
            }
            let (done, waiting): (Vec<_>, Vec<_>) = flights.into_iter().zip(ready).partition(|(_, is_ready)| *is_ready);
            flights = waiting.into_iter().map(|(flight, _)| flight).collect();
            for (flight, _) in done {
                let track = &mut targets[flight.target].track;
                settle(track, flight.number, flight.connect.outcome(), woke).into_iter().for_each(&mut sink);
            }
        }
    }

    fn icmp(&self, addr: IpAddr) -> Option<&IcmpSocket> {
        if addr.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    fn send(
        &self,
        index: usize,
        target: &mut Target,
        probe: Probe,
        flights: &mut Vec<TcpFlight>,
    ) -> Option<Measurement> {
        let Target { addr, track } = target;
        match (probe.means, self.icmp(*addr), self.config.method) {
            (Means::Icmp, Some(icmp), _) => {
                let echo = Echo { secret: icmp.secret(), target: index as u64, number: probe.number };
                track.left(probe.number, Instant::now());
                let sent = icmp.send(*addr, &echo);
                sent.err().and_then(|_| track.failed(probe.number, Instant::now()))
            }
            (Means::Tcp, _, Method::Auto { port } | Method::Tcp { port }) => {
                let to = SocketAddr::new(*addr, port);
                let Ok(connect) = Connect::open(to) else { return track.failed(probe.number, Instant::now()) };
                track.left(probe.number, Instant::now());
                if let Some(outcome) = connect.start(to) {
                    return settle(track, probe.number, outcome, Instant::now());
                }
                flights.push(TcpFlight { target: index, number: probe.number, connect });
                None
            }
            _ => track.failed(probe.number, Instant::now()),
        }
    }

    /// Waits for something to do; which TCP connects are settled, or `None` when it is time to stop.
    fn wait(
        &self,
        stop: &impl AsFd,
        flights: &[TcpFlight],
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<bool>>, ProbeError> {
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(flights.iter().map(|f| PollFd::new(f.connect.as_fd(), PollFlags::POLLOUT)));
        let icmp = [&self.v4, &self.v6].into_iter().flatten();
        fds.extend(icmp.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()).into());
        let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        match ppoll(&mut fds, timeout, None) {
            Ok(_) if happened(&fds[0]) => Ok(None),
            Ok(_) => Ok(Some(fds[1..=flights.len()].iter().map(happened).collect())),
            Err(nix::Error::EINTR) => Ok(Some(vec![false; flights.len()])),
            Err(error) => Err(ProbeError::Poll(error.into())),
        }
    }
}

/// Takes all ICMP answers that wait, but no more than fair: a flood of them must not keep the others' probes back.
fn read_answers(icmp: &IcmpSocket, targets: &mut [Target], sink: &mut impl FnMut(Measurement)) {
    for _ in 0..=4 * targets.len() {
        let answer = match icmp.receive() {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "reading from an ICMP socket");
                return;
            }
        };
        let read = Instant::now();
        let target = usize::try_from(answer.echo.target).ok().and_then(|index| targets.get_mut(index));
        let Some(target) = target.filter(|t| t.addr == answer.from) else { continue };
        let number = answer.echo.number;
        // The wait in the socket is ours, not the network's. Were the clock set meanwhile it could exceed the whole.
        let whole = target.track.sent(number).map(|sent| read.saturating_duration_since(sent)).unwrap_or_default();
        let rtt = whole.checked_sub(answer.waited).unwrap_or(whole);
        target.track.answered(number, Rtt::from(rtt)).into_iter().for_each(&mut *sink);
    }
}

fn settle(track: &mut Track, number: u64, outcome: Outcome, now: Instant) -> Option<Measurement> {
    let whole = now.saturating_duration_since(track.sent(number)?);
    match outcome {
        Outcome::Accepted(kernels) => track.answered(number, Rtt::from(kernels.unwrap_or(whole).min(whole))),
        Outcome::Refused => track.answered(number, Rtt::from(whole)),
        Outcome::Failed(kind) => {
            tracing::trace!(%kind, "a TCP probe failed");
            track.failed(number, now)
        }
    }
}

impl RunningProber {
    /// Ends it and waits for its thread; no measurement comes after this returns.
    ///
    /// # Errors
    /// What ended it before, if something did.
    pub fn stop(mut self) -> Result<(), ProbeError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), ProbeError> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(ProbeError::Panicked)))
    }
}

impl Drop for RunningProber {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::warn!(error = &error as &dyn std::error::Error, "a prober had ended early");
        }
    }
}
