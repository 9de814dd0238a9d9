//! `godwit migrate --cancel`.

use crate::e2e::{Bed, Call, STRATEGIES};
use crate::hold::{Standing, assert_unharmed, bed};

pub fn before_its_commit_the_service_runs_on_where_it_was() {
    let bed = bed();
    for strategy in STRATEGIES {
        // Too late where the machine was slow: then it went on to its end, and the next one goes back.
        let rolled_back = (0..5).any(|_| cancel_while_it_stands(&bed, strategy));
        assert!(rolled_back, "five migrations went through before they could be cancelled");
    }
}

/// True when it was in time.
fn cancel_while_it_stands(bed: &Bed, strategy: &str) -> bool {
    let standing = Standing::new(bed, strategy);
    let from = standing.from;
    let mut cancel = Call::new(["migrate", "--cancel", "video", "--name", bed.name()]).start();
    // Its first line says how far the migration was when it was asked for.
    cancel.until_it_says("\n");
    let record = standing.go_on();
    let ran = cancel.end();
    if record["outcome"] == "done" {
        ran.code(1).prints("runs on").says("switch");
        return false;
    }
    assert_eq!((&record["outcome"], &record["error"]), (&"rolled-back".into(), &"cancelled".into()), "{record:#}");
    let could_not = format!("video could not move to {}", record["to"].as_str().unwrap());
    ran.code(0).says("restore").says("rolling back").prints(&could_not).prints("because: cancelled");
    assert_unharmed(bed, from);
    true
}

pub fn what_does_not_move_cannot_be_cancelled() {
    let bed = bed();
    bed.call(&["migrate", "--cancel", "video"]).fails(2).says("video is in no migration; godwit status");
}
