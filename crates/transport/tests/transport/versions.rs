//! Version 1, as it was recorded from the release that had nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use godwit_transport::{Options, PAGE, Receiver, Sender, StreamError};

use crate::sides::{Arrived, SIZE, dialling, listener, plain, quick, receiving};

const SENT: &[u8] = include_bytes!("../fixtures/v1-sender.bin");
const ANSWERED: &[u8] = include_bytes!("../fixtures/v1-receiver.bin");

fn check(arrived: &Arrived) {
    let memory = &arrived.memory.0;
    let keys: Vec<_> = memory.iter().map(|(key, page)| (*key, page.as_ref().map(|page| page[0]))).collect();
    assert_eq!(
        keys,
        [((7, 0x1000), Some(1)), ((7, 0x8000), None), ((7, 0x9000), None), ((8, 0x7fff_ffff_e000), Some(0xa5))]
    );
    assert_eq!(arrived.files["core-1.img"], b"some bytes of an image");
    assert_eq!(arrived.files["empty.img"], b"");
    assert_eq!(arrived.files.len(), 2);
}

#[test]
fn what_version_1_sent_is_received_and_answered_to_the_byte() {
    let (listener, address) = listener();
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), quick(), dir));
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(SENT).unwrap();
    let mut answers = Vec::new();
    socket.read_to_end(&mut answers).unwrap();
    assert_eq!(answers, ANSWERED);
    check(&receiver.join().unwrap().unwrap());
}

#[test]
fn a_receiver_of_version_1_is_sent_what_version_1_sent_to_the_byte() {
    let (listener, address) = listener();
    // As it did: it hangs up on any other version, and answers a sync and the end.
    let receiver = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut hello = [0; 6];
        socket.read_exact(&mut hello).unwrap();
        assert!(hello[5] != 1, "the newest version is tried first");
        drop(socket);
        let (mut socket, _) = listener.accept().unwrap();
        let mut got = vec![0; SENT.len()];
        let sync = SENT.windows(9).position(|w| w == [5, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap() + 9;
        socket.read_exact(&mut got[..sync]).unwrap();
        socket.write_all(&ANSWERED[..9]).unwrap();
        socket.read_exact(&mut got[sync..]).unwrap();
        socket.write_all(&ANSWERED[9..]).unwrap();
        got
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("core-1.img"), b"some bytes of an image").unwrap();
    std::fs::write(dir.path().join("empty.img"), b"").unwrap();
    let mut sender = Sender::open(dialling(address), plain(), quick()).unwrap();
    assert_eq!(sender.version(), 1);
    sender.pages(7, 0x1000, &[[1u8; SIZE], [2u8; SIZE]].concat()).unwrap();
    sender.zero(7, 0x8000, 2 * PAGE).unwrap();
    sender.forget(7, 0x2000, PAGE).unwrap();
    sender.sync().unwrap();
    sender.pages(8, 0x7fff_ffff_e000, &[0xa5u8; SIZE]).unwrap();
    sender.dir(dir.path(), |_| true).unwrap();
    assert!(sender.requests().is_none());
    assert!(!sender.carries_messages());
    assert!(sender.message(b"x").unwrap_err().to_string().contains("older release"));
    sender.finish().unwrap();
    assert!(receiver.join().unwrap() == SENT, "other bytes than version 1 sent");
}

#[test]
fn version_1_is_refused_where_it_is_not_wanted() {
    let (listener, address) = listener();
    let options = Options { oldest: 2, connect: std::time::Duration::from_millis(300), ..quick() };
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), options, dir));
    let mut socket = TcpStream::connect(address).unwrap();
    // It may hang up before all is written.
    let _ = socket.write_all(SENT);
    let error = receiver.join().unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Version { theirs: 1, .. }), "{error}");
}

#[test]
fn a_later_release_that_still_speaks_this_version_is_understood_one_that_does_not_is_told() {
    // Versions 3 to 9, then 2 to 9: as a later release would say it.
    for (min, speaks) in [(3u8, false), (2, true)] {
        let (listener, address) = listener();
        let options = Options { connect: std::time::Duration::from_millis(300), ..quick() };
        let receiver = receiving(|dir| Receiver::listen(listener, plain(), options, dir));
        let mut hello = b"GWMIG\x02\x1b\x00".to_vec();
        hello.extend([min, 9, 0xff, 0xff, 0xff, 0xff]);
        hello.extend([7; 16]);
        hello.extend([0; 5]);
        hello.extend(crc32fast::hash(&hello).to_le_bytes());
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(&hello).unwrap();
        let mut answer = [0; 10];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!((&answer[..6], answer[8], answer[9]), (&b"GWMIG\x02"[..], u8::from(!speaks), 2));
        let mut end = hello[..0].to_vec();
        end.extend([7, 0, 12, 0, 0, 0]);
        end.extend([0; 8]);
        end.extend([0; 12]);
        end.extend(crc32fast::hash(&end).to_le_bytes());
        let _ = socket.write_all(&end);
        drop(socket);
        let received = receiver.join().unwrap();
        assert_eq!(received.is_ok(), speaks, "{:?}", received.err());
    }
}
