//! `godwit demo`: the car and the load at once, on the testbed, then the same moves by plain runc for comparison.

use godwit_model::Baseline;
use godwit_scenario::Scenario;

use crate::args::Demo;
use crate::failure::{Fail, Result};
use crate::interrupt::stop_on_signal;

const SCENARIO: &str = include_str!("../../../../scenarios/car-and-load.yaml");
/// Moves there and back by plain runc.
const ROUNDS: u32 = 2;

pub fn run(args: Demo) -> Result {
    let mut scenario = Scenario::parse(SCENARIO, "car-and-load.yaml").bad_input()?;
    scenario.speed = args.speed;
    let policy = godwit_policy::build(&scenario.policy.name, &scenario.policy.params).bad_input()?;
    godwit_report::prepare(&args.out).bad_input()?;
    let stop = stop_on_signal()?;
    let config = args.host.testbed(&args.name, &scenario).failed_to("find godwit's own program")?;
    eprintln!(
        "A car drives past three edge nodes and back, {:.0} s at {} times its speed. The service that it uses follows it, \
         running; a client in the car asks it every 5 ms and counts what is lost.",
        scenario.duration.as_secs_f64() / args.speed,
        args.speed,
    );
    let (workload, user) = (scenario.workloads[0].name.clone(), scenario.users[0].name.clone());
    let nodes: Vec<_> = scenario.nodes.iter().map(|node| node.name.clone()).collect();
    super::run::on_testbed(&config, policy, args.strategy, &args.out, false, &stop, |testbed, record| {
        eprintln!("For comparison, the same container moved by plain runc checkpoint and runc restore:");
        let at = testbed.placement()[&workload].clone();
        let Some(other) = nodes.iter().find(|node| **node != at) else { return Ok(()) };
        let note = |note: &str| eprintln!("  {note}");
        let moves = godwit_testbed::compare(testbed, &workload, &user, other, ROUNDS, &stop, note)?;
        record.summary.baseline = Some(Baseline { tool: Baseline::RUNC.into(), moves });
        Ok(())
    })
}
