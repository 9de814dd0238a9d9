use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use godwit_transport::{Authority, Channel, Credentials, Options, Peer, Receiver, Sender, StreamError};

use crate::sides::{check_everything, dialling, listener, plain, quick, receiving};

fn of(own: Credentials, name: &str) -> Peer {
    Peer::Node { own: Arc::new(own), name: name.into() }
}

/// What both sides say of each other.
fn errors(sender: Peer, receiver: Peer) -> (String, String) {
    let (listener, address) = listener();
    let options = Options { connect: Duration::from_millis(500), ..quick() };
    let receiving = receiving(|dir| Receiver::listen(listener, receiver, options.clone(), dir));
    let sent = Sender::open(dialling(address), sender, options).unwrap_err();
    (godwit_model::chain(&sent), godwit_model::chain(&receiving.join().unwrap().unwrap_err()))
}

#[test]
fn a_sender_that_another_authority_vouches_for_is_refused() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    // It knows whom it calls, but shows a certificate of its own authority.
    let a = theirs.issue("a").unwrap();
    let (sender, receiver) = errors(of(a, "b"), of(ours.issue("b").unwrap(), "a"));
    assert!(sender.contains("b is not b by this authority's word"), "{sender}");
    assert!(receiver.contains("a does not accept this node's certificate"), "{receiver}");
}

#[test]
fn a_node_cannot_pass_for_another_one() {
    let authority = Authority::new().unwrap();
    let node = |name| authority.issue(name).unwrap();
    let (sender, receiver) = errors(of(node("c"), "b"), of(node("b"), "a"));
    assert!(sender.contains("a is expected here, and the certificate shown is another node's"), "{sender}");
    assert!(receiver.contains("a is expected here"), "{receiver}");
    let (sender, receiver) = errors(of(node("a"), "b"), of(node("c"), "a"));
    assert!(sender.contains("who answers for b is not b"), "{sender}");
    assert!(receiver.contains("does not accept this node's certificate"), "{receiver}");
}

#[test]
fn who_is_out_of_date_is_refused() {
    let authority = Authority::new().unwrap();
    let old = authority.issue_until("a", SystemTime::now() - Duration::from_secs(3600));
    let error = old.unwrap_err().to_string();
    assert!(error.contains("does not vouch for it") && error.contains("xpired"), "{error}");
}

#[test]
fn neither_side_falls_back_to_the_clear() {
    let authority = Authority::new().unwrap();
    let (sender, receiver) = errors(plain(), of(authority.issue("b").unwrap(), "a"));
    assert!(!sender.is_empty());
    assert!(receiver.contains("a does not speak TLS"), "{receiver}");
    let (sender, _) = errors(of(authority.issue("a").unwrap(), "b"), plain());
    assert!(sender.contains("secure") || sender.contains("does not speak TLS"), "{sender}");
}

#[test]
fn strangers_do_not_keep_the_sender_away() {
    let authority = Authority::new().unwrap();
    let (listener, address) = listener();
    let peer = of(authority.issue("b").unwrap(), "a");
    let receiver = receiving(|dir| Receiver::listen(listener, peer, quick(), dir));
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stranger.read_to_end(&mut Vec::new()).ok();
    let other = Sender::open(dialling(address), of(authority.issue("c").unwrap(), "b"), quick());
    assert!(matches!(other.unwrap_err(), StreamError::Refused(_)));
    let sender = Sender::open(dialling(address), of(authority.issue("a").unwrap(), "b"), quick()).unwrap();
    check_everything(sender, receiver);
}

#[test]
fn a_channel_is_between_two_nodes_and_no_others() {
    const LONG: Duration = Duration::from_secs(20);
    let authority = Authority::new().unwrap();
    let node = |name| authority.issue(name).unwrap();
    let between = |own: Credentials, called: &str| {
        let (listener, address) = listener();
        let peer = of(node("b"), "a");
        let answering = thread::spawn(move || {
            let channel = Channel::called(listener.accept().unwrap().0, &peer, LONG)?;
            channel.write_all(b"hello").map(|()| channel).map_err(|e| StreamError::Refused(e.to_string()))
        });
        let caller = Channel::calling(TcpStream::connect(address).unwrap(), &of(own, called), LONG);
        (caller, answering.join().unwrap())
    };
    let (caller, answerer) = between(node("a"), "b");
    let (caller, answerer) = (caller.unwrap(), answerer.unwrap());
    let mut said = [0; 5];
    (&caller).read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    caller.write_all(b"and back").unwrap();
    answerer.shut_down();
    assert_eq!(caller.read(&mut said).unwrap_or(0), 0);

    let (caller, answerer) = between(node("c"), "b");
    assert!(answerer.unwrap_err().to_string().contains("a is expected here"));
    assert_eq!(caller.unwrap().read(&mut said).unwrap_or(0), 0, "it hears nothing");
    let (caller, _) = between(node("a"), "d");
    assert!(matches!(caller.unwrap_err(), StreamError::Refused(_)));
    let (caller, _) = between(Authority::new().unwrap().issue("a").unwrap(), "b");
    assert!(caller.is_err());
}

#[test]
fn nothing_of_the_contents_is_readable_on_the_wire() {
    let authority = Authority::new().unwrap();
    let (listener, address) = listener();
    let (proxy, recorded) = crate::proxy::recording(address);
    let peer = of(authority.issue("b").unwrap(), "a");
    let receiver = receiving(|dir| Receiver::listen(listener, peer, quick(), dir));
    let sender = Sender::open(dialling(proxy), of(authority.issue("a").unwrap(), "b"), quick()).unwrap();
    check_everything(sender, receiver);
    let recorded = recorded.lock().unwrap();
    assert!(recorded.len() > 1 << 20);
    for secret in [&b"some bytes of an image"[..], b"GWMIG", b"core-1.img"] {
        assert!(!recorded.windows(secret.len()).any(|bytes| bytes == secret));
    }
}
