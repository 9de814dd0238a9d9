//! What a call costs: the round trip of the smallest one over a Unix socket, agent and caller being two processes.
//!
//! ```text
//! cargo run --release -p godwit-agent --example roundtrip
//! ```

use std::env;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use godwit_agent::{Address, AgentClient, AgentConfig, Listen, serve};
use godwit_model::NodeName;

const CALLS: usize = 5000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = NodeName::new("edge1")?;
    if let Some(dir) = env::args().nth(1) {
        // Ends with its parent.
        thread::spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let config = AgentConfig {
            node,
            listen: Listen::Unix(format!("{dir}/agent.sock").into()),
            data: Ipv4Addr::LOCALHOST.into(),
            data_identity: None,
            state: dir.into(),
            memory: None,
            node_init: None,
            lease_s: 600,
            cgroups: Vec::new(),
        };
        match serve(config)? {}
    }
    let dir = tempfile::tempdir()?;
    let mut agent = Command::new(env::current_exe()?).arg(dir.path()).stdin(Stdio::piped()).spawn()?;
    let client = AgentClient::new(node, Address::Unix(dir.path().join("agent.sock")))?;
    client.wait_until_there(Duration::from_secs(10))?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        client.status(Duration::from_secs(1))?;
        times.push(start.elapsed());
    }
    times.sort();
    let at = |part: f64| times[((CALLS - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    println!("{CALLS} calls: median {:.0} us, 95 % {:.0} us, worst {:.0} us", at(0.5), at(0.95), at(1.0));
    drop(agent.stdin.take());
    agent.wait()?;
    Ok(())
}
