//! A service closes a connection and moves before the client has heard all of it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use godwit_net::{Hop, Netlink, OrphanPath, PacketHold, Rule, SockDiag};
use support::star::{SERVICES, World, ip, towards, world};
use support::{PATIENCE, can_run, until};

/// What a client gets that reads only after the service has sent much, closed, and moved.
fn read_after_the_move(world: &World, service: IpAddr, lead: bool) -> std::io::Result<usize> {
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let listen = |n: usize| world.nodes[n].enter(|| TcpListener::bind((service, 9000)).unwrap()).unwrap();
    let (old, new) = (listen(0), listen(1));
    let mut client =
        world.user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE).unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut server, _) = old.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    // Until neither the client's window nor the service's buffer takes any more: something is unsent then for certain.
    let (mut sent, mut refused) = (0, 0);
    while refused < 20 {
        match server.write(&[7; 1 << 16]) {
            Ok(n) => (sent, refused) = (sent + n, 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => panic!("{e}"),
        }
    }
    hold.capture(service).unwrap();
    drop(server);
    drop(old);
    let diag = SockDiag::open(&world.nodes[0]).unwrap();
    let flow = diag.orphans(service).unwrap();
    assert_eq!(flow.iter().map(|f| f.remote).collect::<Vec<_>>(), [client.local_addr().unwrap()]);
    let hops = || Ok(vec![Hop::new(&world.gw, towards(1, service))?]);
    let path = lead.then(|| OrphanPath::lead(&diag, service, hops).unwrap());
    hold.release(service, &towards(2, service)).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut got = 0;
    let read = loop {
        match client.read(&mut buffer) {
            Ok(0) => break Ok(got),
            Ok(n) => got += n,
            Err(e) => break Err(e),
        }
    };
    if let Some(path) = path {
        assert_eq!((read.as_ref().unwrap(), path.led()), (&sent, 1));
        // All else goes to the new place meanwhile.
        world.user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE).unwrap()).unwrap();
        new.accept().unwrap();
        drop(client);
        until("the old kernel has done with it", || path.is_over());
    }
    read
}

#[test]
fn a_closed_connection_is_ended_by_the_kernel_that_it_is_in() {
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    for service in services {
        read_after_the_move(&world, service, true).unwrap();
        let nl = Netlink::open(&world.gw).unwrap();
        nl.replace_route(&towards(1, service).route(service)).unwrap();
        for rule in [Rule::v4(40, 0), Rule::v6(40, 0)] {
            assert!(nl.del_rule(&rule).is_err(), "a rule is left: {rule}");
        }
    }
}

/// What would happen otherwise; without it the test above would show nothing.
#[test]
fn without_that_it_is_reset() {
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    for service in services {
        assert_eq!(read_after_the_move(&world, service, false).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn where_nothing_was_closed_nothing_is_led() {
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    let diag = SockDiag::open(&world.nodes[0]).unwrap();
    let path = OrphanPath::lead(&diag, services[0], || panic!("no way is needed")).unwrap();
    assert!(path.led() == 0 && path.is_over());
}
