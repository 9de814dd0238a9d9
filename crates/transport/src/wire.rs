//! One connection: a socket, with TLS on it or without; read by one thread while another one writes.
//!
//! rustls wants one owner for both directions. Here the socket is read and written outside the lock on it, so that a
//! writer who waits for a full network never keeps the reader from what would empty it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ClientConnection, Connection, ServerConnection};

use crate::error::{StreamError, io_error};
use crate::identity::{is_named, server_name};
use crate::options::Peer;
use crate::progress::Progress;

/// What may lie in the kernel without being under way: a request that overtakes the push waits for so much at most.
const NOT_SENT: u32 = 256 << 10;
/// What is encrypted at a time.
const PIECE: usize = 64 << 10;
const RAW: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    tls: Option<Tls>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Tls {
    connection: Mutex<Connection>,
    incoming: Mutex<Raw>,
    outgoing: Mutex<Vec<u8>>,
}

/// What came from the socket and was not decrypted yet.
#[derive(Debug)]
struct Raw {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A thread that panicked has broken its connection at worst, which the protocol finds.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn refused(source: io::Error, who: &str) -> StreamError {
    let tls = source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) => StreamError::Refused(format!(
            "{who} does not accept this node's certificate ({alert:?}): are both from the same authority, and in time?"
        )),
        Some(rustls::Error::InvalidCertificate(why)) => {
            StreamError::Refused(format!("who answers for {who} is not {who} by this authority's word ({why:?})"))
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            StreamError::Refused(format!("who calls for {who} shows no certificate"))
        }
        Some(rustls::Error::InvalidMessage(_)) => StreamError::Refused(format!(
            "{who} does not speak TLS: it is no node of this authority, or a release that cannot be authenticated"
        )),
        _ => StreamError::Io { what: format!("make the connection with {who} secure"), source },
    }
}

/// TLS 1.3 tells the caller that it was refused when the caller reads for the first time.
pub(crate) fn refused_later(error: &io::Error, peer: &Peer) -> Option<StreamError> {
    let Peer::Node { name, .. } = peer else { return None };
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(refused(io::Error::new(error.kind(), tls.clone()), name))
}

impl Wire {
    /// The side that called.
    pub(crate) fn calling(
        socket: TcpStream,
        peer: &Peer,
        within: Duration,
        progress: &Arc<Progress>,
    ) -> Result<Self, StreamError> {
        let tls = match peer {
            Peer::Plain => None,
            Peer::Node { own, name } => {
                let config = own.client().map_err(identity)?;
                let connection = ClientConnection::new(config, server_name(name).map_err(identity)?);
                let connection = connection.map_err(|e| refused(io::Error::other(e), name))?;
                Some((Connection::Client(connection), name))
            }
        };
        Self::new(socket, tls, within, progress)
    }

    /// The side that was called.
    pub(crate) fn called(
        socket: TcpStream,
        peer: &Peer,
        within: Duration,
        progress: &Arc<Progress>,
    ) -> Result<Self, StreamError> {
        let tls = match peer {
            Peer::Plain => None,
            Peer::Node { own, name } => {
                let connection = ServerConnection::new(own.server().map_err(identity)?);
                Some((Connection::Server(connection.map_err(|e| refused(io::Error::other(e), name))?), name))
            }
        };
        Self::new(socket, tls, within, progress)
    }

    fn new(
        socket: TcpStream,
        tls: Option<(Connection, &String)>,
        within: Duration,
        progress: &Arc<Progress>,
    ) -> Result<Self, StreamError> {
        let set_up = || io_error("set up the connection");
        socket.set_nodelay(true).map_err(set_up())?;
        socket2::SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT).map_err(set_up())?;
        socket.set_read_timeout(Some(within)).map_err(set_up())?;
        socket.set_write_timeout(Some(within)).map_err(set_up())?;
        let tls = match tls {
            None => None,
            Some((mut connection, name)) => {
                while connection.is_handshaking() {
                    let (read, written) =
                        connection.complete_io(&mut &socket).map_err(|e| refused(in_words(e), name))?;
                    Progress::add(&progress.wire_received, read);
                    Progress::add(&progress.wire_sent, written);
                }
                connection.set_buffer_limit(None);
                let raw = Raw { bytes: vec![0; RAW].into(), start: 0, end: 0 };
                let (incoming, outgoing) = (Mutex::new(raw), Mutex::default());
                Some(Tls { connection: Mutex::new(connection), incoming, outgoing })
            }
        };
        Ok(Self { socket, tls, progress: Arc::clone(progress) })
    }

    /// Whether the other side is that node, where it had to say.
    pub(crate) fn is_from(&self, peer: &Peer) -> bool {
        match (peer, &self.tls) {
            (Peer::Plain, _) => true,
            (Peer::Node { .. }, None) => false,
            (Peer::Node { name, .. }, Some(tls)) => locked(&tls.connection)
                .peer_certificates()
                .and_then(|chain| chain.first())
                .is_some_and(|certificate| is_named(certificate, name)),
        }
    }

    /// Whoever waits for bytes looks up after so long.
    pub(crate) fn set_timeouts(
        &self,
        read: impl Into<Option<Duration>>,
        write: impl Into<Option<Duration>>,
    ) -> io::Result<()> {
        self.socket.set_read_timeout(read.into())?;
        self.socket.set_write_timeout(write.into())
    }

    /// Ends it both ways; whoever waits in it comes back.
    pub(crate) fn shut_down(&self) {
        // It may be gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Nothing more is written; what was is delivered, and the other side still heard.
    pub(crate) fn shut_out(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads what there is; 0 is the end.
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.read_socket(into) };
        let mut raw = locked(&tls.incoming);
        loop {
            match locked(&tls.connection).reader().read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if raw.start == raw.end {
                let got = self.read_socket(&mut raw.bytes)?;
                (raw.start, raw.end) = (0, got);
                if got == 0 {
                    return Ok(0);
                }
            }
            let mut connection = locked(&tls.connection);
            let taken = connection.read_tls(&mut &raw.bytes[raw.start..raw.end])?;
            raw.start += taken;
            connection.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
    }

    fn read_socket(&self, into: &mut [u8]) -> io::Result<usize> {
        let got = (&self.socket).read(into)?;
        Progress::add(&self.progress.wire_received, got);
        Ok(got)
    }

    /// Writes all of it. One thread at a time.
    pub(crate) fn write_all(&self, parts: &[&[u8]]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return parts.iter().try_for_each(|part| self.write_socket(part));
        };
        let mut outgoing = locked(&tls.outgoing);
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE)) {
            {
                let mut connection = locked(&tls.connection);
                connection.writer().write_all(piece)?;
                while connection.wants_write() {
                    connection.write_tls(&mut *outgoing)?;
                }
            }
            if outgoing.len() >= PIECE {
                self.write_socket(&outgoing)?;
                outgoing.clear();
            }
        }
        self.write_socket(&outgoing)?;
        outgoing.clear();
        Ok(())
    }

    fn write_socket(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    Progress::add(&self.progress.wire_sent, n);
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(in_words(e)),
            }
        }
        Ok(())
    }
}

fn identity(error: crate::identity::IdentityError) -> StreamError {
    StreamError::Refused(format!("this node's own credentials: {error}"))
}

/// What a time-out of a socket says.
pub(crate) fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "nothing moved in time"),
        _ => error,
    }
}

/// A connection as version 1 wants it.
#[derive(Debug)]
pub(crate) struct Stream(pub(crate) Arc<Wire>);

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(&[bytes]).map(|()| bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
