//! The end of the server, up to the last connection.

use super::*;

#[test]
fn a_drain_that_takes_too_long_closes_all_and_says_so() {
    let mut world = World::new(Limits::default());
    assert!(!world.broker.is_drained(), "it runs");
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    let idle = world.connected("app", "idle");
    let newcomer = world.accept();
    world.broker.begin_drain();
    world.act();
    world.pass(Limits::default().drain_timeout / 2);
    // Once more changes nothing, not even its end.
    world.broker.begin_drain();
    world.act();
    assert_eq!(world.take(idle).len(), 1, "the notice");
    assert!(!world.broker.is_drained());
    let rest = Limits::default().drain_timeout / 2;
    world.pass(rest.saturating_sub(Duration::from_millis(1)));
    assert_eq!(world.take(asks).len(), 1, "the notice alone");
    world
        .broker
        .begin_turn(Now { monotonic: world.now.monotonic + Duration::from_millis(1), ..world.now });
    world.broker.advance();
    assert!(world.broker.is_draining());
    assert!(!world.broker.is_drained(), "what is queued has one more flush");
    world.act();
    world.expect_error(asks, "timeout", "q");
    assert!(world.broker.is_drained());
    for key in [worker, asks] {
        assert!(!world.connection(key).is_live(), "{key:?} is closed");
        assert!(world.shut.contains(&key), "{key:?} has nothing more to come");
    }
    assert!(world.closed.contains(&newcomer) || world.shut.contains(&newcomer));
}

/// The last kept request ends for another reason than a worker's answer.
#[test]
fn workers_of_a_channel_are_closed_when_nothing_is_kept_for_it_any_more() {
    let mut world = World::new(Limits::default());
    let busy = world.limited("busy", 1);
    let other = world.limited("other", 1);
    let asks = world.extended("asks");
    let waits = world.extended("waits");
    for id in ["a", "b"] {
        world.request(asks, id, &json!(id));
    }
    world.call(waits, "kept", &json!({}));
    world.broker.begin_drain();
    world.act();
    let got = world.take(busy);
    let request = got.iter().find(|message| message["message_type"] == "request").unwrap().clone();
    world.hang_up(waits);
    // One has answered all, and nothing is kept for it.
    world.answer(busy, &request, &json!("done"));
    assert!(!world.connection(busy).is_live(), "it has nothing to do");
    assert!(world.connection(other).is_live(), "it has a request");
    let got = world.take(other);
    let request = got.iter().find(|message| message["message_type"] == "request").unwrap().clone();
    world.answer(other, &request, &json!("done"));
    assert!(!world.connection(other).is_live());
    assert!(!world.connection(asks).is_live(), "all of its requests are answered");
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}
