use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use godwit_transport::{Authority, Options, Peer, Receiver, Sender, StreamError};
use proptest::prelude::*;

use crate::proxy::{Fate, fated};
use crate::sides::{check_everything, dialling, listener, page, plain, quick, receiving};

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (0usize..900_000).prop_map(Fate::CutAfter),
        // Around hello, TLS and the first frames.
        3 => (0usize..3_000).prop_map(Fate::CutAfter),
        1 => Just(Fate::Refused),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, ..ProptestConfig::default() })]
    /// A frame that arrived and is sent again would be an error: frames are numbered, and taken in once.
    #[test]
    fn a_link_cut_anywhere_any_number_of_times_carries_everything_once(
        first in 200usize..900_000, more in prop::collection::vec(fate(), 0..6), secure: bool,
    ) {
        let (listener, address) = listener();
        // The session has to come to be; from then on anything may happen.
        let fates = [Fate::CutAfter(first + 4_000)].into_iter().chain(more).collect();
        let proxy = fated(address, fates, Fate::Lives);
        let authority = Authority::new().unwrap();
        let node = |own: &str, name: &str| match secure {
            true => Peer::Node { own: Arc::new(authority.issue(own).unwrap()), name: name.into() },
            false => plain(),
        };
        let receiver = receiving(|dir| Receiver::listen(listener, node("b", "a"), quick(), dir));
        let sender = Sender::open(dialling(proxy), node("a", "b"), quick()).unwrap();
        let progress = sender.progress();
        check_everything(sender, receiver);
        prop_assert!(progress.resumed() >= 1);
    }
}

#[test]
fn a_link_that_falls_silent_is_found_and_replaced() {
    let (listener, address) = listener();
    let fates = vec![Fate::SilentAfter(300_000), Fate::SilentAfter(10), Fate::SilentAfter(100_000)];
    let proxy = fated(address, fates, Fate::Lives);
    let options = Options { stall: Duration::from_millis(400), connect: Duration::from_millis(1000), ..quick() };
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), options.clone(), dir));
    let sender = Sender::open(dialling(proxy), plain(), options).unwrap();
    let progress = sender.progress();
    check_everything(sender, receiver);
    assert!(progress.resumed() >= 2);
}

#[test]
fn an_idle_link_lives_by_heartbeats() {
    let (listener, address) = listener();
    let options = Options { stall: Duration::from_millis(1500), heartbeat: Duration::from_millis(20), ..quick() };
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), options.clone(), dir));
    let mut sender = Sender::open(dialling(address), plain(), options).unwrap();
    let progress = sender.progress();
    // Nobody says a word of contents for longer than a link may be silent.
    assert!(sender.requests().unwrap().next(Duration::from_secs(2)).unwrap().is_none());
    assert!(progress.wire_received().0 > 100 && progress.wire_sent().0 > 100);
    sender.pages(1, 0, &page(1)).unwrap();
    sender.finish().unwrap();
    assert_eq!(progress.resumed(), 0);
    receiver.join().unwrap().unwrap();
}

#[test]
fn a_link_that_does_not_come_back_ends_both_sides() {
    let (listener, address) = listener();
    let proxy = fated(address, vec![Fate::CutAfter(100_000)], Fate::Refused);
    let options = Options { resume: Duration::from_millis(300), ..quick() };
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), options.clone(), dir));
    let mut sender = Sender::open(dialling(proxy), plain(), options).unwrap();
    let memory: Vec<u8> = (0..60).flat_map(|n| page(n * 3)).collect();
    let error = sender.pages(1, 0, &memory).and_then(|()| sender.sync()).unwrap_err();
    assert!(matches!(error, StreamError::Lost { .. }), "{error}");
    assert!(matches!(receiver.join().unwrap().unwrap_err(), StreamError::Lost { .. }));
}

#[test]
fn another_session_cannot_be_taken_up() {
    let (listener, address) = listener();
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), quick(), dir));
    let sender = Sender::open(dialling(address), plain(), quick()).unwrap();
    // The receiver looks at it when it next has nothing else to do.
    let error = Sender::open(dialling(address), plain(), quick()).unwrap_err().to_string();
    assert!(error.contains("another session is under way"), "{error}");
    check_everything(sender, receiver);
}

#[test]
fn a_connection_that_cannot_be_made_again_says_what_broke_it() {
    let (listener, address) = listener();
    let proxy = fated(address, vec![Fate::CutAfter(50_000)], Fate::Lives);
    let stream = TcpStream::connect(proxy).unwrap();
    let (incoming, _) = listener.accept().unwrap();
    let receiver = receiving(|dir| Receiver::new(incoming, dir));
    let mut sender = Sender::new(stream).unwrap();
    let memory: Vec<u8> = (0..60).flat_map(|n| page(n * 3)).collect();
    let error = sender.pages(1, 0, &memory).and_then(|()| sender.sync()).unwrap_err();
    assert!(matches!(error, StreamError::Io { .. }), "{error}");
    assert!(receiver.join().unwrap().is_err());
}
