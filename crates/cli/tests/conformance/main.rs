//! Real servers from Debian's packages move three times each, under their own load generators, and no client sees an error.
//! As root, with the node image, TUN, and the image that scripts/setup-conformance.sh makes.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

#[path = "../e2e/mod.rs"]
mod e2e;

mod image;
mod load;
mod postgresql;
mod redis;
mod several;
mod sip;
mod web;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = e2e::tests![
        postgresql::pgbench_sees_no_error_and_the_sums_are_right,
        redis::redis_benchmark_sees_no_error_and_the_counter_is_right,
        web::nginx_serves_every_byte_to_wrk,
        web::a_python_server_serves_wrk,
        web::a_node_server_serves_wrk,
        sip::every_call_is_answered,
        several::nginx_python_and_redis_in_three_containers_serve_wrk,
        sip::every_call_by_datagrams_is_answered,
    ];
    e2e::run(e2e::Needs::Testbed, tests)
}
