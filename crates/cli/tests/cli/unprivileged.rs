//! Without root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::{TempDir, tempdir};

use crate::e2e::call::program;
use crate::e2e::{Call, shipped, skip};

/// Somebody with a folder that has the program and a scenario in it.
struct Somebody {
    dir: TempDir,
    program: PathBuf,
}

impl Somebody {
    /// None where the tests have no right to become somebody else and are root.
    fn new(test: &str) -> Option<Self> {
        let dir = tempdir().unwrap();
        let copy = dir.path().join("godwit");
        fs::copy(program(), &copy).unwrap();
        fs::copy(shipped("car.yaml"), dir.path().join("car.yaml")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        let somebody = Self { dir, program: copy };
        if somebody.call(&["--version"]).run().status() == Some(0) {
            return Some(somebody);
        }
        skip(test, "cannot become an unprivileged user (setpriv of util-linux)");
        None
    }

    fn call(&self, args: &[&str]) -> Call {
        let program = self.program.to_str().unwrap();
        let call = if nix::unistd::geteuid().is_root() {
            let drop = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", program];
            Call::of("setpriv", [&drop[..], args].concat())
        } else {
            Call::of(program, args)
        };
        call.dir(self.dir.path()).env("HOME", self.dir.path())
    }
}

pub fn the_testbed_is_refused_with_what_to_do() {
    let Some(somebody) = Somebody::new("unprivileged::the_testbed_is_refused_with_what_to_do") else { return };
    for args in [
        &["run", "car.yaml", "--world", "testbed"][..],
        &["demo"],
        &["testbed", "up"],
        &["testbed", "up", "--foreground"],
        &["testbed", "down"],
    ] {
        somebody.call(args).run().fails(3).says("sudo").says("--world sim needs no root");
    }
    let args = ["run", "car.yaml", "--world", "testbed", "--out", "no/results"];
    somebody.call(&args).run().fails(3);
    assert!(!somebody.dir.path().join("no").exists(), "a folder is left of a run that never was");
}

pub fn everything_else_works() {
    let Some(somebody) = Somebody::new("unprivileged::everything_else_works") else { return };
    somebody.call(&["run", "car.yaml", "--world", "sim", "--out", "sim"]).run().code(0);
    assert!(somebody.dir.path().join("sim/report.html").exists());
    somebody.call(&["policy", "decide", "sim/snapshots.jsonl"]).run().code(0);
    somebody.call(&["policy", "list"]).run().code(0);
    somebody.call(&["scenario", "check", "car.yaml"]).run().code(0);
    let doctor = somebody.call(&["doctor"]).run().code(3);
    doctor.prints("not running as root").prints("--world sim can");
    somebody.call(&["doctor", "--json"]).run().code(3).json();
    somebody.call(&["status", "--name", "nobody-has-this"]).run().fails(2).says("no testbed named nobody-has-this");
    fs::write(somebody.dir.path().join("no.ckpt"), "no checkpoint").unwrap();
    somebody.call(&["checkpoint", "inspect", "no.ckpt"]).run().fails(2).says("it is neither zstd, gzip nor tar");
    somebody.call(&["checkpoint", "inspect", "none.ckpt"]).run().fails(2).says("No such file");
    somebody.call(&["man", "man"]).run().code(0);
}
