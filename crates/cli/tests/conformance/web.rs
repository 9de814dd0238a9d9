//! HTTP servers, under wrk.

use crate::image::{self, Server};
use crate::load;

/// What is served: long enough for several segments, and no two lines alike.
fn body() -> String {
    (0..2000).map(|n| format!("{n:08x}\n")).collect()
}

/// The same, made by the service's shell.
const MAKE_BODY: &str = r#"i=0; while [ $i -lt 2000 ]; do printf '%08x\n' $i; i=$((i+1)); done >/tmp/body"#;

/// Has wrk compare every body, and tell how many answers were not as they should be.
const SCRIPT: &str = r#"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) bad = 0; wanted = io.open("/mnt/body"):read("*a") end
function response(status, headers, body) if status ~= 200 or body ~= wanted then bad = bad + 1 end end
function done(summary, latency, requests)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("bad") end
  local e = summary.errors
  print(string.format("requests %d bad %d connect %d read %d write %d status %d timeout %d",
    summary.requests, sum, e.connect, e.read, e.write, e.status, e.timeout))
end
"#;

/// Moves it while wrk asks over connections that stay, and over a new one for every request.
fn serves_wrk(test: &str, memory: &str, start: &str) {
    let Some(image) = image::or_skip(test) else { return };
    let server = Server::start(&image, memory, &format!("{MAKE_BODY}\n{start}"));
    server.file("body", &body());
    let lua = server.file("check.lua", SCRIPT);
    let url = format!("http://{}:{}/body", server.address(), image::PORT);
    let wrk = |more: &[&str]| {
        let args = ["-t", "2", "-c", "16", "-d", "3s", "--timeout", "30s", "-s", &lua];
        let out = server.run("wrk", &[&args[..], more, &[&url]].concat());
        let told = out.lines().find(|line| line.starts_with("requests ")).unwrap_or_else(|| panic!("{out}"));
        let (requests, errors) = told["requests ".len()..].split_once(' ').expect("numbers");
        assert_eq!(errors, "bad 0 connect 0 read 0 write 0 status 0 timeout 0", "{out}");
        assert_ne!(requests, "0", "{out}");
    };
    load::beside_three_migrations(&server, || {
        std::thread::scope(|scope| {
            scope.spawn(|| wrk(&[]));
            scope.spawn(|| wrk(&["-H", "Connection: close"]));
        });
    });
}

pub fn nginx_serves_every_byte_to_wrk() {
    let start = format!(
        r#"cat >/tmp/nginx.conf <<END
user www-data; worker_processes 2; pid /tmp/nginx.pid; error_log /dev/null; daemon off;
events {{ worker_connections 512; }}
http {{ access_log off; server {{ listen {} backlog=512; root /tmp; location = /body {{ default_type text/plain; }} }} }}
END
exec nginx -e /dev/null -c /tmp/nginx.conf"#,
        image::PORT
    );
    serves_wrk("nginx", "32MiB", &start);
}

pub fn a_python_server_serves_wrk() {
    let program = format!(
        r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
text = open("/tmp/body", "rb").read()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if self.close_connection: self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
Server(("0.0.0.0", {}), Handler).serve_forever()
"#,
        image::PORT
    );
    let start = format!("exec setpriv --reuid www-data --regid www-data --clear-groups python3 -c '{program}'");
    serves_wrk("python", "64MiB", &start);
}

pub fn a_node_server_serves_wrk() {
    let program = format!(
        r#"const text = require("fs").readFileSync("/tmp/body");
require("http").createServer((ask, answer) => {{
  answer.writeHead(200, {{ "Content-Length": text.length }});
  answer.end(text);
}}).listen({}, "0.0.0.0");"#,
        image::PORT
    );
    let start = format!("exec setpriv --reuid www-data --regid www-data --clear-groups node -e '{program}'");
    serves_wrk("node", "256MiB", &start);
}
