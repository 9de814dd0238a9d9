//! SIPp as a SIP server, called by SIPp.

use std::fs;

use crate::image::{self, Server};
use crate::load;

/// In a pass.
const CALLS: u64 = 90;

pub fn every_call_is_answered() {
    let Some(image) = image::or_skip("sip") else { return };
    let script = format!(
        "cd /tmp; exec sipp -sn uas -t tn -max_socket 500 -i 0.0.0.0 -p {} -nostdin >/dev/null 2>&1",
        image::PORT
    );
    let server = Server::start(&image, "32MiB", &script);
    let to = format!("{}:{}", server.address(), image::PORT);
    load::beside_three_migrations(&server, || {
        // A connection for each call, which lasts a second.
        let calls = CALLS.to_string();
        let args = [
            "-sn",
            "uac",
            "-t",
            "tn",
            "-max_socket",
            "500",
            "-i",
            "0.0.0.0",
            "-r",
            "30",
            "-m",
            &calls,
            "-d",
            "1000",
            "-nostdin",
        ];
        let statistics = ["-trace_stat", "-stf", "/mnt/calls.csv", "-timeout", "60", "-timeout_error"];
        // It ends with 0 only if every call went well.
        server.run("sipp", &[&args[..], &statistics, &[&to]].concat());
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
