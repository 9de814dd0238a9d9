//! Workloads that do not start.

use crate::e2e::service::scenario;
use crate::e2e::{Bed, left};

/// Both `testbed up` and `run` fail with these words, and leave nothing.
fn does_not_start(command: &[&str], says: &[&str]) {
    let bed = Bed::none();
    let file = bed.file("scenario.yaml", &scenario(command));
    let (file, out) = (file.to_str().unwrap(), bed.path("out"));
    for args in [&["testbed", "up", file][..], &["run", file, "--world", "testbed", "--out", out.to_str().unwrap()]] {
        let mut ran = bed.call(args).fails(1).says("workload app does not start on a: ");
        for part in says {
            ran = ran.says(part);
        }
        left::assert_nothing(bed.name());
        assert!(!out.exists(), "a folder of a run that never was");
    }
}

pub fn a_program_that_does_not_exist_is_told() {
    does_not_start(&["/no/such/program"], &["/no/such/program", "no such file or directory"]);
    does_not_start(&["no-such-program"], &["no-such-program", "executable file not found"]);
}

pub fn a_program_that_ends_at_once_is_quoted() {
    does_not_start(&["sh", "-c", "echo I want more; exit 3"], &["ended", "I want more"]);
    does_not_start(&["sh", "-c", "echo no configuration >&2; exit 3"], &["ended", "no configuration"]);
    does_not_start(&["true"], &["said nothing"]);
}

pub fn a_workload_that_does_not_listen_is_told() {
    // Listens, but not where it is said to.
    let listen = "use IO::Socket::INET; my $l = IO::Socket::INET->new(Listen => 1, LocalPort => 5556); sleep 1000";
    let bed = Bed::none();
    let file = bed.file("scenario.yaml", &scenario(&["perl", "-e", listen]));
    let ran = bed.call_up(&[file.to_str().unwrap()]).fails(1).says("workload app does not start on a: ");
    ran.says("neither accepts TCP connections nor takes datagrams at 10.").says("port 5555");
    left::assert_nothing(bed.name());
}

pub fn what_this_world_has_not_is_told_before_anything_is_made() {
    let bed = Bed::none();
    let vm = scenario(&["true"]).replace(", command: [\"true\"]", ", kind: vm");
    let file = bed.file("vm.yaml", &vm);
    bed.call_up(&[file.to_str().unwrap()]).fails(2).says("workload app is a virtual machine").says("--world sim");
    left::assert_nothing(bed.name());
}
