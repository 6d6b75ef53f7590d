//! A newer connection with the id of an older one, which may be a published client's.

use super::*;

#[test]
fn a_superseded_connection_is_sent_nothing() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let older = world.connected_apart("app", "same");
    world.subscribe(older, "app", "news");
    for id in ["answered late", "never answered"] {
        world.send_apart(older, &message("app", "request", "work", id, &json!(1)));
    }
    let task = world.take(worker).remove(0);

    let newer = world.connected("app", "same");
    world.send(newer, &message("app", "publish", "news", "p", &json!("for subscribers")));
    world.answer(worker, &task, &json!("late"));
    world.pass(Duration::from_secs(31));
    let all = Message::new(crate::MessageType::Notification, "app", "all", crate::Json::null());
    assert_eq!(world.broker.context().broadcast_to_application("app", &all).unwrap(), 2);
    assert!(!world.broker.context().send_to_connection(older, &all).unwrap());
    world.act();
    world.hang_up(newer);
    assert!(world.take(older).is_empty(), "anything would wake the client's old thread");
    assert!(world.closed.iter().all(|closed| *closed == newer));

    world.send_apart(older, &message("app", "publish", "news", "p", &json!("not by me")));
    world.expect_error(older, "taken_over", Value::Null);
    world.pass(limits::LINGER);
    assert_eq!(world.closed, [newer, older]);
    assert_eq!(world.broker.core.connections.superseded(), 0);
    assert_eq!(world.broker.core.counters.publications, 1, "what it said is not carried out");
}

/// Bytes that are not even a message are answered the same.
#[test]
fn a_superseded_connection_is_told_whatever_it_says() {
    let limits = Limits { frame_bytes_max: 4_096, ..Limits::default() };
    let mut world = World::new(limits);
    let too_long = 4_097_u32.to_be_bytes();
    for bytes in [&framed(&json!("no message"))[..], &[0, 0, 0, 1, b'{'], &[0; 4], &too_long] {
        let older = world.connected_apart("app", "same");
        let newer = world.connected("app", "same");
        world.deliver(older, bytes);
        world.expect_error(older, "taken_over", Value::Null);
        assert_eq!(world.broker.core.connections.superseded(), 0);
        world.hang_up(newer);
    }
}

#[test]
fn who_writes_in_one_piece_is_told_at_once() {
    let mut world = World::new(Limits::default());
    let older = world.connected("app", "same");
    world.connected("app", "same");
    world.expect_error(older, "taken_over", Value::Null);
    world.pass(limits::LINGER);
    assert_eq!(world.closed, [older]);
}

#[test]
fn a_superseded_connection_keeps_its_idle_timeout() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut world = World::new(limits);
    let older = world.connected_apart("app", "same");
    world.pass(Duration::from_secs(30));
    let newer = world.connected_apart("app", "same");
    world.pass(Duration::from_secs(30));
    let heartbeat = message("app", "notification", "system", "h", &json!(null));
    world.send_apart(newer, &heartbeat);
    world.pass(Duration::from_secs(59));
    assert_eq!(world.closed, [older]);
    assert!(world.take(older).is_empty());
    assert_eq!(world.broker.core.connections.superseded(), 0);
    world.send_apart(newer, &heartbeat);
    assert!(world.broker.wants_read(newer));
}

#[test]
fn a_full_server_gives_the_place_of_a_superseded_connection_away() {
    let mut world = World::new(Limits { connections_max: 4, ..Limits::default() });
    let mut same = Vec::new();
    for _ in 0..3 {
        same.push(world.connected_apart("app", "same"));
        world.pass(Duration::from_secs(1));
    }
    let bystander = world.connected("app", "bystander");
    assert_eq!(world.broker.core.connections.superseded(), 2);
    let newcomer = world.connected("app", "newcomer");
    assert_eq!(world.broker.core.connections.superseded(), 1, "the first one had to go");
    let other = world.connected("app", "other");
    assert_eq!(world.broker.core.connections.superseded(), 0);
    assert_eq!(world.shut, [same[0], same[1]], "the end follows what the kernel has for them");
    assert!(world.closed.is_empty(), "they are read on, so that nothing is reset");
    assert!(world.broker.wants_read(same[0]));
    world.send_apart(same[0], &message("app", "publish", "news", "p", &json!("too late")));
    world.pass(limits::LINGER);
    assert_eq!(world.closed, [same[0], same[1]]);
    assert!(world.take(same[0]).is_empty() && world.take(same[1]).is_empty());
    assert_eq!(world.broker.core.counters.publications, 0);

    let refused = world.accept();
    world.act();
    world.expect_error(refused, "server_full", Value::Null);
    for key in [same[2], bystander, newcomer, other] {
        assert!(world.broker.wants_read(key), "nobody else is closed for it");
    }
}

