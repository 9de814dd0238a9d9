//! A link that can be broken.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens to a connection after so many bytes, in either direction together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It is cut.
    CutAfter(usize),
    /// Nothing comes through any more, and nobody says so.
    SilentAfter(usize),
    /// None.
    Lives,
    /// It is not even made.
    Refused,
}

/// Passes connections on; to each happens what is next in the list, and then nothing (or, `last`, that).
pub(crate) fn fated(to: SocketAddr, fates: Vec<Fate>, last: Fate) -> SocketAddr {
    start(to, fates, last, Arc::default())
}

/// Passes connections on and keeps what goes towards the receiver.
pub(crate) fn recording(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let recorded = Arc::default();
    (start(to, Vec::new(), Fate::Lives, Arc::clone(&recorded)), recorded)
}

fn start(to: SocketAddr, fates: Vec<Fate>, last: Fate, recorded: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        let mut fates = fates.into_iter();
        while let Ok((near, _)) = listener.accept() {
            let fate = fates.next().unwrap_or(last);
            if matches!(fate, Fate::Refused) {
                continue;
            }
            let Ok(far) = TcpStream::connect(to) else { continue };
            let passed = Arc::new(Mutex::new(0));
            for (from, to, recorded) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap(), Some(Arc::clone(&recorded))), (far, near, None)]
            {
                let passed = Arc::clone(&passed);
                thread::spawn(move || pass(from, to, fate, &passed, recorded));
            }
        }
    });
    address
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    fate: Fate,
    passed: &Mutex<usize>,
    recorded: Option<Arc<Mutex<Vec<u8>>>>,
) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if let Some(recorded) = &recorded {
            recorded.lock().unwrap().extend(&buffer[..n]);
        }
        let mut passed = passed.lock().unwrap();
        let (may, cut) = match fate {
            Fate::CutAfter(after) => (n.min(after.saturating_sub(*passed)), *passed + n >= after),
            Fate::SilentAfter(after) => (n.min(after.saturating_sub(*passed)), false),
            Fate::Lives | Fate::Refused => (n, false),
        };
        *passed += n;
        drop(passed);
        if to.write_all(&buffer[..may]).is_err() || cut {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
