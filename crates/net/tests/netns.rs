//! A namespace's life: made, entered, tuned, opened again, listed, gone.

mod support;

use std::net::UdpSocket;

use godwit_net::{NetError, Netlink, Netns};
use support::{can_run, name, netns};

#[test]
fn created_owned_and_gone_on_drop() {
    if !can_run() {
        return;
    }
    let name = name("life");
    let ns = Netns::create(&name).unwrap();
    assert_eq!(ns.path().to_str().unwrap(), format!("/run/netns/{name}"));
    assert!(matches!(Netns::create(&name), Err(NetError::NetnsExists { .. })));
    let again = Netns::open(&name).unwrap();
    assert_eq!(again.inode().unwrap(), ns.inode().unwrap());
    drop(again);
    assert_eq!(Netns::list(&name).unwrap(), [name.as_str()], "a mere handle must not delete");
    drop(ns);
    assert!(Netns::list(&name).unwrap().is_empty());
    assert!(matches!(Netns::open(&name), Err(NetError::NoNetns { .. })));
}

#[test]
fn ip_netns_sees_it_too() {
    if !can_run() {
        return;
    }
    let ns = netns("iproute");
    let Ok(out) = std::process::Command::new("ip").args(["-n", ns.name(), "-br", "link"]).output() else {
        eprintln!("SKIPPED: ip_netns_sees_it_too: no ip(8)");
        return;
    };
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("lo"), "{out:?}");
}

#[test]
fn sockets_made_inside_stay_inside() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = here.local_addr().unwrap().port();
    // The same port is free in each namespace, so each has its own loopback, and it is up.
    let inside = a.enter(|| UdpSocket::bind(("127.0.0.1", port)).unwrap()).unwrap();
    let other = b.enter(|| UdpSocket::bind(("127.0.0.1", port)).unwrap()).unwrap();
    let sender = a.enter(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    sender.send_to(b"hello", ("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 8];
    inside.set_read_timeout(Some(support::PATIENCE)).unwrap();
    assert_eq!(inside.recv(&mut buffer).unwrap(), 5);
    other.set_nonblocking(true).unwrap();
    assert!(other.recv(&mut buffer).is_err());
}

#[test]
fn sysctls_are_the_namespaces_own() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let before = b.sysctl("net.ipv4.ip_forward").unwrap();
    a.set_sysctl("net.ipv4.ip_forward", if before == "0" { "1" } else { "0" }).unwrap();
    assert_ne!(a.sysctl("net.ipv4.ip_forward").unwrap(), before);
    assert_eq!(b.sysctl("net.ipv4.ip_forward").unwrap(), before);
    let e = a.set_sysctl("net.ipv4.no_such_thing", "1").unwrap_err();
    assert!(e.to_string().contains(a.name()) && e.to_string().contains("no_such_thing"), "{e}");
}

#[test]
fn what_a_killed_run_left_is_found_and_removed() {
    if !can_run() {
        return;
    }
    let prefix = name("left");
    let names = [format!("{prefix}-1"), format!("{prefix}-2")];
    Netns::create(&names[0]).unwrap().leave();
    // Killed between the file and the mount.
    std::fs::write(format!("/run/netns/{}", names[1]), "").unwrap();
    assert_eq!(Netns::list(&prefix).unwrap(), names);
    for name in &names {
        Netns::remove(name).unwrap();
    }
    assert!(Netns::list(&prefix).unwrap().is_empty());
    Netns::remove(&names[0]).unwrap();
}

#[test]
fn a_panic_inside_comes_out() {
    if !can_run() {
        return;
    }
    let ns = netns("panic");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ns.enter(|| panic!("inside"))));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    if !can_run() {
        return;
    }
    std::thread::scope(|scope| {
        for i in 0..8 {
            scope.spawn(move || {
                let ns = netns(&format!("many{i}"));
                assert_eq!(Netlink::open(&ns).unwrap().list_links().unwrap()[0].name, "lo");
                ns.delete().unwrap();
            });
        }
    });
}
