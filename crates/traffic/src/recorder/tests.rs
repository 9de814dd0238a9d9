use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const PAYLOAD: usize = 16;
const ANSWER: u64 = (ANSWER_HEADER + PAYLOAD) as u64;

/// A service without a network: answers to sequence numbers.
struct Service {
    standing: Standing,
}

impl Service {
    fn new(run: u64) -> Self {
        Self {
            standing: Standing {
                nth: 0,
                total: 0,
                run,
                memory: Verdict { pages: 4, checked: 0, bad: 0 },
                work: crate::Work::default(),
            },
        }
    }

    fn answer(&mut self, seq: u64) -> Vec<u8> {
        self.standing.nth += 1;
        self.standing.total += 1;
        let (mut asked, mut told) = (Vec::new(), Vec::new());
        wire::put_request(&mut asked, seq, 0, PAYLOAD);
        wire::put_answer(&mut told, &wire::request(&asked).unwrap().unwrap().0, &self.standing);
        told
    }
}

fn recorder() -> Recorder {
    let mut recorder = Recorder::new(PAYLOAD, 15 * MS);
    recorder.opened();
    recorder
}

fn hand_in(recorder: &mut Recorder, at: Instant, bytes: &[u8]) {
    recorder.answer(at, &wire::answer(bytes).unwrap().unwrap().0);
}

#[test]
fn an_ordinary_run_is_clean() {
    let (mut r, mut service, t0) = (recorder(), Service::new(1), Instant::now());
    for n in 0..10 {
        let seq = r.sent(t0 + 5 * n * MS);
        hand_in(&mut r, t0 + (5 * n + 2) * MS, &service.answer(seq));
    }
    let live = r.snapshot(t0 + 50 * MS);
    assert_eq!((live.sent, live.received, live.per_second, live.silence), (10, 10, 10, 3 * MS));
    let report = r.finish(t0 + 500 * MS);
    assert!(report.is_clean());
    assert_eq!((report.response_median, report.response_max), (Some(2 * MS), Some(2 * MS)));
    assert_eq!(report.worst_gap.unwrap().len(), 5 * MS, "nothing was asked at the end");
    assert!(report.gaps.is_empty());
}

#[test]
fn a_break_loses_what_waits_and_the_gap_goes_on_to_the_next_answer() {
    let (mut r, mut service, t0) = (recorder(), Service::new(1), Instant::now());
    let first = r.sent(t0);
    hand_in(&mut r, t0 + MS, &service.answer(first));
    r.sent(t0 + 5 * MS);
    r.sent(t0 + 10 * MS);
    r.broke(t0 + 12 * MS, BreakCause::Reset);
    r.opened();
    service.standing.nth = 0;
    let seq = r.sent(t0 + 80 * MS);
    hand_in(&mut r, t0 + 91 * MS, &service.answer(seq));
    let gap = r.worst_gap_between(t0 + 20 * MS, t0 + 30 * MS, t0 + 91 * MS).unwrap();
    assert_eq!((gap.start, gap.end), (t0 + MS, t0 + 91 * MS));
    let report = r.finish(t0 + 91 * MS);
    assert_eq!((report.connections, report.broken, report.unanswered), (2, 1, 2));
    assert_eq!(report.breaks, [Break { at: t0 + 12 * MS, cause: BreakCause::Reset }]);
    assert_eq!(report.bytes_lost(), 2 * ANSWER);
    assert_eq!((report.restarts, report.rewinds), (0, 0));
    assert_eq!(report.gaps.len(), 1);
    let summary = report.summary("car".parse().unwrap(), "video".parse().unwrap());
    assert!(!summary.is_clean() && (summary.worst_gap_ms - 90.0).abs() < 1e-9);
}

#[test]
fn a_service_that_forgot_or_was_started_anew_is_found() {
    let (mut r, mut service, t0) = (recorder(), Service::new(1), Instant::now());
    for _ in 0..3 {
        let seq = r.sent(t0);
        hand_in(&mut r, t0, &service.answer(seq));
    }
    service.standing.nth = 1;
    service.standing.total = 1;
    let seq = r.sent(t0);
    hand_in(&mut r, t0, &service.answer(seq));
    assert_eq!(r.report.rewinds, 1);
    let seq = r.sent(t0);
    hand_in(&mut r, t0, &service.answer(seq));
    r.broke(t0, BreakCause::Closed);
    r.opened();
    let seq = r.sent(t0);
    hand_in(&mut r, t0, &Service::new(2).answer(seq));
    let report = r.finish(t0);
    assert_eq!((report.rewinds, report.restarts), (1, 1));
}

