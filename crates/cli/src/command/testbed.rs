//! `godwit testbed up | status | down`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use godwit_model::StrategyChoice;
use godwit_scenario::Scenario;
use godwit_testbed::{
    Ask, DriveOptions, Observer, Reply, Stop, Testbed, TestbedName, Unobserved, ask, drive, remove_leftovers,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args;
use crate::failure::{Fail, Failure, INTERRUPTED, NOT_WELL, NoTestbed, Result};
use crate::interrupt::stop_on_signal;
use crate::view;

const CAR: &str = include_str!("../../../../scenarios/car.yaml");
/// How long a testbed in the background may take to stand, or to end.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn run(command: args::Testbed) -> Result {
    match command {
        args::Testbed::Up { scenario, which, host, foreground, quiet } => {
            // Read here even when the background will read it again: what is wrong with it is told here.
            let parsed = read(scenario.as_deref())?;
            if foreground {
                stand(&which.name, &host, &parsed, quiet)
            } else {
                background(&which.name, &host, scenario.as_deref())
            }
        }
        args::Testbed::Status(args) => super::status::run(&args),
        args::Testbed::Down { which } => down(&which.name),
    }
}

fn read(scenario: Option<&Path>) -> Result<Scenario> {
    match scenario {
        Some(path) => super::read_scenario(path),
        None => Scenario::parse(CAR, "car.yaml").bad_input(),
    }
}

/// Makes the testbed in this process and keeps it until a stop.
fn stand(name: &TestbedName, host: &args::Host, scenario: &Scenario, quiet: bool) -> Result {
    let stop = stop_on_signal()?;
    let mut view = view::choose(false);
    let config = host.testbed(name, scenario).failed_to("find godwit's own program")?;
    let testbed = match Testbed::up(&config, &stop, &mut |note| view.note(note)) {
        Ok(testbed) => testbed,
        Err(godwit_testbed::TestbedError::Interrupted) => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => return Err(error).no_testbed(),
    };
    let options = DriveOptions {
        policy: godwit_policy::build("never", &serde_json::Value::Null).bad_input()?,
        speed: 1.0,
        seed: scenario.seed,
        standing: true,
        strategy: StrategyChoice::default(),
        sample_every: Duration::from_secs(60),
    };
    let observer: &mut dyn Observer = if quiet { &mut Unobserved } else { &mut view };
    drive(&testbed, scenario, options, observer, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the same in a process of its own and waits until it answers.
fn background(name: &TestbedName, host: &args::Host, scenario: Option<&Path>) -> Result {
    if let Ok(Reply::Status { .. }) = ask(name, &Ask::Status, |_| ()) {
        return Err(Failure::new(
            crate::failure::BAD_INPUT,
            format!("a testbed named {name} runs already; end it with: godwit testbed down --name {name}"),
        ));
    }
    let stop = stop_on_signal()?;
    // In memory and without a name, so that nobody else writes there.
    let log = File::from(memfd_create("godwit-testbed-up", MFdFlags::MFD_CLOEXEC).failed_to("keep what is said")?);
    let (out, err) = (log.try_clone()?, log.try_clone()?);
    let mut command = Command::new(std::env::current_exe().failed_to("find godwit's own program")?);
    command.args(["testbed", "up", "--foreground", "--quiet", "--name", name.as_str()]).args(host.to_args());
    if let Some(scenario) = scenario {
        command.arg(fs::canonicalize(scenario).bad_input()?);
    }
    // A process group of its own: ^C in this terminal is for it while it comes up (it is passed on), not afterwards.
    let mut child = command.process_group(0).stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
    let ended = wait_for(name, &mut child, &stop);
    let log = so_far(&log);
    match ended.inspect_err(|_| eprint!("{log}"))? {
        None => Ok(ExitCode::SUCCESS),
        Some(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_WELL);
            if code == INTERRUPTED {
                return Ok(ExitCode::from(INTERRUPTED));
            }
            // What it did comes before what went wrong.
            let (did, wrong) = match log.rfind("godwit: ") {
                Some(at) if at == 0 || log[..at].ends_with('\n') => (&log[..at], &log[at + "godwit: ".len()..]),
                _ => ("", log.as_str()),
            };
            eprint!("{did}");
            let wrong = if wrong.trim().is_empty() { "the testbed ended without a word" } else { wrong.trim() };
            Err(Failure::new(code, wrong.to_owned()))
        }
    }
}

fn so_far(log: &File) -> String {
    let mut text = vec![0; log.metadata().map_or(0, |meta| meta.len()) as usize];
    let length = log.read_at(&mut text, 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// Waits until the testbed answers (and says so), or until its process has ended, whose status is returned.
fn wait_for(name: &TestbedName, child: &mut Child, stop: &Stop) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    let mut passed_on = false;
    loop {
        // First, so that an older testbed of this name does not answer in its place.
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop.is_asked() {
            if !passed_on {
                let pid = i32::try_from(child.id()).map(Pid::from_raw)?;
                kill(pid, Signal::SIGTERM)?;
                passed_on = true;
            }
        } else if let Ok(Reply::Status { live }) = ask(name, &Ask::Status, |_| ()) {
            let at: Vec<String> =
                live.workloads.iter().map(|w| format!("{} on {} at {}", w.name, w.node, w.service)).collect();
            println!("testbed {name} is up: {}", at.join(", "));
            println!("  godwit status --name {name}\n  godwit testbed down --name {name}");
            return Ok(None);
        }
        if started.elapsed() >= PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            let _ = remove_leftovers(name);
            let what = if passed_on { "end" } else { "come up" };
            return Err(Failure::new(NOT_WELL, format!("the testbed did not {what} in {} s", PATIENCE.as_secs())));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn down(name: &TestbedName) -> Result {
    let pid = fs::read_to_string(name.run_dir().join("lock")).unwrap_or_default();
    if let Ok(Reply::Ending) = ask(name, &Ask::Down, |_| ()) {
        let asked = Instant::now();
        while name.run_dir().exists() || runs(pid.trim()) {
            if asked.elapsed() >= PATIENCE {
                let what = format!("testbed {name} (pid {}) has not ended in {} s", pid.trim(), PATIENCE.as_secs());
                return Err(Failure::new(NOT_WELL, what));
            }
            thread::sleep(LOOK_EVERY);
        }
        println!("testbed {name} is gone");
        return Ok(ExitCode::SUCCESS);
    }
    // Nobody answers: it was killed, or there is none.
    let found = remove_leftovers(name).no_testbed()?;
    if found.is_empty() {
        println!("there is no testbed {name}, and nothing of one");
    } else {
        println!("testbed {name} was not running any more; removed {}", found.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is such a process (one that only waits to be buried is none).
fn runs(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}
