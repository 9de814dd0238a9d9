//! What a workload has written moves with it.

use crate::e2e::image::{directory, scenario};
use crate::e2e::service::Client;
use crate::e2e::{Bed, STRATEGIES, until};

/// Writes all the time, into its root file system and into a volume, and says whether all of it is there: a log that grows, a
/// file that is replaced, one that is made and deleted, files of the image that are deleted and changed, a directory of the
/// image that is put in place of itself, a deleted file that is open, links. A child writes, too.
const WRITER: &str = r#"use Fcntl ':seek'; use IO::Handle; our $n = 0;
sub put { my ($f, $t) = @_; open my $h, '>', $f or die "$f: $!"; print $h $t; close $h or die "$f: $!" }
sub get { my ($f) = @_; open my $h, '<', $f or return "no $f"; local $/; my $t = <$h>; $t }
mkdir '/var/mine' or die; unlink '/etc/motd' or die; rmdir '/var/old' or die; mkdir '/var/old' or die; put('/var/old/x', 'mine');
open my $p, '>>', '/etc/passwd' or die; print $p "mine\n"; close $p;
symlink 'now', "$_/sym" and link '/var/old/x', '/var/mine/hard' or die for '/var/mine'; chmod 0604, '/var/old/x';
open our $log, '+>', '/srv/data/log' or die; $log->autoflush; open our $root, '+>', '/var/mine/log' or die; $root->autoflush;
open our $gone, '+>', '/srv/data/gone' or die; $gone->autoflush; print $gone 'still open'; unlink '/srv/data/gone' or die;
if (!fork) { my $c = 0; while (getppid > 0) { put('/srv/data/.child', ++$c); rename '/srv/data/.child', '/srv/data/child'; sleep1() } }
sub sleep1 { select undef, undef, undef, 0.002 }
sub step { sleep1(); $n++; print $log "$n\n"; print $root "$n\n";
  for my $d ('/srv/data', '/var/mine') {
    put("$d/now.new", $n); rename "$d/now.new", "$d/now" or die; put("$d/n$n", $n); unlink "$d/n".($n - 1) } }
sub check { my @bad; my $is = sub { my ($what, $is, $should) = @_; push @bad, "$what: $is, not $should" if $is ne $should };
  my $all = join '', map { "$_\n" } 1..$n;
  for my $d ('/srv/data', '/var/mine') {
    my $log = get("$d/log"); $is->("$d/log", length $log, length $all); $is->("$d/log", $log eq $all, 1);
    $is->("$d/now", get("$d/now"), $n); $is->("$d/n$n", get("$d/n$n"), $n);
    opendir my $h, $d; $is->("numbered in $d", scalar(grep { /^n\d/ } readdir $h), 1) }
  $is->('motd', -e '/etc/motd' ? 'there' : 'gone', 'gone'); $is->('old', get('/var/old/x'), 'mine');
  $is->('passwd', get('/etc/passwd') =~ /^root.*\nmine\n$/s, 1); $is->('begin', get('/srv/data/begin'), "of the image\n");
  $is->('links', join(' ', (stat '/var/mine/hard')[1, 2, 3]), join ' ', (stat '/var/old/x')[1, 2, 3]);
  $is->('mode', (stat '/var/old/x')[2] & 07777, 0604); $is->('sym', readlink '/var/mine/sym', 'now');
  for my $f ([$log, $all], [$root, $all], [$gone, 'still open']) {
    seek $f->[0], 0, SEEK_SET; local $/; my $t = readline $f->[0]; $is->('open', $t, $f->[1]); seek $f->[0], 0, SEEK_END }
  @bad ? join '; ', @bad : "ok $n" }"#;

/// How often it has written; all of it is there.
#[track_caller]
fn check(client: &mut Client) -> u64 {
    let said = client.say("check()");
    said.strip_prefix("ok ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

fn child(client: &mut Client) -> u64 {
    client.say("get('/srv/data/child')").parse().unwrap()
}

/// What a node has of the workload's files, where it is not.
#[track_caller]
fn assert_nothing_on(bed: &Bed, node: &str) {
    let dirs = ["upper", "volumes/0"].map(|dir| format!("/var/lib/godwit/state/bundles/app/{dir}"));
    let left = bed.node(node).run(["find", &dirs[0], &dirs[1], "-mindepth", "1"]).code(0).out;
    assert_eq!(left, "", "on {node}");
}

fn writer(more: &str) -> (Bed, Client) {
    let bed = Bed::none();
    let image = directory(&bed);
    let file = bed.file("scenario.yaml", &scenario(&image, "volumes: [/srv/data],", &format!("{WRITER}\n{more}")));
    bed.call_up(&[file.to_str().unwrap()]).code(0);
    let client = Client::connect(&bed);
    (bed, client)
}

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
