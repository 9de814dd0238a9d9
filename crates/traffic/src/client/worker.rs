//! The client's thread.

use std::io::{ErrorKind, PipeReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::link::{self, Link};
use super::socket::Speaker;
use super::{ClientConfig, lock};
use crate::pace::Ticks;
use crate::{BreakCause, Recorder};

pub(super) struct Worker {
    addr: SocketAddr,
    config: ClientConfig,
    payload: usize,
    recorder: Arc<Mutex<Recorder>>,
    stop: PipeReader,
    link: Option<Link>,
    born: Instant,
    ticks: Ticks,
    /// Set once it is told to stop: until then it waits for what is due.
    drain_until: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        addr: SocketAddr,
        config: ClientConfig,
        recorder: Arc<Mutex<Recorder>>,
        stop: PipeReader,
        speaker: Speaker,
    ) -> Self {
        let born = Instant::now();
        Self {
            addr,
            payload: config.payload(),
            ticks: Ticks::new(born, config.period),
            config,
            recorder,
            stop,
            link: Some(Link::new(speaker)),
            born,
            drain_until: None,
        }
    }

    pub(super) fn work(mut self) {
        if self.config.raise_priority
            && let Err(error) = rustix::process::setpriority_process(None, -10)
        {
            tracing::debug!(%error, "the client runs at ordinary priority: a busy machine may fake gaps");
        }
        self.ticks = Ticks::new(Instant::now(), self.config.period);
        loop {
            let Some(mut link) = self.link.take() else {
                if self.drain_until.is_some() || !self.reconnect() {
                    return;
                }
                continue;
            };
            match self.turn(&mut link) {
                Ok(true) => self.link = Some(link),
                Ok(false) => return,
                Err(cause) => {
                    tracing::info!(addr = %self.addr, %cause, "a connection broke");
                    lock(&self.recorder).broke(Instant::now(), cause);
                }
            }
        }
    }

    /// Asks if it is time to, waits for something to happen, listens. False when it is over.
    fn turn(&mut self, link: &mut Link) -> Result<bool, BreakCause> {
        let now = Instant::now();
        let (waiting, longest_wait) = {
            let recorder = lock(&self.recorder);
            (recorder.waiting(), recorder.longest_wait(now))
        };
        match self.drain_until {
            Some(until) if waiting == 0 || until <= now => return Ok(false),
            Some(_) => {}
            None => self.ask(link, now),
        }
        if longest_wait >= self.config.silence_limit {
            return Err(BreakCause::Silent);
        }
        link.write()?;

        let next = self.drain_until.unwrap_or(self.ticks.next());
        let timeout = next.saturating_duration_since(Instant::now());
        // Told to stop, the pipe stays readable: it is asked no more.
        let stop_interest = if self.drain_until.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(link.as_fd(), link.interest())];
        if !stop_interest.is_empty() {
            fds.push(PollFd::new(self.stop.as_fd(), stop_interest));
        }
        let Ok(ready) = link::poll(&mut fds, timeout) else { return Ok(false) };
        if ready == 0 {
            return Ok(true);
        }
        let is_stopped = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(true));
        if fds[0].any().unwrap_or(true) {
            drop(fds);
            link.read(|at, answer| lock(&self.recorder).answer(at, answer))?;
        }
        if is_stopped {
            self.drain_until = Some(Instant::now() + self.config.drain);
        }
        Ok(true)
    }

    fn ask(&mut self, link: &mut Link, now: Instant) {
        let Some(tick) = self.ticks.take(now) else { return };
        let mut recorder = lock(&self.recorder);
        recorder.own_delay(tick.late);
        if link.has_room() {
            recorder.left_out(tick.missed);
            let seq = recorder.sent(now);
            link.ask(seq, (now - self.born).as_nanos() as u64, self.payload);
        } else {
            recorder.left_out(tick.missed + 1);
        }
    }

    /// Tries once to connect again, else waits a little; false when told to stop.
    fn reconnect(&mut self) -> bool {
        match link::connect(self.addr, &self.config, self.config.connect_timeout, &self.stop) {
            Ok(speaker) => {
                lock(&self.recorder).opened();
                self.link = Some(Link::new(speaker));
                // The moments that passed meanwhile are nobody's lateness.
                self.ticks = Ticks::new(Instant::now(), self.config.period);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => false,
            Err(error) => {
                tracing::debug!(addr = %self.addr, %error, "cannot connect again yet");
                !link::is_stopped(&self.stop, self.config.reconnect_every.max(Duration::from_millis(1))).unwrap_or(true)
            }
        }
    }
}
