//! Where connections come from, the first one and those after it.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Calls the receiver, again when the connection broke.
pub trait Dial: Send {
    /// A connection, within that time. [`io::ErrorKind::Unsupported`] says that there will be none ever.
    fn dial(&mut self, within: Duration) -> io::Result<TcpStream>;
}

impl<F: FnMut(Duration) -> io::Result<TcpStream> + Send> Dial for F {
    fn dial(&mut self, within: Duration) -> io::Result<TcpStream> {
        self(within)
    }
}

/// Is called by the sender, again when the connection broke.
pub trait Incoming: Send + 'static {
    /// The next caller, within that time; [`io::ErrorKind::WouldBlock`] or `TimedOut` if there is none.
    /// [`io::ErrorKind::Unsupported`] says that there will be none ever.
    fn next(&mut self, within: Duration) -> io::Result<TcpStream>;
}

impl Incoming for TcpListener {
    fn next(&mut self, within: Duration) -> io::Result<TcpStream> {
        // Linux counts a socket's receive time-out for accept, too; zero would mean for ever.
        let within = within.max(Duration::from_millis(1));
        socket2::SockRef::from(&*self).set_read_timeout(Some(within))?;
        self.accept().map(|(socket, _)| socket)
    }
}

/// A connection that exists already, and cannot be made again.
#[derive(Debug)]
pub(crate) struct Once(pub(crate) Option<TcpStream>);

impl Once {
    fn take(&mut self) -> io::Result<TcpStream> {
        let gone = || io::Error::new(io::ErrorKind::Unsupported, "this connection cannot be made again");
        self.0.take().ok_or_else(gone)
    }
}

impl Dial for Once {
    fn dial(&mut self, _: Duration) -> io::Result<TcpStream> {
        self.take()
    }
}

impl Incoming for Once {
    fn next(&mut self, _: Duration) -> io::Result<TcpStream> {
        self.take()
    }
}
