//! Two migrations of one workload at once.

use crate::e2e::STRATEGIES;
use crate::hold::{Standing, assert_unharmed, bed};

/// Wherever the second is to go, and however far the first is: it is refused, and the first goes on.
pub fn the_second_is_refused_and_the_first_goes_on() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let to = standing.to;
        for second in [to, "edge3"] {
            let asked = bed.call(&["migrate", "video", second]);
            asked.fails(2).says("video cannot be moved now").says("in flight");
        }
        let record = standing.go_on();
        assert_eq!(record["outcome"], "done", "{strategy}: {record:#}");
        assert_unharmed(&bed, to);
    }
}

/// Asked for by two at the same moment, one of them moves.
pub fn of_two_asked_for_at_once_one_moves() {
    let bed = bed();
    for _ in 0..3 {
        let to = if bed.node_of("video") == "edge1" { "edge2" } else { "edge1" };
        let both = [bed.ask_to_migrate("video", to), bed.ask_to_migrate("video", to)];
        let ends = both.map(|asked| asked.end());
        let done = ends.iter().filter(|end| end["record"]["outcome"] == "done").count();
        assert_eq!(done, 1, "{ends:#?}");
        bed.assert_runs_only_on("video", to);
        assert_eq!(bed.until_it_answers(), 0, "the client's connection broke");
    }
}
