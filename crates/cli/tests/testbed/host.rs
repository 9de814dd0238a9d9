//! What the host lacks is said with the next step, and nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::e2e::call::program;
use crate::e2e::harness::node_image;
use crate::e2e::{Bed, Call, godwit, left, shipped};

/// The node image with something else in the place of its CRIU.
struct OtherCriu {
    root: PathBuf,
}

impl OtherCriu {
    fn new(bed: &Bed, criu: &str) -> Self {
        let [root, upper, work] = ["image", "upper", "work"].map(|name| bed.path(name));
        for dir in [&root, &upper.join("usr/sbin"), &work] {
            fs::create_dir_all(dir).unwrap();
        }
        let program = upper.join("usr/sbin/criu");
        fs::write(&program, criu).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let lower = node_image().canonicalize().unwrap();
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&root).status();
        assert!(mounted.unwrap().success());
        Self { root }
    }
}

impl Drop for OtherCriu {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.root).status();
    }
}

/// Every command that makes a testbed fails so, and leaves nothing.
fn refused(bed: &Bed, image: &str, code: i32, says: &[&str]) {
    let (car, out) = (shipped("car.yaml"), bed.path("no/out"));
    for args in [
        &["testbed", "up"][..],
        &["testbed", "up", "--foreground"],
        &["run", car.to_str().unwrap(), "--world", "testbed", "--out", out.to_str().unwrap()],
    ] {
        let mut ran = bed.call(&[args, &["--node-image", image]].concat()).fails(code);
        for part in says {
            ran = ran.says(part);
        }
        left::assert_nothing(bed.name());
        assert!(!bed.path("no").exists(), "a folder of a run that never was");
    }
}

pub fn no_tun() {
    let bed = Bed::none();
    // A mount namespace in which /dev/net is empty.
    let hide = "mount -t tmpfs tmpfs /dev/net && exec \"$@\"";
    let hidden = |args: &[&str]| {
        let fixed = ["--mount", "sh", "-c", hide, "sh", program().to_str().unwrap()];
        Call::of("unshare", [&fixed[..], args].concat()).run()
    };
    let ran = hidden(&["testbed", "up", "--name", bed.name()]).fails(3);
    ran.says("this host lacks TUN devices").says("modprobe tun");
    left::assert_nothing(bed.name());
    hidden(&["doctor"]).code(3).prints("MISS  tun");
}

pub fn no_util_linux() {
    let bed = Bed::none();
    let bin = bed.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/sh", bin.join("sh")).unwrap();
    let ran = Call::new(["testbed", "up", "--name", bed.name()]).env("PATH", &bin).run().fails(3);
    ran.says("this host lacks nsenter and unshare").says("apt-get install util-linux");
    left::assert_nothing(bed.name());
}

pub fn links_by_netem() {
    let bed = Bed::none();
    let doctor = godwit(["doctor", "--json"]).code(0).json();
    let netem = doctor.as_array().unwrap().iter().find(|finding| finding["what"] == "netem").unwrap().clone();
    let up = bed.call_up(&["--link", "netem"]);
    if netem["has"] != "yes" {
        up.fails(3).says("this host lacks netem").says("--link userspace");
        left::assert_nothing(bed.name());
        return;
    }
    up.code(0);
    bed.migrate("video", "edge2");
    assert_eq!(bed.until_it_answers(), 0);
}

pub fn no_node_image() {
    let bed = Bed::none();
    refused(&bed, "/nonexistent", 3, &["/nonexistent", "scripts/setup-node-image.sh"]);
}

pub fn a_node_image_without_criu() {
    let bed = Bed::none();
    for program in ["bin/sh", "usr/sbin/runc", "usr/bin/stress-ng"] {
        let path = bed.path("bare").join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let image = bed.path("bare");
    refused(&bed, image.to_str().unwrap(), 3, &["a node image with criu at", "scripts/setup-node-image.sh"]);
    let doctor = godwit(["doctor", "--node-image", image.to_str().unwrap()]).code(3);
    doctor.prints("MISS  node image");
}

pub fn a_node_image_with_an_old_criu() {
    let bed = Bed::none();
    // Answers the question for its version as CRIU 3.17 does: type VERSION, success, version { major 3, minor 17 }.
    let old = OtherCriu::new(
        &bed,
        r#"#!/usr/bin/perl
open(my $s, "+<&=", $ARGV[1]) or die "$!"; sysread $s, my $request, 4096;
syswrite $s, pack("H*", "080a10015204" . "08031011"); sleep 60;
"#,
    );
    let image = old.root.to_str().unwrap();
    refused(&bed, image, 3, &["3.17", "CRIU 4.1 or newer", "scripts/setup-node-image.sh"]);
    let doctor = godwit(["doctor", "--node-image", image]).code(3);
    doctor.prints("MISS  criu").prints("criu 3.17 is too old, 4.1 or newer is needed");
}
