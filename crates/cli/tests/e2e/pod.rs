//! A workload of two containers: a front that clients ask, and a store behind it which only the front reaches, over localhost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::bed::Bed;
use super::service::Client;

/// Counts in its memory what it is asked, checks a block of memory, and adds a line to a file in the volume that both have.
const STORE: &str = r#"use IO::Socket::INET; use IO::Select; use IO::Handle;
FIRST
my $l = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', LocalPort => 6000, ReuseAddr => 1) or die "listen: $!";
open my $log, '>>', '/srv/common/log' or die; $log->autoflush(1);
my ($s, $n, $block) = (IO::Select->new($l), 0, join('', map { chr } 1 .. 250) x 16_000); my $sum = unpack('%32C*', $block);
while (1) { for my $h ($s->can_read) {
  if ($h == $l) { $s->add(scalar $l->accept) }
  elsif (sysread $h, my $line, 4096) { ++$n; print $log "$n\n"; substr($block, ($n * 4096) % 4_000_000, 1) = substr($block, ($n * 4096) % 4_000_000, 1);
    my $ok = $n % 50 || $sum == unpack('%32C*', $block) ? 'ok' : 'BROKEN'; syswrite $h, "$n $ok\n" }
  else { $s->remove($h); close $h } } }"#;

/// Asks the store over a connection that stays, and each third time over a new one as well.
const FRONT: &str = r#"use IO::Socket::INET; use IO::Select; $SIG{PIPE} = 'IGNORE';
FIRST
sub store { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 6000, Timeout => 60) }
my $store; for (1 .. 500) { last if $store = store(); select undef, undef, undef, 0.02 } $store or die "no store: $!";
my $l = IO::Socket::INET->new(Listen => 16, LocalPort => 5555, ReuseAddr => 1) or die "listen: $!";
my ($s, $asked) = (IO::Select->new($l), 0);
sub ask { my $h = shift; syswrite $h, "x\n" or return "broken: $!"; my $r = <$h>; defined $r or return "closed: $!"; chomp $r; return $r }
while (1) { for my $h ($s->can_read) {
  if ($h == $l) { $s->add(scalar $l->accept) }
  elsif (sysread $h, my $line, 4096) {
    my $extra = ''; if (++$asked % 3 == 0) { my $new = store(); $extra = $new ? ask($new) : "refused: $!" }
    my ($host) = do { open my $f, '<', '/proc/sys/kernel/hostname'; <$f> }; chomp $host;
    my $files = do { open my $f, '<', '/srv/common/log'; seek $f, -20, 2; my @l = <$f>; $l[-1] // 0 }; chomp $files;
    syswrite $h, "$asked|" . ask($store) . "|$extra|$files|$host\n" }
  else { $s->remove($h); close $h } } }"#;

/// A testbed with such a workload, `video`, on `edge1` of the nodes `edge1` and `edge2`. Both containers first do something (Perl).
pub fn up(first_of_front: &str, first_of_store: &str) -> Bed {
    let command = |text: &str, first: &str| {
        serde_json::to_string(&["perl", "-e", &text.replace("FIRST", first)]).expect("plain strings")
    };
    let (front, store) = (command(FRONT, first_of_front), command(STORE, first_of_store));
    Bed::of(&format!(
        "version: 1\nname: pod\nduration: 60s\n\
         nodes: [ {{ name: edge1 }}, {{ name: edge2 }} ]\n\
         users: [ {{ name: car, rtt: {{ edge1: 1ms, edge2: 2ms }} }} ]\n\
         workloads:\n  - name: video\n    node: edge1\n    users: [car]\n    memory: 64MiB\n    volumes: [/srv/common]\n    containers:\n\
         \x20     - {{ name: store, command: {store}, volumes: [/srv/common, /var/own] }}\n\
         \x20     - {{ name: front, command: {front}, volumes: [/srv/common] }}\n"
    ))
}

/// Asks the front and checks what it says: the store behind it is the one that it was, over the connection that it was, and so
/// are its memory and its files.
#[derive(Debug)]
pub struct Shopper {
    client: Client,
    asked: u64,
    stored: u64,
}

impl Shopper {
    /// Its connection stays.
    pub fn new(bed: &Bed) -> Self {
        Self { client: Client::connect_to(bed, "video", 0), asked: 0, stored: 0 }
    }

    /// Asks once.
    #[track_caller]
    pub fn ask(&mut self) {
        let said = self.client.say("hello");
        let parts: Vec<&str> = said.split('|').collect();
        let [asked, kept, fresh, file, host] = parts[..] else { panic!("{said}") };
        self.asked += 1;
        assert_eq!(asked, self.asked.to_string(), "another front: {said}");
        if self.asked.is_multiple_of(3) {
            self.stored += 1;
            assert_eq!(fresh, format!("{} ok", self.stored), "by a new connection: {said}");
        }
        self.stored += 1;
        assert_eq!(kept, format!("{} ok", self.stored), "another store, or a broken one: {said}");
        // Read before the store was asked over the connection that stays.
        assert_eq!(file.parse::<u64>().unwrap_or(0), self.stored - 1, "the volume is not that of both: {said}");
        assert_eq!(host, "video", "{said}");
    }
}

/// Asks again and again while `work` goes on.
#[track_caller]
pub fn asking_meanwhile<T>(shopper: &mut Shopper, work: impl FnOnce() -> T) -> T {
    struct EndsAtDrop<'a>(&'a AtomicBool);
    impl Drop for EndsAtDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                shopper.ask();
            }
        });
        // Also if it panics.
        let _over = EndsAtDrop(&over);
        work()
    })
}

/// Both are containers of runc on one node, and nothing of them is on the other.
#[track_caller]
pub fn assert_both_run_on(bed: &Bed, at: &str) {
    bed.assert_runs_only_on("video", at);
    let mut known: Vec<String> = bed.node(at).containers().into_iter().map(|(id, _)| id).collect();
    known.sort();
    assert_eq!(known, ["video.front", "video.store"]);
    for id in &known {
        // Each has pids of its own, and the name of the workload.
        let told = bed.node(at).sh(&format!("runc exec {id} sh -c 'cat /proc/1/comm /proc/sys/kernel/hostname'"));
        assert_eq!(told, "perl\nvideo\n", "{id}");
    }
    let other = if at == "edge1" { "edge2" } else { "edge1" };
    assert_eq!(bed.node(other).images(), "");
    let find = "cd /var/lib/godwit/state/bundles/video && find volumes containers/*/upper -type f";
    assert_eq!(bed.node(other).sh(find), "", "left on {other}");
}
