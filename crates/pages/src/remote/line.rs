//! What pages come over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A connection: one thread reads while another one writes.
pub trait Line: Send + Sync {
    /// Reads what there is; 0 is the end.
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it.
    fn write_all(&self, bytes: &[u8]) -> io::Result<()>;
    /// Whoever waits in it gives up after so long.
    fn set_patience(&self, most: Duration) -> io::Result<()>;
    /// Ends it both ways; whoever waits in it comes back.
    fn shut_down(&self);
}

/// In the clear, from whoever it is: for tests within a host.
impl Line for TcpStream {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, into)
    }
    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(&mut &*self, bytes)
    }
    fn set_patience(&self, most: Duration) -> io::Result<()> {
        self.set_nodelay(true)?;
        self.set_read_timeout(Some(most))?;
        self.set_write_timeout(Some(most))
    }
    fn shut_down(&self) {
        // It can only fail when the other end has gone already.
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Both ends of a line, as the standard library has them.
pub(super) struct Ends<'a>(pub(super) &'a dyn Line);

impl Read for Ends<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Ends<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).map(|()| bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
