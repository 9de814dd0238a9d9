//! `godwit run`: a scenario in a world, and its report.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use godwit_control::Decided;
use godwit_model::{RunRecord, StrategyChoice};
use godwit_policy::Policy;
use godwit_report::SnapshotLog;
use godwit_scenario::Scenario;
use godwit_sim::SimConfig;
use godwit_testbed::{DriveOptions, Stop, Testbed, TestbedConfig, drive};

use crate::args::{Run, World};
use crate::failure::{Fail, INTERRUPTED, NOT_WELL, NoTestbed, Result};
use crate::interrupt::stop_on_signal;
use crate::view;

/// How often samples are taken, in the scenario's time.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

pub fn run(args: Run) -> Result {
    let mut scenario = super::read_scenario(&args.scenario)?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.speed = args.speed.unwrap_or(scenario.speed);
    let policy = choose_policy(&args, &scenario)?;
    let world = if args.world == World::Sim { "sim" } else { "testbed" };
    let out = args.out.unwrap_or_else(|| PathBuf::from(format!("out/{}-{world}", scenario.name)));
    let _folder = OutFolder::prepare(&out)?;
    match args.world {
        World::Sim => {
            let run = godwit_sim::run(&scenario, SimConfig::new(&scenario, policy));
            publish(&run.record, &run.decided, &out, args.json)?;
            Ok(verdict(&run.record))
        }
        World::Testbed => {
            let stop = stop_on_signal()?;
            let config = args.host.testbed(&args.name, &scenario).failed_to("find godwit's own program")?;
            on_testbed(&config, policy, args.strategy, &out, args.json, &stop, |_, _| Ok(()))
        }
    }
}

/// The output folder, made before the run: that it cannot be written is told before the drive, not after it. Where nothing
/// comes of the run it is taken away again.
#[derive(Debug)]
pub struct OutFolder {
    /// The folders that were not there before, innermost first.
    made: Vec<PathBuf>,
}

impl OutFolder {
    pub fn prepare(out: &Path) -> Result<Self> {
        let missing = out.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let made = missing.map(Path::to_owned).collect();
        godwit_report::prepare(out).bad_input()?;
        Ok(Self { made })
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        // Fails, as it should, where there is something in it.
        self.made.iter().all(|dir| fs::remove_dir(dir).is_ok());
    }
}

fn choose_policy(args: &Run, scenario: &Scenario) -> Result<Box<dyn Policy>> {
    let (name, mut params) = match &args.policy {
        Some(name) => (name, serde_json::json!({})),
        None => (&scenario.policy.name, scenario.policy.params.clone()),
    };
    if let (Some(params), serde_json::Value::Object(set)) = (params.as_object_mut(), super::parameters(&args.set)) {
        params.extend(set);
    }
    godwit_policy::build(name, &params).bad_input()
}

/// The run on the testbed, with its view and its report. `after` is called when the scenario is over and the testbed still
/// stands.
pub fn on_testbed(
    config: &TestbedConfig<'_>,
    policy: Box<dyn Policy>,
    strategy: StrategyChoice,
    out: &Path,
    json: bool,
    stop: &Stop,
    after: impl FnOnce(&Testbed, &mut RunRecord) -> Result<()>,
) -> Result {
    let mut view = view::choose(std::io::stderr().is_terminal());
    let scenario = config.scenario;
    let testbed = match Testbed::up(config, stop, &mut |note| view.note(note)) {
        Ok(testbed) => testbed,
        Err(godwit_testbed::TestbedError::Interrupted) => return Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => {
            view.leave();
            return Err(error).no_testbed();
        }
    };
    let options = DriveOptions {
        policy,
        speed: scenario.speed,
        seed: scenario.seed,
        standing: false,
        strategy,
        sample_every: SAMPLE_EVERY,
    };
    let driven = drive(&testbed, scenario, options, &mut view, stop);
    view.leave();
    let mut run = driven?;
    if !run.interrupted {
        after(&testbed, &mut run.record)?;
    }
    drop(testbed);
    publish(&run.record, &run.decided, out, json)?;
    if run.interrupted {
        eprintln!(
            "godwit: interrupted after {:.0} s of the scenario; the report covers these",
            run.record.summary.duration_s
        );
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(verdict(&run.record))
}

/// Writes everything into the folder and prints the table, or the summary as JSON.
fn publish(record: &RunRecord, decided: &[Decided], out: &Path, json: bool) -> Result<()> {
    let mut log = SnapshotLog::create(out)?;
    for round in decided {
        log.append(&round.snapshot)?;
    }
    log.finish()?;
    godwit_report::write(record, out)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&record.summary)?);
    } else {
        println!("{}", godwit_report::final_table(&record.summary).trim_end());
        println!("\nReport: {}", out.join("report.html").display());
    }
    Ok(())
}

fn verdict(record: &RunRecord) -> ExitCode {
    if record.summary.ok { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) }
}
