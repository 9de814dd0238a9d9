//! SIPp as a SIP server, called by SIPp.

use std::fs;

use crate::image::{self, Server};
use crate::load;

/// In a pass.
const CALLS: u64 = 90;

pub fn every_call_is_answered() {
    // A connection for each call.
    calls("sip", &["-t", "tn", "-max_socket", "500"]);
}

pub fn every_call_by_datagrams_is_answered() {
    // Nobody repeats anything: a datagram that is lost is a call that fails.
    calls("sip by datagrams", &["-t", "u1", "-nr"]);
}

fn calls(test: &str, transport: &[&str]) {
    let Some(image) = image::or_skip(test) else { return };
    let script = format!(
        "cd /tmp; exec sipp -sn uas {} -i 0.0.0.0 -p {} -nostdin >/dev/null 2>&1",
        transport.join(" "),
        image::PORT
    );
    let server = Server::start(&image, "32MiB", &script);
    let to = format!("{}:{}", server.address(), image::PORT);
    load::beside_three_migrations(&server, || {
        let calls = CALLS.to_string();
        // Each lasts a second.
        let args = ["-sn", "uac", "-i", "0.0.0.0", "-r", "30", "-m", &calls, "-d", "1000", "-nostdin"];
        let statistics = ["-trace_stat", "-stf", "/mnt/calls.csv", "-timeout", "60", "-timeout_error"];
        // It ends with 0 only if every call went well.
        server.run("sipp", &[&args[..], transport, &statistics, &[&to]].concat());
        let table = fs::read_to_string(server.bed.path("calls.csv")).expect("its statistics");
        let mut lines = table.lines();
        let names = lines.next().expect("a header").split(';');
        let last: Vec<&str> = lines.last().expect("a row").split(';').collect();
        let told = |name: &str| {
            let at = names.clone().position(|n| n == name).unwrap_or_else(|| panic!("no {name} in {table}"));
            last[at].parse::<u64>().expect("a number")
        };
        assert_eq!((told("SuccessfulCall(C)"), told("FailedCall(C)"), told("Retransmissions(C)")), (CALLS, 0, 0));
    });
}
