//! Runs the tests of a binary, says what was skipped, and looks at the end whether anything is left behind.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use nix::unistd::geteuid;

use super::{call, left};

/// A test.
pub struct Test {
    /// `module::name`.
    pub name: &'static str,
    /// Panics where it fails.
    pub run: fn(),
}

/// What all tests of a binary need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The binary alone.
    Nothing,
    /// Everything that a testbed needs.
    Testbed,
}

impl Needs {
    /// What of it this host lacks.
    pub fn lacking(self) -> Option<String> {
        if self == Self::Nothing {
            return None;
        }
        if !geteuid().is_root() {
            return Some("not root".into());
        }
        if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
            return Some(format!("no TUN: {error}"));
        }
        let image = node_image();
        let criu = image.join("usr/sbin/criu");
        (!criu.exists()).then(|| format!("no node image at {}", image.display()))
    }
}

/// Where images are kept, by the same rule as the program's.
pub fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    var("GODWIT_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("godwit")))
        .unwrap_or_else(|| var("HOME").unwrap_or_else(|| "/root".into()).join(".cache/godwit"))
}

/// Where the node image is.
pub fn node_image() -> PathBuf {
    let given = std::env::var_os("GODWIT_NODE_IMAGE").map(PathBuf::from);
    given.unwrap_or_else(|| cache().join("node-image/current/rootfs"))
}

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes that (a part of) a test does not run here.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}");
    eprintln!("{line}");
    SKIPPED.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// The main function of a test binary.
pub fn run(needs: Needs, tests: Vec<Test>) -> ExitCode {
    let args = Arguments::from_args();
    // The message itself stands in the list of failures; where it was is not there, and a backtrace says no more.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            eprintln!("panicked at {place}");
        }
    }));
    // A second ^C or a SIGKILL leaves testbeds behind; `godwit testbed down` takes them away.
    let handled = ctrlc::set_handler(|| {
        eprintln!("interrupted: ending the testbeds of the tests that ran");
        left::names().iter().for_each(|name| call::end_testbed(name));
        std::process::exit(130);
    });
    handled.expect("no handler yet");

    let lack = needs.lacking();
    let trials = tests.into_iter().map(|test| {
        if let (Some(lack), false) = (&lack, args.list) {
            skip(test.name, lack);
        }
        let run = move || {
            (test.run)();
            Ok(())
        };
        Trial::test(test.name, run).with_ignored_flag(lack.is_some())
    });
    let conclusion = libtest_mimic::run(&args, trials.collect());

    let skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner).len();
    if skipped > 0 {
        eprintln!("{skipped} skipped");
    }
    let left: Vec<String> = left::names().iter().flat_map(|name| left::of(name)).collect();
    if !left.is_empty() {
        eprintln!("LEFT BEHIND:\n  {}", left.join("\n  "));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
