//! `godwit status`: what a running testbed measures, where its workloads run and why.

use std::process::ExitCode;

use godwit_testbed::{Ask, Live, Reply, ask};

use crate::args::Status;
use crate::failure::{Fail, Failure, NOT_WELL, Result};

pub fn run(args: &Status) -> Result {
    let reply = ask(&args.which.name, &Ask::Status, |_| ()).bad_input()?;
    let Reply::Status { live } = reply else {
        return Err(Failure::new(NOT_WELL, "the testbed answered something else"));
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&live)?);
    } else {
        print!("{}", table(&live));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(live: &Live) -> String {
    let mut text =
        format!("testbed {}: scenario {}, policy {}, at {}\n\n", live.testbed, live.scenario, live.policy, live.at);
    text.push_str("NODE          AGENT  LOAD   RTT\n");
    for node in &live.nodes {
        let load = node.load.map_or("-".into(), |load| load.to_string());
        let agent = if node.agent { "runs" } else { "ended" };
        let rtt: Vec<String> = node.rtt_ms.iter().map(|(user, rtt)| format!("{user} {rtt}")).collect();
        text.push_str(&format!("{:<12}  {:<5}  {load:<5}  {}\n", node.name, agent, rtt.join(", ")));
    }
    text.push_str("\nWORKLOAD      NODE          SERVICE             STATE\n");
    for workload in &live.workloads {
        let state = match &workload.migrating {
            Some((to, phase)) => format!("moving to {to}: {phase}{}", crate::view::sent(workload)),
            None if workload.running => "running".into(),
            None => "ended".into(),
        };
        text.push_str(&format!("{:<12}  {:<12}  {:<18}  {state}\n", workload.name, workload.node, workload.service));
        if let Some((decision, verdict)) = &workload.decision {
            text.push_str(&format!("              {} ({verdict})\n", decision.reason));
        }
    }
    if !live.clients.is_empty() {
        text.push_str("\nCLIENT        WORKLOAD      ANSWERS   SILENCE   WORST GAP   BROKEN\n");
        for client in &live.clients {
            text.push_str(&format!(
                "{:<12}  {:<12}  {:<8}  {:>5.0} ms  {:>7.0} ms   {}\n",
                client.user, client.workload, client.received, client.silence_ms, client.worst_gap_ms, client.broken
            ));
        }
    }
    text
}
