//! What the kernel tells of a namespace's sockets.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use godwit_net::{Netns, PacketHold, RouteTo, SockDiag};
use support::star::{SERVICES, ip, world};
use support::{PATIENCE, can_run, netns, until};

/// An address of each family of a namespace's own.
const LOOPBACK: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn listen(ns: &Netns, at: &str) -> TcpListener {
    ns.enter(|| TcpListener::bind(at).unwrap()).unwrap()
}

#[test]
fn a_connection_is_in_between_until_it_is_accepted_and_again_when_it_is_closed_unheard() {
    if !can_run() {
        return;
    }
    for service in SERVICES {
        let world = world(SERVICES.map(ip));
        let diag = SockDiag::open(&world.nodes[0]).unwrap();
        let listener = listen(&world.nodes[0], &std::net::SocketAddr::new(ip(service), 9000).to_string());
        assert_eq!(diag.in_between().unwrap(), 0);
        let connect = || TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
        let mut client = world.user.enter(connect).unwrap();
        until("the listener has it", || diag.in_between().unwrap() == 1);
        let (mut served, _) = listener.accept().unwrap();
        assert_eq!(diag.in_between().unwrap(), 0);
        served.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        // A client that does not hear that it is closed.
        let from = client.local_addr().unwrap().ip();
        let deaf = PacketHold::open(&world.gw, "deaf").unwrap();
        deaf.capture(from).unwrap();
        drop(served);
        assert_eq!(diag.in_between().unwrap(), 1);
        drop(client);
        deaf.release(from, &RouteTo::dev("user")).unwrap();
        until("the kernel has done with it", || diag.in_between().unwrap() == 0);
    }
}

#[test]
fn a_connection_is_in_between_while_it_is_half_made() {
    if !can_run() {
        return;
    }
    for service in SERVICES {
        let world = world(SERVICES.map(ip));
        let diag = SockDiag::open(&world.nodes[0]).unwrap();
        let listener = listen(&world.nodes[0], &std::net::SocketAddr::new(ip(service), 9000).to_string());
        let user = ip(if ip(service).is_ipv4() { "10.0.0.2" } else { "fd00::2" });
        let deaf = PacketHold::open(&world.gw, "deaf").unwrap();
        deaf.capture(user).unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::thread::scope(|scope| {
            let connects = scope.spawn(|| world.user.enter(|| TcpStream::connect_timeout(&at, PATIENCE)).unwrap());
            until("it is asked for", || diag.in_between().unwrap() == 1);
            deaf.release(user, &RouteTo::dev("user")).unwrap();
            connects.join().unwrap()
        });
        client.unwrap();
        listener.accept().unwrap();
        assert_eq!(diag.in_between().unwrap(), 0);
    }
}

#[test]
fn datagrams_are_unread_until_they_are_read() {
    if !can_run() {
        return;
    }
    let ns = netns("alone");
    let diag = SockDiag::open(&ns).unwrap();
    for at in LOOPBACK {
        let socket = ns.enter(|| UdpSocket::bind(at).unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(diag.has_udp(port).unwrap() && !diag.has_udp(port ^ 1).unwrap());
        assert_eq!(diag.unread_datagrams().unwrap(), 0);
        socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
        assert!(diag.unread_datagrams().unwrap() > 0);
        socket.recv(&mut [0; 5]).unwrap();
        assert_eq!(diag.unread_datagrams().unwrap(), 0);
    }
}
