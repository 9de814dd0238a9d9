//! What Godwit starts of itself inside a node or a container.

use std::process::ExitCode;

use godwit_agent::AgentConfig;
use godwit_testbed::NodeInit;
use godwit_traffic::{Service, ServiceConfig};

use crate::args;
use crate::failure::{BAD_INPUT, Fail, Failure, Result};

pub fn node_init(config: &str) -> Result {
    let config: NodeInit =
        serde_json::from_str(config).map_err(|e| Failure::new(BAD_INPUT, format!("no orders for a node: {e}")))?;
    match godwit_testbed::run_node_init(&config).failed_to("set up the node")? {}
}

pub fn agent(config: &str) -> Result {
    let config: AgentConfig = serde_json::from_str(config)
        .map_err(|e| Failure::new(BAD_INPUT, format!("no configuration of an agent: {e}")))?;
    match godwit_agent::serve(config).failed_to("serve")? {}
}

pub fn service(args: &args::Service) -> Result {
    let stop = godwit_traffic::termination()?;
    let mut config = ServiceConfig::new(args.listen);
    config.memory = args.memory;
    config.dirty_per_second = args.dirty_rate;
    Service::bind(config)?.run(stop)?;
    Ok(ExitCode::SUCCESS)
}
