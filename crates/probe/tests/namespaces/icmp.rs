//! ICMP probes between real namespaces.

use std::time::Duration;

use crate::world::{NOBODY, USER_V4, USER_V6, World, config, until};
use godwit_model::Rtt;
use godwit_probe::{Means, Method, ProbeConfig, Smoothing};

#[test]
fn a_user_is_measured_over_ipv4_and_ipv6() {
    let Some(world) = World::new() else { return };
    let (prober, rx) = world.probe(ProbeConfig { method: Method::Icmp, ..config(&[USER_V4, USER_V6]) });
    for addr in [USER_V4, USER_V6] {
        let m = until(&rx, |m| m.user.as_str() == addr.replace(':', "-") && m.raw.is_some());
        assert_eq!(m.means, Means::Icmp);
        assert!(m.raw.unwrap() > Rtt::from_ms(0.0).unwrap() && m.smoothed.is_some());
    }
    prober.stop().unwrap();
    assert!(rx.iter().all(|m| m.raw.is_some()), "after the stop there is no more to come, and nothing was lost");
}

#[test]
fn loss_is_counted_and_the_figure_forgotten() {
    let Some(world) = World::new() else { return };
    let smoothing = Smoothing { window: 10, forget_after: 4, ..Smoothing::default() };
    let (_prober, rx) = world.probe(ProbeConfig { method: Method::Icmp, smoothing, ..config(&[USER_V4]) });
    until(&rx, |m| m.raw.is_some());
    world.user_ignores_echo(true);
    let some_lost = until(&rx, |m| m.raw.is_none());
    assert!(some_lost.loss > 0.0 && some_lost.smoothed.is_some());
    let all_lost = until(&rx, |m| m.loss == 1.0);
    assert_eq!((all_lost.smoothed, all_lost.jitter), (None, None));
    world.user_ignores_echo(false);
    until(&rx, |m| m.loss == 0.0 && m.smoothed.is_some());
}

#[test]
fn silent_users_delay_nobody() {
    let Some(world) = World::new() else { return };
    let timeout = Duration::from_secs(20);
    let config = config(&[NOBODY[0], USER_V4, NOBODY[1]]);
    let (_prober, rx) = world.probe(ProbeConfig { method: Method::Icmp, timeout, ..config });
    for m in rx.iter().take(50) {
        assert!(m.user.as_str() == USER_V4 && m.raw.is_some(), "{m:?} came before the silent ones' time was over");
    }
}

#[test]
fn a_queue_is_seen_as_distance_and_what_comes_after_the_timeout_as_late() {
    let Some(world) = World::new() else { return };
    world.slow_down();
    let (_prober, rx) = world.probe(ProbeConfig { method: Method::Icmp, ..config(&[USER_V4]) });
    until(&rx, |m| m.raw.is_some_and(|rtt| rtt.ms() > 100.0));
    assert!(until(&rx, |m| m.late > 0).loss > 0.0);
}
