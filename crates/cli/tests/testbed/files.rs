//! What a workload has written moves with it.

use crate::e2e::service::Client;
use crate::e2e::writer::{assert_nothing_on, check, child, writer};
use crate::e2e::{STRATEGIES, until};

pub fn what_it_writes_moves_with_it_there_and_back() {
    let (bed, mut client) = writer("");
    let mut before = (check(&mut client), child(&mut client));
    for strategy in STRATEGIES {
        for (from, to) in [("a", "b"), ("b", "a")] {
            bed.migrate_by(strategy, "app", to);
            let after = (check(&mut client), child(&mut client));
            assert!(
                after.0 > before.0 && after.1 >= before.1,
                "{before:?}, then {after:?}: another one, or an older one"
            );
            until("the child writes on", || (child(&mut client) > after.1).then_some(()));
            bed.assert_runs_only_on("app", to);
            assert_nothing_on(&bed, from);
            before = after;
        }
    }
}

pub fn a_move_that_is_rolled_back_in_its_freeze_loses_nothing() {
    let ghost = r#"open our $big, '+>', '/var/big' or die; unlink '/var/big'; truncate $big, 200 << 20; print $big 'x' x (100 << 20);
        $big->flush;"#;
    let (bed, mut client) = writer(ghost);
    for strategy in STRATEGIES {
        let record = bed.call(&["migrate", "app", "b", "--json", "--strategy", strategy]).code(1).json();
        assert!(record["error"].as_str().unwrap().contains("dump"), "{record:#}");
        check(&mut client);
        bed.assert_runs_only_on("app", "a");
        assert_nothing_on(&bed, "b");
    }
    client.say("close $big");
    bed.migrate("app", "b");
    check(&mut client);
}

pub fn a_checkpoint_has_all_of_it() {
    let (bed, mut client) = writer("");
    let file = bed.path("app.ckpt");
    let file = file.to_str().unwrap();
    bed.call(&["checkpoint", "app", file]).code(0);
    let at = check(&mut client);
    bed.call(&["restore", file, "--node", "b", "--as", "copy"]).code(0);
    let mut copy = Client::connect_to(&bed, "copy", 0);
    check(&mut copy);
    // Its files are its own.
    assert!(check(&mut client) > at);
    bed.call(&["checkpoint", "app", file, "--force", "--stop"]).code(0);
    bed.call(&["restore", file, "--node", "b"]).code(0);
    assert!(check(&mut client) > at, "the connection goes on, and so do the files");
    check(&mut copy);
    bed.migrate("app", "a");
    check(&mut client);
}

pub fn a_target_without_room_for_its_files_is_told_and_takes_them_later() {
    let (bed, mut client) = writer("put('/srv/data/large', 'x' x (32 << 20));");
    let node = bed.node("b");
    let room = |size: &str| node.sh(&format!("mount -o remount,size={size} /var/lib/godwit/state"));
    for strategy in STRATEGIES {
        room("16m");
        let record = bed.call(&["migrate", "app", "b", "--json", "--strategy", strategy]).code(1).json();
        assert_eq!(record["outcome"], "rolled-back", "{record:#}");
        assert_eq!(record["freeze_ms"], 0.0, "found before anything stood still: {record:#}");
        assert!(record["error"].as_str().unwrap().contains("/large"), "it says which file: {record:#}");
        check(&mut client);
        bed.assert_runs_only_on("app", "a");
        assert_nothing_on(&bed, "b");
    }
    room("50%");
    bed.migrate("app", "b");
    check(&mut client);
}