/// A superseded connection may be closed without a word to make room, so a connection that is
/// still owed answers does not become one, whether the broker holds them or the transport does.
#[test]
fn a_client_that_is_owed_answers_is_told_behind_them_and_keeps_its_place() {
    for transport_holds in [false, true] {
        let mut world = World::new(Limits { connections_max: 2, ..Limits::default() });
        let older = world.connected_apart("app", "same");
        world.stalled.push(older);
        world.send_apart(
            older,
            &message("app", "request", "system", "p", &json!({"action": "ping"})),
        );
        if transport_holds {
            world.holding.push(older);
            world.relieve(older);
        }
        let newer = world.connected_apart("app", "same");

        let refused = world.accept();
        world.act();
        world.expect_error(refused, "server_full", Value::Null);
        assert!(world.closed.is_empty(), "nobody is closed to make room: {transport_holds}");
        // The peer has half-closed, and the server reads that only now.
        world.broker.hang_up(older, HangUp::EndOfStream);
        world.act();
        world.holding.clear();
        world.relieve(older);
        let sent = world.take(older);
        assert_eq!(sent[0]["payload"], json!({"status": "pong"}));
        assert_eq!(sent[1]["payload"]["code"], "taken_over");
        world.pass(limits::LINGER);
        assert!(world.closed.contains(&older) && !world.closed.contains(&newer));

        // The newer one belongs to the same program, which splits its writes.
        world.connected_apart("app", "same");
        assert!(world.take(newer).is_empty());
        assert_eq!(world.broker.core.connections.superseded(), 1);
    }
}

/// Several newcomers may come in one turn, before anything that is closed has its end.
#[test]
fn each_newcomer_of_a_turn_takes_one_place() {
    let mut world = World::new(Limits { connections_max: 4, ..Limits::default() });
    for _ in 0..4 {
        world.connected_apart("app", "same");
    }
    let newcomers: Vec<_> = (0..4).map(|_| world.accept()).collect();
    world.act();
    assert_eq!((world.shut.len(), world.broker.core.connections.superseded()), (4, 0));
    world.expect_error(newcomers[3], "server_full", Value::Null);
    assert_eq!(world.broker.core.connections.refused(), 4);
    world.pass(limits::LINGER);
    assert_eq!((world.closed.len(), world.broker.core.connections.refused()), (4, 0));
}

/// There is a bound on the connections that have given their place up and are read on.
#[test]
fn no_more_than_so_many_superseded_connections_end_in_good_order() {
    const MANY: usize = 2 * REFUSALS_MAX;
    let mut world = World::new(Limits { connections_max: MANY, ..Limits::default() });
    for _ in 0..MANY {
        world.connected_apart("app", "same");
    }
    for at in 1..MANY {
        world.connected("app", &format!("newcomer {at}"));
    }
    assert_eq!((world.shut.len(), world.closed.len()), (REFUSALS_MAX, MANY - 1 - REFUSALS_MAX));
    assert_eq!(world.broker.core.connections.refused(), REFUSALS_MAX);
    world.pass(limits::LINGER);
    assert_eq!(world.broker.core.connections.len(), MANY);
    assert_eq!(world.broker.core.connections.refused(), 0);
}

#[test]
fn a_loop_of_take_overs_grows_nothing() {
    const ROUNDS: usize = 1_000;
    let mut world = World::new(Limits::default());
    let keys: Vec<_> = (0..ROUNDS).map(|_| world.connected_apart("app", "same")).collect();
    let core = &world.broker.core;
    assert_eq!((core.connections.len(), core.connections.superseded()), (ROUNDS, ROUNDS - 1));
    assert_eq!(core.stats().total_connections, 1);
    assert_eq!(core.pool.gauge().bytes(), 0);
    assert_eq!(core.timers.next_deadline(), None, "no timer is left of any of them");

    for (at, key) in keys.into_iter().enumerate() {
        match at % 3 {
            0 => world.hang_up(key),
            1 => world.send_apart(key, &message("app", "publish", "c", "p", &json!(0))),
            // Leaves at the end, as the others had.
            _ => {
                world.broker.hang_up(key, HangUp::EndOfStream);
                world.act();
            }
        }
    }
    world.pass(limits::LINGER);
    let core = &world.broker.core;
    assert_eq!(
        (core.connections.len(), core.connections.superseded(), core.connections.refused()),
        (0, 0, 0)
    );
    assert_eq!((core.router.applications.len(), core.router.channels.len()), (0, 0));
    assert_eq!(core.pool.gauge().bytes(), 0);
    assert_eq!(core.timers.next_deadline(), None);
}

#[test]
fn a_drain_closes_superseded_connections_too() {
    let mut world = World::new(Limits::default());
    for _ in 0..3 {
        world.connected_apart("app", "same");
    }
    world.broker.begin_drain();
    world.act();
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
    assert_eq!(world.broker.core.connections.superseded(), 0);
}

/// A reload sets their timers, too: they are told nothing, so that nothing else would end them.
#[test]
fn a_superseded_connection_gets_the_idle_timeout_of_a_reload() {
    let limits = |timeout| Limits { idle_timeout: timeout, ..Limits::default() };
    for (before, after) in [(None, Some(10)), (Some(100), Some(10)), (Some(10), None)] {
        let [before, after] = [before, after].map(|seconds| seconds.map(Duration::from_secs));
        let mut world = World::new(limits(before));
        let older = world.connected_apart("app", "same");
        world.connected_apart("app", "same");
        assert_eq!(world.broker.core.connections.superseded(), 1);
        flow::reload::reconfigure(&mut world.broker.core, limits(after), Access::default());
        world.pass(Duration::from_secs(9));
        assert!(world.closed.is_empty(), "{before:?} {after:?}");
        world.pass(Duration::from_secs(1));
        assert_eq!(world.closed.contains(&older), after.is_some(), "{before:?} {after:?}");
    }
}
