//! PostgreSQL, under pgbench.

use crate::image::{self, Server};
use crate::load;

const BIN: &str = "/usr/lib/postgresql/current/bin";

const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
                    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history)";

pub fn pgbench_sees_no_error_and_the_sums_are_right() {
    let Some(image) = image::or_skip("postgresql") else { return };
    let script = format!(
        r#"mkdir -m 700 /tmp/pg; chown postgres /tmp/pg
exec setpriv --reuid postgres --regid postgres --clear-groups sh -ec '
  {BIN}/initdb -D /tmp/pg -A trust -U postgres --no-sync >/dev/null
  echo "host all all 0.0.0.0/0 trust" >>/tmp/pg/pg_hba.conf
  exec {BIN}/postgres -D /tmp/pg -p {} -c listen_addresses=0.0.0.0 -c unix_socket_directories= \
    -c dynamic_shared_memory_type=mmap -c shared_buffers=16MB -c max_connections=50'"#,
        image::PORT
    );
    let server = Server::start(&image, "128MiB", &script);
    let port = image::PORT.to_string();
    let at = ["-h", server.address(), "-p", &port, "-U", "postgres"];
    let run = |program: &str, args: &[&str]| {
        server.run(&format!("{BIN}/{program}"), &[&at[..], args, &["postgres"]].concat())
    };
    run("pgbench", &["-i", "-s", "2", "-q"]);
    load::beside_three_migrations(&server, || {
        // Connections that stay, and a new one for each transaction.
        std::thread::scope(|scope| {
            for more in [&["-c", "6"][..], &["-c", "2", "-C"]] {
                let all = [&["-j", "2", "-T", "3", "-n"], more].concat();
                scope.spawn(move || {
                    let out = run("pgbench", &all);
                    assert!(out.contains("number of failed transactions: 0 "), "{out}");
                });
            }
        });
    });
    let sums = run("psql", &["-At", "-c", SUMS, "-d"]);
    let sums: Vec<&str> = sums.trim().split('|').collect();
    assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    run("psql", &["-c", "CREATE EXTENSION amcheck", "-d"]);
    assert_eq!(run("pg_amcheck", &["--heapallindexed", "-d"]), "");
}
