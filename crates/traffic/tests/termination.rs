//! SIGTERM and SIGINT end the service in good order, with status 0: what a container runtime and ^C do. Without arguments
//! of its own this is the test; with [`CHILD`] set it is the service.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use godwit_traffic::{Service, ServiceConfig, termination};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CHILD: &str = "GODWIT_TEST_TERMINATION_CHILD";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        serve();
    } else if std::env::args().any(|arg| arg == "--list") {
        println!("a_signal_ends_the_service: test");
    } else {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            a_signal_ends_the_service(signal);
        }
        println!("test a_signal_ends_the_service ... ok");
    }
}

fn serve() {
    let stop = termination().unwrap();
    let service = Service::bind(ServiceConfig::new("127.0.0.1:0".parse().unwrap())).unwrap();
    println!("{}", service.local_addr());
    let report = service.run(stop).unwrap();
    println!("connections {}", report.connections);
}

fn a_signal_ends_the_service(signal: Signal) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut addr = String::new();
    stdout.read_line(&mut addr).unwrap();
    let mut stream = TcpStream::connect(addr.trim_end()).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("connections "), "{signal}: {rest}");
    assert!(child.wait().unwrap().success(), "{signal}");
    let closed = stream.read(&mut [0; 1]);
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}
