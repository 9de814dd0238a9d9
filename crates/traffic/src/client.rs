//! The measuring client: asks at fixed moments, listens all the time, on a thread of its own.

mod link;
mod socket;
mod worker;

use std::io::{self, PipeWriter};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_model::Protocol;

use crate::{ClientReport, Gap, LiveClient, Recorder, Work};
use worker::Worker;

/// How a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Time between two requests; 5 ms.
    pub period: Duration,
    /// By a connection or by datagrams; TCP.
    pub protocol: Protocol,
    /// Bytes of payload of each; 64. At most [`crate::wire::MAX_PAYLOAD`], in a datagram 1072.
    pub payload: usize,
    /// How long the first connection may take, a service that is not there yet included; 5 s. The same for each later
    /// try to connect again.
    pub connect_timeout: Duration,
    /// A connection on which a request waits for so long is given up for broken; 30 s. A migration is no such thing.
    pub silence_limit: Duration,
    /// Time between two tries to connect again; 100 ms.
    pub reconnect_every: Duration,
    /// How long [`Client::finish`] waits for the answers that are still due; 2 s.
    pub drain: Duration,
    /// Whether the thread asks for a nice value of -10, so that a busy machine does not fake gaps. Without the right to
    /// it this is left out; true.
    pub raise_priority: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            period: Duration::from_millis(5),
            protocol: Protocol::Tcp,
            payload: 64,
            connect_timeout: Duration::from_secs(5),
            silence_limit: Duration::from_secs(30),
            reconnect_every: Duration::from_millis(100),
            drain: Duration::from_secs(2),
            raise_priority: true,
        }
    }
}

/// What a path with the smallest MTU of IPv6 carries unfragmented, answers' headers included.
const MAX_DATAGRAM: usize = 1_200;

impl ClientConfig {
    fn payload(&self) -> usize {
        self.payload.min(match self.protocol {
            Protocol::Tcp => crate::wire::MAX_PAYLOAD,
            Protocol::Udp => MAX_DATAGRAM - crate::wire::ANSWER_HEADER,
        })
    }
}

/// Why a client does not start or has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody accepts connections there.
    #[error("cannot connect to {addr}")]
    Connect {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No pipe or thread.
    #[error("cannot set up a client")]
    Setup(#[source] io::Error),
    /// Its thread panicked.
    #[error("the client's thread panicked")]
    Panicked,
}

/// A client at work; [`Self::finish`] or dropping it ends it.
#[derive(Debug)]
pub struct Client {
    recorder: Arc<Mutex<Recorder>>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects on the calling thread, then asks on a new one. A client by datagrams has a socket that knows its service,
    /// which is opened anew where others would connect again; nobody has to be there yet. All its sockets, later ones too, are opened in the network
    /// namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when there is no connection within the time-out.
    pub fn connect(addr: SocketAddr, config: ClientConfig) -> Result<Self, ClientError> {
        let (reader, writer) = io::pipe().map_err(ClientError::Setup)?;
        let speaker =
            link::connect_patiently(addr, &config, &reader).map_err(|source| ClientError::Connect { addr, source })?;
        let mut recorder = Recorder::new(config.payload(), 3 * config.period);
        recorder.opened();
        let recorder = Arc::new(Mutex::new(recorder));
        let worker = Worker::new(addr, config, Arc::clone(&recorder), reader, speaker);
        let thread =
            thread::Builder::new().name("client".into()).spawn(move || worker.work()).map_err(ClientError::Setup)?;
        Ok(Self { recorder, stop: Some(writer), thread: Some(thread) })
    }

    /// How it fares right now; cheap.
    pub fn snapshot(&self) -> LiveClient {
        lock(&self.recorder).snapshot(Instant::now())
    }

    /// The longest silence that overlaps `from..to`, in its whole length (it may begin before and end after), one
    /// that still lasts included. Look a little after `to`, or a gap that ends then is seen as far as it got.
    pub fn worst_gap_between(&self, from: Instant, to: Instant) -> Option<Gap> {
        lock(&self.recorder).worst_gap_between(from, to, Instant::now())
    }

    /// See [`Recorder::longest_step_between`].
    pub fn longest_step_between(&self, from: Instant, to: Instant) -> Option<Duration> {
        lock(&self.recorder).longest_step_between(from, to)
    }

    /// What the service last said of its work, and when.
    pub fn work(&self) -> Option<(Instant, Work)> {
        lock(&self.recorder).work()
    }

    /// Asks no more, waits for what is due, closes, and says what it saw.
    ///
    /// # Errors
    /// [`ClientError::Panicked`].
    pub fn finish(mut self) -> Result<ClientReport, ClientError> {
        self.join()?;
        let recorder = std::mem::replace(&mut *lock(&self.recorder), Recorder::new(0, Duration::ZERO));
        Ok(recorder.finish(Instant::now()))
    }

    fn join(&mut self) -> Result<(), ClientError> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| ClientError::Panicked))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// A panic while it was locked would be a bug in counting; the counts so far are still the best there is.
fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}