#[test]
fn bad_pages_add_up_over_runs_of_the_service() {
    let (mut r, t0) = (recorder(), Instant::now());
    for (run, bads) in [(1, [0, 2, 2]), (2, [1, 1, 4])] {
        let mut service = Service::new(run);
        for bad in bads {
            service.standing.memory.bad = bad;
            let seq = r.sent(t0);
            hand_in(&mut r, t0, &service.answer(seq));
        }
    }
    let report = r.finish(t0);
    assert_eq!((report.memory_bad, report.memory.bad), (6, 4));
    assert!(!report.is_clean());
}

#[test]
fn silence_at_the_end_counts_when_something_was_asked() {
    let (mut r, t0) = (recorder(), Instant::now());
    r.sent(t0);
    let report = r.finish(t0 + 30 * MS);
    assert_eq!(report.worst_gap.map(|g| (g.len(), g.is_open)), Some((30 * MS, true)));
    assert_eq!(report.bytes_lost(), ANSWER);
}

#[test]
fn an_altered_answer_is_counted_by_its_wrong_bytes() {
    let (mut r, mut service, t0) = (recorder(), Service::new(1), Instant::now());
    let seq = r.sent(t0);
    let mut bytes = service.answer(seq);
    bytes[ANSWER_HEADER + 3] ^= 1;
    bytes[ANSWER_HEADER + 9] ^= 1;
    hand_in(&mut r, t0, &bytes);
    let seq = r.sent(t0);
    let mut bytes = service.answer(seq);
    bytes[64] ^= 1; // the header: its checksum tells
    hand_in(&mut r, t0, &bytes);
    let report = r.finish(t0);
    assert_eq!((report.bytes_wrong, report.bytes_missing, report.memory_bad), (3, 0, 0));
}

/// What a hostile path may do to the answers.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Comes,
    Vanishes,
    ComesTwice,
    ComesAfter,
}

proptest! {
    #[test]
    fn whatever_happens_to_the_answers_is_counted_exactly(
        fates in proptest::collection::vec(
            prop_oneof![
                6 => Just(Fate::Comes), 1 => Just(Fate::Vanishes), 1 => Just(Fate::ComesTwice), 1 => Just(Fate::ComesAfter)
            ], 1..100),
    ) {
        let (mut r, mut service, t0) = (recorder(), Service::new(1), Instant::now());
        let answers: Vec<_> = fates.iter().map(|_| r.sent(t0)).collect::<Vec<_>>().into_iter()
            .map(|seq| service.answer(seq)).collect();
        let mut held: Option<&Vec<u8>> = None;
        let (mut lost, mut twice, mut after) = (0, 0, 0);
        for (fate, answer) in fates.iter().zip(&answers) {
            match fate {
                Fate::Vanishes => lost += 1,
                Fate::ComesAfter if held.is_none() => {
                    held = Some(answer);
                    continue;
                }
                _ => {
                    hand_in(&mut r, t0, answer);
                    if matches!(fate, Fate::ComesTwice) {
                        hand_in(&mut r, t0, answer);
                        twice += 1;
                    }
                    if let Some(earlier) = held.take() {
                        hand_in(&mut r, t0, earlier);
                        after += 1;
                    }
                }
            }
        }
        if held.is_some() {
            lost += 1;
        }
        let report = r.finish(t0);
        prop_assert_eq!((report.unanswered, report.duplicated, report.reordered), (lost, twice, after));
        prop_assert_eq!(report.bytes_lost(), (lost + twice) * ANSWER);
        prop_assert_eq!(report.received, fates.len() as u64 - lost + twice);
        prop_assert_eq!((report.rewinds, report.restarts), (0, 0));
        prop_assert_eq!(report.is_clean(), lost + twice + after == 0);
    }
}
