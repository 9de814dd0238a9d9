use godwit_transport::{Receiver, Sender, StreamError};

use crate::proxy::{Fate, fated};
use crate::sides::{dialling, listener, page, plain, quick, receiving};

#[test]
fn a_sender_that_is_dropped_ends_the_receiver_at_once() {
    let (listener, address) = listener();
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), quick(), dir));
    let mut sender = Sender::open(dialling(address), plain(), quick()).unwrap();
    sender.pages(1, 0, &page(1)).unwrap();
    drop(sender);
    let error = receiver.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("by the sender: the sender gave up"), "{error}");
}

#[test]
fn a_cancelled_sender_stops_wherever_it_waits() {
    let (listener, address) = listener();
    // The confirmation never comes.
    let proxy = fated(address, vec![Fate::SilentAfter(2_000)], Fate::Refused);
    let receiver = Receiver::listen(listener, plain(), quick(), tempfile::tempdir().unwrap().path());
    let ender = receiver.ender();
    let receiving = std::thread::spawn(move || receiver.run(&mut godwit_transport::NoPages));
    let mut sender = Sender::open(dialling(proxy), plain(), quick()).unwrap();
    let canceller = sender.canceller();
    let waiting = std::thread::spawn(move || sender.pages(1, 0, &page(3)).and_then(|()| sender.sync()));
    canceller.cancel("enough");
    assert!(matches!(waiting.join().unwrap().unwrap_err(), StreamError::Cancelled(why) if why == "enough"));
    ender.end("enough here, too");
    assert!(matches!(receiving.join().unwrap().unwrap_err(), StreamError::Cancelled(_)));
}

#[test]
fn a_receiver_that_is_ended_tells_the_sender() {
    let (listener, address) = listener();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::listen(listener, plain(), quick(), dir.path());
    let ender = receiver.ender();
    let receiving = std::thread::spawn(move || receiver.run(&mut godwit_transport::NoPages));
    let mut sender = Sender::open(dialling(address), plain(), quick()).unwrap();
    ender.end("the target is gone");
    let error = loop {
        if let Err(error) = sender.zero(1, 0, 4096).and_then(|()| sender.sync()) {
            break error.to_string();
        }
    };
    assert!(error.contains("the target is gone") || error.contains("only files"), "{error}");
    assert!(matches!(receiving.join().unwrap().unwrap_err(), StreamError::Cancelled(_)));
}

#[test]
fn a_receiver_can_be_ended_before_anybody_calls() {
    let (listener, _) = listener();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::listen(listener, plain(), quick(), dir.path());
    let ender = receiver.ender();
    let receiving = std::thread::spawn(move || receiver.run(&mut godwit_transport::NoPages));
    ender.end("nobody comes");
    assert!(matches!(receiving.join().unwrap().unwrap_err(), StreamError::Cancelled(why) if why == "nobody comes"));
}
