//! TCP probes between real namespaces.

use std::net::TcpListener;
use std::time::Duration;

use crate::world::{NOBODY, USER_V4, USER_V6, World, config, until};
use godwit_probe::{Means, Method, ProbeConfig};

const PORT: u16 = 4477;

#[test]
fn an_open_and_a_closed_port_both_measure() {
    let Some(world) = World::new() else { return };
    let _listener = world.as_user(|| TcpListener::bind((USER_V4, PORT)).unwrap());
    let method = Method::Tcp { port: PORT };
    let (_prober, rx) = world.probe(ProbeConfig { method, ..config(&[USER_V4, USER_V6]) });
    for addr in [USER_V4, USER_V6] {
        let m = until(&rx, |m| m.user.as_str() == addr.replace(':', "-") && m.raw.is_some());
        assert!(m.means == Means::Tcp && m.raw.unwrap().ms() > 0.0, "{m:?}");
    }
}

#[test]
fn where_icmp_is_shut_tcp_measures_until_it_is_open_again() {
    let Some(world) = World::new() else { return };
    world.user_ignores_echo(true);
    let (_prober, rx) = world.probe(config(&[USER_V4, USER_V6]));
    let lost = until(&rx, |_| true);
    assert_eq!((lost.means, lost.raw, lost.loss), (Means::Icmp, None, 1.0));
    for addr in [USER_V4, USER_V6] {
        let of = addr.replace(':', "-");
        until(&rx, |m| m.user.as_str() == of && m.means == Means::Tcp && m.raw.is_some());
        until(&rx, |m| m.user.as_str() == of && m.loss == 0.0);
    }
    world.user_ignores_echo(false);
    for addr in [USER_V4, USER_V6] {
        until(&rx, |m| m.user.as_str() == addr.replace(':', "-") && m.means == Means::Icmp && m.raw.is_some());
    }
}

#[test]
fn silent_users_delay_nobody() {
    let Some(world) = World::new() else { return };
    let config = ProbeConfig {
        method: Method::Tcp { port: PORT },
        timeout: Duration::from_secs(20),
        interval: Duration::from_millis(5),
        ..config(&[NOBODY[0], USER_V4, NOBODY[1]])
    };
    let (_prober, rx) = world.probe(config);
    for m in rx.iter().take(30) {
        assert!(m.user.as_str() == USER_V4 && m.raw.is_some(), "{m:?} came before the silent ones' time was over");
    }
}

#[test]
fn a_user_who_answers_nothing_is_lost_by_both_means() {
    let Some(world) = World::new() else { return };
    let (_prober, rx) = world.probe(config(&[NOBODY[0]]));
    for means in [Means::Icmp, Means::Tcp, Means::Icmp] {
        assert_eq!(until(&rx, |m| m.means == means).raw, None);
    }
    assert_eq!(until(&rx, |m| m.smoothed.is_none()).loss, 1.0);
}
