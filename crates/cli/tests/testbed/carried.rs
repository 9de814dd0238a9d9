//! What CRIU can carry and what not: then the service runs on where it is, and its connections live.

use serde_json::Value;

use crate::e2e::service::{Client, echo};
use crate::e2e::{Bed, STRATEGIES};

/// `app` with what `first` does cannot move: said so with these words, after a freeze or before any.
fn stays(first: &str, says: &[&str], froze: bool) {
    let bed = Bed::of(&echo(first));
    let mut client = Client::connect(&bed);
    client.ask();
    for strategy in STRATEGIES {
        let ran = bed.call(&["migrate", "app", "b", "--json", "--strategy", strategy]).code(1);
        let record: Value = ran.json();
        assert_eq!(record["outcome"], "rolled-back", "{record:#}");
        assert_eq!(record["freeze_ms"].as_f64().unwrap() > 0.0, froze, "{record:#}");
        for part in says {
            assert!(record["error"].as_str().unwrap().contains(part), "{part}: {record:#}");
        }
        client.ask();
        bed.assert_runs_only_on("app", "a");
    }
    let text = bed.call(&["migrate", "app", "b"]).code(1);
    text.prints("app could not move to b and runs on at a").prints(says[0]);
    client.ask();
    Client::connect(&bed);
    for name in ["a", "b"] {
        assert_eq!(bed.node(name).images(), "", "on {name}");
    }
}

pub fn what_criu_is_known_not_to_carry_is_refused_before_the_freeze() {
    // The first that this kernel has: an io_uring (425 everywhere), a vsock, a kernel crypto socket.
    let first = r#"my $p = "\0" x 120; our $ring = syscall(425, 8, $p);
        $ring >= 0 or socket(our $v, 40, 1, 0) or socket(our $c, 38, 5, 0) or die "nothing that cannot move";"#;
    stays(first, &["preflight: CRIU cannot carry app: process ", "(perl) has a", "which CRIU cannot dump"], false);
}

pub fn a_deleted_file_too_big_to_carry_rolls_back() {
    let ghost = r#"open our $g, "+>", "/ghost" or die "$!"; unlink "/ghost"; truncate $g, 200 << 20; seek $g, 0, 0;
        print $g "x" x (100 << 20); $g->flush;"#;
    stays(ghost, &["dump: dump it", "ghost"], true);
}

pub fn ordinary_state_is_carried() {
    // A raw socket (ICMP), a child, a pipe between them, a small deleted file, a file in a tmpfs, a timer and its handler.
    let state = r#"socket(our $raw, 2, 3, 1) or die "raw: $!"; $SIG{USR1} = sub { }; $SIG{ALRM} = sub { alarm 3600 }; alarm 3600;
        open our $g, "+>", "/tmp/ghost" or die "$!"; print $g "kept"; $g->flush; unlink "/tmp/ghost";
        open our $k, ">", "/tmp/kept" or die "$!"; print $k "kept"; $k->flush;
        pipe(our $r, our $w); our $child = fork; if (!$child) { close $w; my $x = <$r>; sleep 3600; exit }"#;
    let bed = Bed::of(&echo(state));
    let mut client = Client::connect(&bed);
    client.ask();
    for (to, strategy) in ["b", "a"].into_iter().zip(STRATEGIES) {
        bed.migrate_by(strategy, "app", to);
        client.ask();
        bed.assert_runs_only_on("app", to);
        let node = bed.node(to);
        assert_eq!(node.copy_of("app").len(), 2);
        assert_eq!(node.run(["runc", "exec", "app", "cat", "/tmp/kept"]).code(0).out, "kept");
    }
}
