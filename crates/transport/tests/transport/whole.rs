use std::sync::Arc;

use godwit_transport::{Authority, Compression, NoPages, Options, Peer, Receiver, Sender};

use crate::sides::{check_everything, dialling, listener, page, pages, plain, quick, receiving};

fn peers() -> (Peer, Peer) {
    let authority = Authority::new().unwrap();
    let [a, b] = ["node-a", "node-b"].map(|node| Arc::new(authority.issue(node).unwrap()));
    (Peer::Node { own: a, name: "node-b".into() }, Peer::Node { own: b, name: "node-a".into() })
}

#[test]
fn files_and_memory_arrive_whole_in_every_way_that_they_can_go() {
    for compression in [Compression::Auto, Compression::Off, Compression::Lz4, Compression::Zstd] {
        for (duplicates, cap) in [(false, None), (true, None), (true, Some(100 << 20))] {
            let options = Options { compression, duplicates, cap, ..quick() };
            for (own, other) in [(plain(), plain()), peers()] {
                let (listener, address) = listener();
                let receiver = receiving(|dir| Receiver::listen(listener, other, quick(), dir));
                let sender = Sender::open(dialling(address), own, options.clone()).unwrap();
                assert_eq!(sender.version(), 2);
                check_everything(sender, receiver);
            }
        }
    }
}

#[test]
fn counters_tell_contents_from_what_went_over_the_wire() {
    let (listener, address) = listener();
    let receiver = receiving(|dir| Receiver::listen(listener, plain(), quick(), dir));
    let options = Options { compression: Compression::Zstd, ..quick() };
    let mut sender = Sender::open(dialling(address), plain(), options).unwrap();
    let progress = sender.progress();
    let same = pages([1; 200]);
    sender.pages(1, 0x1000, &same).unwrap();
    sender.zero(1, 0x100_0000, 0x8000).unwrap();
    sender.sync().unwrap();
    assert_eq!(progress.contents().0, same.len() as u64);
    assert_eq!(progress.duplicate().0, same.len() as u64 - 4096);
    assert_eq!(progress.zero().0, 0x8000);
    let wire = progress.wire_sent().0;
    assert!((1..20_000).contains(&wire), "{wire} bytes for one page that is 200 times the same");
    assert!(progress.wire_received().0 > 0);
    sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
}

#[test]
fn pages_are_refused_where_only_files_are_expected_and_the_sender_is_told() {
    let (listener, address) = listener();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::listen(listener, plain(), quick(), dir.path());
    let receiver = std::thread::spawn(move || receiver.run(&mut NoPages));
    let mut sender = Sender::open(dialling(address), plain(), quick()).unwrap();
    let error = sender.pages(1, 0x1000, &page(1)).and_then(|()| sender.sync()).unwrap_err().to_string();
    assert!(error.contains("only files"), "{error}");
    let error = receiver.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("only files"), "{error}");
}
