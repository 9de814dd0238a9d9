use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use godwit_transport::{Options, PAGE, PageSink, Pager, Receiver, Requests, Sender, StreamError};

use crate::proxy::{Fate, fated};
use crate::sides::{dialling, listener, page, pages, plain, quick};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Came {
    Pushed(u64),
    Answer(u64, Vec<u8>),
    Zero(u64),
    Missing(u64),
}

struct Told(mpsc::Sender<Came>);
impl Told {
    fn tell(&self, came: Came) -> Result<(), StreamError> {
        // The test may have seen enough.
        let _ = self.0.send(came);
        Ok(())
    }
}
impl PageSink for Told {
    fn pages(&mut self, _: i32, addr: u64, _: &[u8]) -> Result<(), StreamError> {
        self.tell(Came::Pushed(addr))
    }
    fn zero(&mut self, _: i32, addr: u64, _: u64) -> Result<(), StreamError> {
        self.tell(Came::Pushed(addr))
    }
    fn forget(&mut self, _: i32, _: u64, _: u64) -> Result<(), StreamError> {
        Ok(())
    }
    fn answer(&mut self, _: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        self.tell(Came::Answer(addr, pages.to_vec()))
    }
    fn answer_zero(&mut self, _: i32, addr: u64, _: u64) -> Result<(), StreamError> {
        self.tell(Came::Zero(addr))
    }
    fn answer_missing(&mut self, _: i32, addr: u64, _: u64) -> Result<(), StreamError> {
        self.tell(Came::Missing(addr))
    }
}

type Received = thread::JoinHandle<Result<godwit_model::Bytes, StreamError>>;

fn sides(options: Options, fates: Vec<Fate>) -> (Sender, Pager, mpsc::Receiver<Came>, Received) {
    let (listener, address) = listener();
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::listen(listener, plain(), quick(), dir.path());
    let pager = receiver.pager();
    let (tell, told) = mpsc::channel();
    let receiving = thread::spawn(move || receiver.run(&mut Told(tell)));
    let proxy = fated(address, fates, Fate::Lives);
    (Sender::open(dialling(proxy), plain(), options).unwrap(), pager, told, receiving)
}

/// Answers with what stands at an address, until the session is over.
fn answering(requests: Requests) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while let Ok(Some(want)) = requests.next(LONG) {
            let answered = match want.addr / PAGE % 3 {
                0 => requests.answer_zero(&want),
                1 => requests.answer(&want, &pages((0..u64::from(want.len) / PAGE).map(|n| want.addr + n))),
                _ => requests.answer_missing(&want),
            };
            if answered.is_err() {
                return;
            }
        }
    })
}

#[test]
fn an_answer_overtakes_the_push() {
    // It would take a quarter of an hour to push it all.
    let options = Options { cap: Some(1 << 20), compression: godwit_transport::Compression::Off, ..quick() };
    let (mut sender, pager, told, receiving) = sides(options, vec![]);
    let answers = answering(sender.requests().unwrap());
    let canceller = sender.canceller();
    let pushing = thread::spawn(move || {
        (0..).step_by(1 << 20).try_for_each(|addr| sender.pages(1, addr, &pages((0..256).map(|n| addr + n * 3))))
    });
    assert_eq!(told.recv_timeout(LONG).unwrap(), Came::Pushed(0), "it is being pushed");
    pager.want(7, PAGE, 2 * 4096).unwrap();
    let came = loop {
        match told.recv_timeout(LONG).unwrap() {
            Came::Pushed(_) => {}
            came => break came,
        }
    };
    assert_eq!(came, Came::Answer(PAGE, pages([PAGE, PAGE + 1])));
    canceller.cancel("seen");
    assert!(matches!(pushing.join().unwrap().unwrap_err(), StreamError::Cancelled(_)));
    assert!(receiving.join().unwrap().is_err());
    answers.join().unwrap();
}

#[test]
fn every_request_is_answered_once_however_often_the_link_breaks() {
    let fates = (0..6).map(|n| Fate::CutAfter(1_000 + n * 7_000)).collect();
    let (mut sender, pager, told, receiving) = sides(quick(), fates);
    let answers = answering(sender.requests().unwrap());
    let asking = thread::spawn(move || {
        (0..300u64).for_each(|n| pager.want(1, n * PAGE, 4096).unwrap());
        pager
    });
    let mut came = Vec::new();
    while came.len() < 300 {
        came.push(told.recv_timeout(LONG).unwrap());
    }
    let expected = (0..300u64).map(|n| match n % 3 {
        0 => Came::Zero(n * PAGE),
        1 => Came::Answer(n * PAGE, page(n * PAGE)),
        _ => Came::Missing(n * PAGE),
    });
    assert!(came.into_iter().eq(expected), "other answers than were asked for");
    assert_eq!(asking.join().unwrap().open(), 0);
    sender.sync().unwrap();
    let progress = sender.progress();
    assert!(progress.resumed() >= 1);
    assert_eq!(progress.answered(), 300);
    sender.finish().unwrap();
    receiving.join().unwrap().unwrap();
    answers.join().unwrap();
}

#[test]
fn what_cannot_be_asked_for_is_refused_at_once() {
    let (sender, pager, _told, receiving) = sides(quick(), vec![]);
    for (addr, len) in [(1, 4096), (0, 5), (0, 0), (0, 1 << 20), (u64::MAX - 4095, 4096)] {
        assert!(pager.want(1, addr, len).is_err(), "{len} bytes at {addr:#x}");
    }
    let most = (16 << 20) / (256 << 10);
    (0..most).for_each(|n| pager.want(1, n * (1 << 20), 256 << 10).unwrap());
    assert!(matches!(pager.want(1, 0, 4096).unwrap_err(), StreamError::Refused(_)));
    drop(sender);
    assert!(receiving.join().unwrap().is_err());
}
