//! Three servers in three containers of one workload, under wrk: nginx asks Python, which asks redis, over localhost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::image::{self, Server};
use crate::load;

/// Connections at a time.
const AT_ONCE: u64 = 8;

const STORE: &str = "exec setpriv --reuid redis --regid redis --clear-groups redis-server --port 6379 --bind 127.0.0.1 --save '' --dir /tmp";

/// Counts in redis, by a connection for each of its own, and answers what it has counted.
const APP: &str = r#"
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def setup(self):
        super().setup()
        self.store = socket.create_connection(("127.0.0.1", 6379))
        self.answers = self.store.makefile("rb")
    def finish(self):
        self.store.close()
        super().finish()
    def do_GET(self):
        self.store.sendall(b"INCR counter\r\n")
        line = self.answers.readline()
        text = (b"counted " + line[1:].strip()).ljust(8000, b".") if line[:1] == b":" else b"broken " + line
        self.send_response(200 if line[:1] == b":" else 500)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
Server(("127.0.0.1", 8000), Handler).serve_forever()
"#;

/// Has wrk look at every body, and tell how many were not as they should be.
const CHECK: &str = r#"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) bad = 0 end
function response(status, headers, body)
  if status ~= 200 or #body ~= 8000 or not body:match("^counted %d+%.+$") then bad = bad + 1 end
end
function done(summary, latency, requests)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("bad") end
  local e = summary.errors
  print(string.format("requests %d bad %d connect %d read %d write %d status %d timeout %d",
    summary.requests, sum, e.connect, e.read, e.write, e.status, e.timeout))
end
"#;

pub fn nginx_python_and_redis_in_three_containers_serve_wrk() {
    let Some(image) = image::or_skip("containers") else { return };
    let web = format!(
        r#"cat >/tmp/nginx.conf <<'END'
user www-data; worker_processes 2; pid /tmp/nginx.pid; error_log /dev/null; daemon off;
events {{ worker_connections 512; }}
http {{
  access_log off;
  upstream app {{ server 127.0.0.1:8000; keepalive 4; }}
  server {{ listen {} backlog=512; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off; }} }}
}}
END
exec nginx -e /dev/null -c /tmp/nginx.conf"#,
        image::PORT
    );
    let app = format!("exec setpriv --reuid www-data --regid www-data --clear-groups python3 -c '{APP}'");
    let containers = [("store", STORE), ("app", app.as_str()), ("web", web.as_str())];
    let server = Server::of_containers(&image, "128MiB", &containers);
    let lua = server.file("check.lua", CHECK);
    let url = format!("http://{}:{}/", server.address(), image::PORT);
    let connections = AT_ONCE.to_string();
    let served = AtomicU64::new(0);
    let passes = load::beside_three_migrations(&server, || {
        let args = ["-t", "2", "-c", &connections, "-d", "3s", "--timeout", "30s", "-s", &lua, &url];
        let out = server.run("wrk", &args);
        let told = out.lines().find(|line| line.starts_with("requests ")).unwrap_or_else(|| panic!("{out}"));
        let (requests, errors) = told["requests ".len()..].split_once(' ').expect("numbers");
        assert_eq!(errors, "bad 0 connect 0 read 0 write 0 status 0 timeout 0", "{out}");
        served.fetch_add(requests.parse::<u64>().expect("a number"), Ordering::SeqCst);
    });
    // By the store itself, which only the workload reaches.
    let node = server.bed.node("b");
    let counted = node.sh("runc exec app.store redis-cli get counter");
    let (counted, served) = (counted.trim().parse::<u64>().expect("a number"), served.into_inner());
    // wrk does not wait for its last answers.
    assert!(
        (served..=served + passes * AT_ONCE).contains(&counted),
        "{served} answers, {counted} counted, {passes} passes"
    );
}
