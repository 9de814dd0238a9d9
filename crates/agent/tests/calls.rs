//! Who may call an agent, and what a caller is told who may not, or whom nobody answers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use godwit_agent::ca::{Authority, Files, Role};
use godwit_agent::{Address, AgentClient, AgentConfig, CallError, Listen, serve};
use godwit_model::NodeName;

const PATIENCE: Duration = Duration::from_secs(30);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// An agent of edge1 in this process; it ends with it.
fn agent(listen: Listen, state: &Path) {
    let config = AgentConfig {
        node: node("edge1"),
        listen,
        data: Ipv4Addr::LOCALHOST.into(),
        data_identity: None,
        state: state.into(),
        memory: None,
        node_init: None,
        lease_s: 600,
        cgroups: Vec::new(),
    };
    thread::spawn(move || {
        serve(config).map(|never| match never {}).unwrap_or_else(|e: godwit_agent::ServeError| panic!("{e}"))
    });
}

fn on_unix(dir: &Path) -> PathBuf {
    let socket = dir.join("agent.sock");
    agent(Listen::Unix(socket.clone()), dir);
    socket
}

fn client(name: &str, address: Address) -> AgentClient {
    AgentClient::new(node(name), address).unwrap()
}

#[test]
fn it_says_who_it_is_and_that_nothing_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let socket = on_unix(dir.path());
    let edge1 = client("edge1", Address::Unix(socket));
    let info = edge1.wait_until_there(PATIENCE).unwrap();
    assert_eq!((info.protocol, info.pid), (1, std::process::id().cast_signed()));
    assert_eq!(edge1.status(PATIENCE).unwrap(), []);
}

#[test]
fn another_node_s_agent_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = on_unix(dir.path());
    client("edge1", Address::Unix(socket.clone())).wait_until_there(PATIENCE).unwrap();
    let error = client("edge2", Address::Unix(socket)).hello().unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.to_string(), "this is the agent of edge1, not of edge2");
}

#[test]
fn only_its_owner_may_open_the_socket() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let socket = on_unix(dir.path());
    client("edge1", Address::Unix(socket.clone())).wait_until_there(PATIENCE).unwrap();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_node_that_is_not_there_differs_from_an_agent_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = client("edge1", Address::Unix(dir.path().join("none"))).hello().unwrap_err();
    assert!(matches!(nowhere, CallError::Unreachable { no_socket: true, .. }), "{nowhere}");
    let left = dir.path().join("left.sock");
    drop(UnixListener::bind(&left).unwrap());
    let killed = client("edge1", Address::Unix(left)).hello().unwrap_err();
    assert!(matches!(killed, CallError::Unreachable { no_socket: false, .. }), "{killed}");
    assert!(killed.to_string().starts_with("the agent of edge1 cannot be reached: "), "{killed}");
}

/// An address at which nobody listens yet.
fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn on_tcp(authority: &Authority, dir: &Path) -> SocketAddr {
    let (address, identity) = (free(), dir.join("identity"));
    authority.issue("edge1", Role::Agent).unwrap().write(&identity).unwrap();
    agent(Listen::Tcp { address, identity }, dir);
    address
}

fn over_tls(name: &str, address: SocketAddr, identity: Files) -> AgentClient {
    client(name, Address::Tcp { address, identity })
}

#[test]
fn over_tcp_a_controller_of_the_same_authority_may_call() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test").unwrap();
    let address = on_tcp(&authority, dir.path());
    let controller = authority.issue("controller", Role::Controller).unwrap();
    let edge1 = over_tls("edge1", address, controller);
    edge1.wait_until_there(PATIENCE).unwrap();
    assert_eq!(edge1.status(PATIENCE).unwrap(), []);
}

#[test]
fn over_tcp_others_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test").unwrap();
    let address = on_tcp(&authority, dir.path());
    let controller = authority.issue("controller", Role::Controller).unwrap();
    over_tls("edge1", address, controller.clone()).wait_until_there(PATIENCE).unwrap();

    let stranger = Authority::new("strange").unwrap().issue("controller", Role::Controller).unwrap();
    let pretender = Files { authority: controller.authority.clone(), ..stranger.clone() };
    let other_agent = authority.issue("edge2", Role::Agent).unwrap();
    let not_taken = "take this controller's certificate";
    let not_good = "the agent's certificate is not one of";
    for (name, identity, why) in [
        ("edge1", stranger, not_good),
        ("edge1", pretender, not_taken),
        ("edge1", other_agent, not_taken),
        ("edge2", controller, not_good),
    ] {
        let error = over_tls(name, address, identity).hello().unwrap_err();
        assert!(error.to_string().contains(why), "not \"{why}\": {error}");
    }
}
