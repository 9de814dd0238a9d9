//! What comes is not what was sent: it never passes, never panics.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use godwit_transport::{Options, PAGE, Receiver, Sender};
use proptest::prelude::*;

use crate::proxy::recording;
use crate::sides::{dialling, listener, page, pages, plain, quick, receiving};

/// A short session with everything in it: how it is cut into frames, hello first.
static RECORDED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (listener, address) = listener();
    let (proxy, recorded) = recording(address);
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), quick(), dir));
    // It says nothing of its own accord.
    let options = Options { heartbeat: Duration::from_secs(3600), ..quick() };
    let mut sender = Sender::open(dialling(proxy), plain(), options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("core.img"), b"some bytes").unwrap();
    sender.pages(7, 0x1000, &pages([1, 2, 1, 1])).unwrap();
    sender.zero(7, 0x8000, 2 * PAGE).unwrap();
    sender.forget(7, 0x2000, PAGE).unwrap();
    sender.pages(7, 0x3000, &page(3)).unwrap();
    sender.file(&dir.path().join("core.img"), "core.img").unwrap();
    sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
    let bytes = recorded.lock().unwrap().clone();
    let hello = 8 + usize::from(u16::from_le_bytes([bytes[6], bytes[7]])) + 4;
    let (mut frames, mut at) = (vec![bytes[..hello].to_vec()], hello);
    while at < bytes.len() {
        let length = 14 + u32::from_le_bytes(bytes[at + 2..at + 6].try_into().unwrap()) as usize + 4;
        frames.push(bytes[at..at + length].to_vec());
        at += length;
    }
    // The farewell is not part of what must arrive, and may be under way still.
    frames.retain(|frame| frame[0] < 0x80);
    frames
});

/// Whether a receiver takes these bytes for a whole session.
fn passes(bytes: &[u8]) -> bool {
    let (listener, address) = listener();
    let mut socket = TcpStream::connect(address).unwrap();
    let (incoming, _) = listener.accept().unwrap();
    let receiver = receiving(|dir| Receiver::new(incoming, dir));
    // It may hang up early.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
    receiver.join().unwrap().is_ok()
}

#[test]
fn the_session_as_it_was_passes() {
    assert!(RECORDED.len() >= 7);
    assert!(passes(&RECORDED.concat()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_truncated_or_damaged_session_never_passes(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = RECORDED.concat();
        let at = at.index(bytes.len());
        prop_assert!(!passes(&bytes[..at]));
        bytes[at] ^= flip;
        // In the hello there are features that the receiver takes or leaves; its CRC finds that, too.
        prop_assert!(!passes(&bytes));
    }

    #[test]
    fn frames_out_of_order_doubled_or_missing_never_pass(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), what in 0..3) {
        let mut frames = RECORDED.clone();
        let (a, b) = (1 + a.index(frames.len() - 1), 1 + b.index(frames.len() - 1));
        match what {
            0 => frames.swap(a, b),
            1 => frames.insert(b, frames[a].clone()),
            _ => drop(frames.remove(a)),
        }
        // Behind the end nobody reads.
        let same = frames == *RECORDED || (what == 1 && a == b && b == RECORDED.len() - 1);
        prop_assert_eq!(passes(&frames.concat()), same);
    }

    #[test]
    fn chance_after_a_hello_never_passes(bytes in prop::collection::vec(any::<u8>(), 0..3000), hello: bool) {
        let start = if hello { RECORDED[0].clone() } else { Vec::new() };
        prop_assert!(!passes(&[start, bytes].concat()));
    }

    #[test]
    fn a_sender_survives_whatever_answers(answer in prop::collection::vec(any::<u8>(), 0..300), greets: bool) {
        let (listener, address) = listener();
        let answering = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 64]);
            if greets {
                let mut welcome = b"GWMIG\x02\x14\x00".to_vec();
                welcome.extend([0, 2, 15, 0, 0, 0]);
                welcome.extend([0; 14]);
                welcome.extend(crc32fast::hash(&welcome).to_le_bytes());
                let _ = socket.write_all(&welcome);
            }
            let _ = socket.write_all(&answer);
        });
        let once = TcpStream::connect(address).unwrap();
        let sent = Sender::new(once).and_then(|mut sender| {
            sender.pages(1, 0, &page(1))?;
            sender.finish()
        });
        prop_assert!(sent.is_err());
        answering.join().unwrap();
    }
}
