//! Workloads of several containers.

use crate::e2e::service::Client;
use crate::e2e::{STRATEGIES, godwit, until};
use serde_json::json;

use crate::e2e::pod::{self, Shopper, asking_meanwhile, assert_both_run_on};

pub fn all_move_as_one_under_load_and_their_connections_stay() {
    let bed = pod::up("", "");
    let mut shopper = Shopper::new(&bed);
    shopper.ask();
    for strategy in STRATEGIES {
        for to in ["edge2", "edge1"] {
            asking_meanwhile(&mut shopper, || bed.migrate_by(strategy, "video", to));
            shopper.ask();
            assert_both_run_on(&bed, to);
        }
    }
}

/// Sends numbers as fast as they are taken.
const SENDS: &str = "if (!fork) { my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 6001) or die; \
                     my ($c, $n) = ($l->accept, 0); while (1) { print $c pack('N*', map { $n++ } 1 .. 4096) or exit } }";
/// Takes them, slower than they could come, and notes how far they are what they should be.
const TAKES: &str = "if (!fork) { my ($c, $n, $b) = (undef, 0); \
    sub told { open my $f, '>', '/srv/common/new'; print $f shift; close $f; rename '/srv/common/new', '/srv/common/told' } \
    for (1 .. 500) { last if $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 6001); select undef, undef, undef, 0.02 } \
    while (read $c, $b, 65536) { for (unpack 'N*', $b) { if ($_ != $n++) { told(\"BROKEN: $_ after $n\"); exit } } \
      told($n); select undef, undef, undef, 0.003 } told(\"BROKEN: $!\"); exit }";

pub fn a_stream_between_them_loses_no_byte() {
    let bed = pod::up(TAKES, SENDS);
    let mut shopper = Shopper::new(&bed);
    let told = |at: &str| {
        let said = bed.node(at).sh("cat /var/lib/godwit/state/bundles/video/volumes/0/told 2>/dev/null || echo 0");
        said.trim().parse::<u64>().unwrap_or_else(|_| panic!("{said}"))
    };
    until("numbers are sent", || (told("edge1") > 0).then_some(()));
    for strategy in STRATEGIES {
        for to in ["edge2", "edge1", "edge2", "edge1"] {
            bed.migrate_by(strategy, "video", to);
            let now = told(to);
            until("the stream goes on", || (told(to) > now).then_some(()));
            shopper.ask();
        }
    }
}

/// An open file that has lost its name, and is too large for the images.
const GHOST: &str = "open our $big, '+>', '/var/big' or die; unlink '/var/big'; truncate $big, 200 << 20; \
                     print $big 'x' x (100 << 20); $big->flush;";

pub fn one_that_cannot_be_dumped_rolls_all_back() {
    let bed = pod::up("", GHOST);
    let mut shopper = Shopper::new(&bed);
    for strategy in STRATEGIES {
        let migrate = ["migrate", "video", "edge2", "--json", "--strategy", strategy];
        let record = asking_meanwhile(&mut shopper, || bed.call(&migrate).code(1).json());
        assert_eq!(record["outcome"], "rolled-back", "{record:#}");
        assert!(record["error"].as_str().unwrap().contains("dump"), "{record:#}");
        shopper.ask();
        assert_both_run_on(&bed, "edge1");
    }
}

/// Both containers do something first; the move is refused for it before the freeze.
#[track_caller]
fn is_refused(front: &str, store: &str, why: &str) {
    let bed = pod::up(front, store);
    let mut shopper = Shopper::new(&bed);
    let record = bed.call(&["migrate", "video", "edge2", "--json"]).code(1).json();
    assert!(record["error"].as_str().unwrap().contains(why), "{record:#}");
    assert_eq!(record["freeze_ms"], 0.0, "{record:#}");
    shopper.ask();
    assert_both_run_on(&bed, "edge1");
}

/// Tries until it is true.
fn again(what: &str) -> String {
    format!("for (1 .. 500) {{ last if {what}; select undef, undef, undef, 0.02 }} {what} or die 'given up';")
}

pub fn a_unix_socket_between_them_is_found_before_the_freeze() {
    let connect = again("our $u ||= IO::Socket::UNIX->new(Peer => '/srv/common/sock')");
    let accept = "use IO::Socket::UNIX; our $ul = IO::Socket::UNIX->new(Listen => 1, Local => '/srv/common/sock') or die; \
                  our $ua = $ul->accept or die;";
    is_refused(
        &format!("use IO::Socket::UNIX; {connect}"),
        accept,
        "a unix socket that is connected to container video.",
    );
}

pub fn a_named_pipe_between_them_is_found_before_the_freeze() {
    let open = again("open(our $p, '+<', '/srv/common/pipe')");
    is_refused(
        &open,
        &format!("use POSIX; mkfifo('/srv/common/pipe', 0600) or die; {open}"),
        "a named pipe that container video.",
    );
}

pub fn shared_memory_of_system_v_is_found_before_the_freeze() {
    let made = "defined shmget(0, 4096, 01600) or die;";
    is_refused("", made, "shared memory of System V in the IPC namespace that the containers share");
}

pub fn a_checkpoint_has_all_of_them_and_the_connections_between_them() {
    let bed = pod::up("", "");
    let mut shopper = Shopper::new(&bed);
    let file = bed.path("video.ckpt");
    let file = file.to_str().unwrap();
    let refused = bed.call(&["checkpoint", "video", file, "--format", "oci"]).fails(2);
    refused.says("holds one container, and the workload has several");
    asking_meanwhile(&mut shopper, || bed.call(&["checkpoint", "video", file]).code(0));
    shopper.ask();
    assert_both_run_on(&bed, "edge1");
    let inspected = godwit(["checkpoint", "inspect", file, "--json"]).code(0).json();
    assert_eq!(inspected["containers"], json!(["front", "store"]), "{inspected:#}");
    assert_eq!(inspected["processes"].as_array().unwrap().len(), 2, "{inspected:#}");

    bed.call(&["checkpoint", "video", file, "--force", "--stop"]).code(0);
    bed.call(&["restore", file, "--node", "edge2"]).code(0);
    (0..5).for_each(|_| shopper.ask());
    bed.assert_runs_only_on("video", "edge2");
    bed.migrate("video", "edge1");
    (0..5).for_each(|_| shopper.ask());

    // A copy has all but its connections, those between its containers among them: the store is reached by a new one.
    bed.call(&["restore", file, "--node", "edge2", "--as", "copy"]).code(0);
    let mut copy = Client::connect_to(&bed, "copy", 0);
    let by_a_new_one = until("each third time", || {
        let said = copy.say("hello");
        let fresh = said.split('|').nth(2).unwrap().to_owned();
        (!fresh.is_empty()).then_some(fresh)
    });
    let (counted, state) = by_a_new_one.split_once(' ').expect("a number and a word");
    assert!(counted.parse::<u64>().unwrap() > 1 && state == "ok", "memory as it was: {by_a_new_one}");
    shopper.ask();
}
