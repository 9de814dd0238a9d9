//! A workload that writes files all the time and knows which, and a client of it.

use super::bed::Bed;
use super::image::{directory, scenario};
use super::service::Client;

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
pub fn check(client: &mut Client) -> u64 {
    let said = client.say("check()");
    said.strip_prefix("ok ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

/// How often its child has written.
pub fn child(client: &mut Client) -> u64 {
    client.say("get('/srv/data/child')").parse().unwrap()
}

/// What a node has of the workload's files, where it is not.
#[track_caller]
pub fn assert_nothing_on(bed: &Bed, node: &str) {
    let dirs = ["upper", "volumes/0"].map(|dir| format!("/var/lib/godwit/state/bundles/app/{dir}"));
    let left = bed.node(node).run(["find", &dirs[0], &dirs[1], "-mindepth", "1"]).code(0).out;
    assert_eq!(left, "", "on {node}");
}

/// A testbed where it runs on `a` of two nodes, `a` and `b`, and does `more` (Perl) at its start.
pub fn writer(more: &str) -> (Bed, Client) {
    let bed = Bed::none();
    let image = directory(&bed);
    let file = bed.file("scenario.yaml", &scenario(&image, "volumes: [/srv/data],", &format!("{WRITER}\n{more}")));
    bed.call_up(&[file.to_str().unwrap()]).code(0);
    let client = Client::connect(&bed);
    (bed, client)
}
