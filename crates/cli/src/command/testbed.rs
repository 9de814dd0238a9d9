//! `godwit testbed up | status | down`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use godwit_scenario::Scenario;
use godwit_testbed::{Ask, DriveOptions, Reply, Testbed, TestbedConfig, TestbedName, ask, drive, remove_leftovers};

use crate::args;
use crate::failure::{Fail, Failure, INTERRUPTED, LACKING, NOT_WELL, Result};
use crate::interrupt::stop_on_signal;
use crate::view;

const CAR: &str = include_str!("../../../../scenarios/car.yaml");
/// How long a testbed in the background may take to stand, or to end.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn run(command: args::Testbed) -> Result {
    match command {
        args::Testbed::Up { scenario, which, image, foreground } => {
            let image = image.node_image.unwrap_or_else(godwit_testbed::default_image);
            // Read here even when the background will read it again: what is wrong with it is told here.
            let parsed = read(scenario.as_deref())?;
            if foreground {
                stand(&which.name, image, &parsed)
            } else {
                background(&which.name, &image, scenario.as_deref())
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
fn stand(name: &TestbedName, image: PathBuf, scenario: &Scenario) -> Result {
    let stop = stop_on_signal()?;
    let program = std::env::current_exe().failed_to("find godwit's own program")?;
    let mut view = view::choose(false);
    let config = TestbedConfig { name: name.clone(), program, image, scenario };
    let testbed = match Testbed::up(&config, &stop, &mut |note| view.note(note)) {
        Ok(testbed) => testbed,
        Err(godwit_testbed::TestbedError::Interrupted) => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => {
            let code = if error.is_lack() { LACKING } else { NOT_WELL };
            return Err(error).exit_with(code);
        }
    };
    let options = DriveOptions {
        policy: godwit_policy::build("never", &serde_json::Value::Null).bad_input()?,
        speed: 1.0,
        seed: scenario.seed,
        standing: true,
        sample_every: Duration::from_secs(60),
    };
    drive(&testbed, scenario, options, &mut view, &stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the same in a process of its own and waits until it answers.
fn background(name: &TestbedName, image: &Path, scenario: Option<&Path>) -> Result {
    if let Ok(Reply::Status { .. }) = ask(name, &Ask::Status, |_| ()) {
        return Err(Failure::new(
            crate::failure::BAD_INPUT,
            format!("a testbed named {name} runs already; end it with: godwit testbed down --name {name}"),
        ));
    }
    let log_path = std::env::temp_dir().join(format!("godwit-testbed-{name}.log"));
    let log = File::create(&log_path).failed_to(format!("{} cannot be written", log_path.display()))?;
    let said = log.try_clone()?;
    let mut command = Command::new(std::env::current_exe().failed_to("find godwit's own program")?);
    command.args(["testbed", "up", "--foreground", "--name", name.as_str(), "--node-image"]).arg(image);
    if let Some(scenario) = scenario {
        command.arg(fs::canonicalize(scenario).bad_input()?);
    }
    // A process group of its own: ^C in this terminal is not for it.
    let mut child = command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(said).spawn()?;
    let mut waited = Duration::ZERO;
    loop {
        if let Ok(Reply::Status { live }) = ask(name, &Ask::Status, |_| ()) {
            let _ = fs::remove_file(&log_path);
            let at: Vec<String> =
                live.workloads.iter().map(|w| format!("{} on {} at {}", w.name, w.node, w.service)).collect();
            println!("testbed {name} is up: {}", at.join(", "));
            println!("  godwit status --name {name}\n  godwit testbed down --name {name}");
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let _ = fs::remove_file(&log_path);
            let said = log.trim().strip_prefix("godwit: ").unwrap_or(log.trim()).to_owned();
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_WELL);
            return Err(Failure::new(code, said));
        }
        if waited >= PATIENCE {
            // It ends in order on SIGTERM as on ^C, which this process has no better way to say than by its socket.
            let _ = child.kill();
            let _ = child.wait();
            let _ = remove_leftovers(name);
            return Err(Failure::new(NOT_WELL, format!("the testbed did not come up in {} s", PATIENCE.as_secs())));
        }
        thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
}

fn down(name: &TestbedName) -> Result {
    if let Ok(Reply::Ending) = ask(name, &Ask::Down, |_| ()) {
        let mut waited = Duration::ZERO;
        while name.run_dir().exists() && waited < PATIENCE {
            thread::sleep(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
        println!("testbed {name} is gone");
        return Ok(ExitCode::SUCCESS);
    }
    // Nobody answers: it was killed, or there is none.
    let found = match remove_leftovers(name) {
        Ok(found) => found,
        Err(error) => {
            let code = if error.is_lack() { LACKING } else { NOT_WELL };
            return Err(error).exit_with(code);
        }
    };
    if found.is_empty() {
        println!("there is no testbed {name}, and nothing of one");
    } else {
        println!("testbed {name} was not running any more; removed {}", found.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
