//! redis-server, under redis-benchmark.

use crate::image::{self, Server};
use crate::load;

/// Of each kind in a pass.
const REQUESTS: u64 = 20_000;

pub fn redis_benchmark_sees_no_error_and_the_counter_is_right() {
    let Some(image) = image::or_skip("redis") else { return };
    let script = format!(
        "exec setpriv --reuid redis --regid redis --clear-groups redis-server --port {} --bind 0.0.0.0 -:: \
         --protected-mode no --save '' --dir /tmp",
        image::PORT
    );
    let server = Server::start(&image, "64MiB", &script);
    let port = image::PORT.to_string();
    let [at, at_v6] = [server.address(), server.address_v6()].map(|address| ["-h", address, "-p", &port]);
    let requests = REQUESTS.to_string();
    let benchmark = |at: &[&str], args: &[&str]| {
        let ran = server.program("redis-benchmark", &[at, &["-q", "-c", "20", "-n", &requests], args].concat());
        let ran = ran.run().code(0);
        assert!(!ran.out.contains("Error") && ran.err.is_empty(), "{}\n{}", ran.out, ran.err);
    };
    let passes = load::beside_three_migrations(&server, || {
        benchmark(&at, &["INCR", "counter"]);
        benchmark(&at_v6, &["-t", "set,get,lpush,lrange_100", "-d", "1000", "-r", "1000"]);
    });
    let counted = server.run("redis-cli", &[&at[..], &["GET", "counter"]].concat());
    assert_eq!(counted.trim(), (passes * REQUESTS).to_string(), "after {passes} passes");
    // It is the server that was started, and not one that began anew.
    let info = server.run("redis-cli", &[&at[..], &["INFO", "stats"]].concat());
    assert!(info.contains("rejected_connections:0"), "{info}");
}
