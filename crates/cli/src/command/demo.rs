//! `godwit demo`: the car and the load at once, on the testbed, then the same move by plain runc for comparison.

use godwit_scenario::Scenario;

use crate::args::Demo;
use crate::failure::{Fail, Result};
use crate::interrupt::stop_on_signal;

const SCENARIO: &str = include_str!("../../../../scenarios/car-and-load.yaml");

pub fn run(args: Demo) -> Result {
    let mut scenario = Scenario::parse(SCENARIO, "car-and-load.yaml").bad_input()?;
    scenario.speed = args.speed;
    let policy = godwit_policy::build(&scenario.policy.name, &scenario.policy.params).bad_input()?;
    godwit_report::prepare(&args.out).bad_input()?;
    let stop = stop_on_signal()?;
    let image = args.image.node_image.unwrap_or_else(godwit_testbed::default_image);
    eprintln!(
        "A car drives past three edge nodes and back, {:.0} s at {} times its speed. The service that it uses follows it, \
         running; a client in the car asks it every 5 ms and counts what is lost.",
        scenario.duration.as_secs_f64() / args.speed,
        args.speed,
    );
    super::run::on_testbed(&args.name, image, &scenario, policy, &args.out, false, &stop, |_, _| Ok(()))
}
