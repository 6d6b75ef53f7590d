//! Bounds: more is refused in a sentence, and there is room again afterwards.

use super::*;
use crate::broker::limits::{EVICTIONS_MAX, HANDSHAKE_PARTS};
use crate::{Peer, User};

#[test]
fn an_unread_refusal_does_not_keep_a_place() {
    let mut world = World::new(Limits { connections_max: 1, ..Limits::default() });
    let first = world.accept();
    let refused: Vec<_> = (0..REFUSALS_MAX).map(|_| world.accept()).collect();
    assert_eq!(world.broker.accept(), None, "too many to be told");
    world.stalled.extend(&refused);
    world.act();
    world.hang_up(first);
    world.pass(Limits::default().slow_consumer_grace);
    assert_eq!(world.broker.core.connections.len(), 0);
    assert_eq!(world.broker.core.timers.next_deadline(), None);
}

#[test]
fn pending_requests_are_bounded_by_connection_and_in_all() {
    let limits = Limits { pending_max: 3, pending_per_connection_max: 2, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.worker("work");
    let [one, two] = ["one", "two"].map(|id| world.connected("app", id));
    let ask = |world: &mut World, from, id: &str| world.request(from, id, &json!(id));
    for id in ["1a", "1b"] {
        ask(&mut world, one, id);
        assert!(world.take(one).is_empty());
    }
    ask(&mut world, one, "1c");
    world.expect_error(one, "limit_exceeded", "1c");
    ask(&mut world, two, "2a");
    assert!(world.take(two).is_empty(), "there is room for others");
    ask(&mut world, two, "2b");
    world.expect_error(two, "limit_exceeded", "2b");
    let tasks = world.take(worker);
    assert_eq!(payloads(&tasks), ["1a", "1b", "2a"].map(|id| json!(id)));

    world.answer(worker, &tasks[0], &json!("done"));
    assert_eq!(world.take(one)[0]["reply_to"], "1a");
    ask(&mut world, two, "2c");
    assert!(world.take(two).is_empty(), "there is room again");
    ask(&mut world, one, "1d");
    world.expect_error(one, "limit_exceeded", "1d");
    world.hang_up(two);
    ask(&mut world, one, "1e");
    assert!(world.take(one).is_empty(), "who leaves makes room");
    world.pass(Duration::from_secs(30));
    assert_eq!(world.take(one).len(), 2, "two timeouts");
    for id in ["1f", "1g"] {
        ask(&mut world, one, id);
    }
    assert!(world.take(one).is_empty());
    assert_eq!(world.broker.core.requests.len(), 2);
}

#[test]
fn names_that_come_and_go_use_nothing_up() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "me");
    for at in 0..if cfg!(miri) { 100 } else { 10_000 } {
        let name = format!("room {at}");
        for kind in ["subscribe", "unsubscribe"] {
            world.send(key, &message("app", kind, &name, "id", &json!({"ack": true})));
        }
        let answers = world.take(key);
        assert_eq!(
            payloads(&answers),
            [json!({"status": "subscribed"}), json!({"status": "unsubscribed"})]
        );
    }
    assert_eq!(world.broker.core.router.channels.len(), 0);
    for at in 0..if cfg!(miri) { 100 } else { 1_000 } {
        let name = format!("service {at}");
        world.serve(key, "app", &name);
        let stop = json!({"action": "stop_serving", "channel": name});
        world.send(key, &message("app", "request", "system", "id", &stop));
        assert_eq!(world.take(key)[0]["payload"]["status"], "stopped");
    }
    assert_eq!(world.broker.core.router.channels.len(), 0);
}

#[test]
fn a_listing_over_the_frame_limit_is_refused_in_a_sentence() {
    let mut world = World::new(Limits { frame_bytes_max: 2_048, ..Limits::default() });
    let key = world.connected("app", "me");
    for at in 0..50 {
        world.subscribe(key, "app", &format!("channel {at}"));
    }
    for action in ["list_channels", "list_applications"] {
        let list = message("app", "request", "system", action, &json!({"action": action}));
        world.send(key, &list);
        if action == "list_channels" {
            world.expect_error(key, "limit_exceeded", action);
        } else {
            assert_eq!(world.take(key)[0]["payload"]["app"]["connections"], 1);
        }
    }
    assert!(world.closed.is_empty());
}

/// A worker is given another id than the requester's, which may be longer.
#[test]
fn a_request_that_fits_only_with_its_own_id_is_refused() {
    let request = |text: &str| message("app", "request", "work", "q", &json!(text));
    let frame_bytes_max = 1_024;
    let fits = frame_bytes_max - request("").to_string().len();
    let mut world = World::new(Limits { frame_bytes_max, ..Limits::default() });
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.send(asks, &request(&"x".repeat(fits)));
    world.expect_error(asks, "limit_exceeded", "q");
    assert_eq!(world.broker.core.requests.len(), 0);
    assert!(world.take(worker).is_empty());
    assert_eq!(world.broker.next_deadline(), None, "nothing of it is left");

    let longer_by = uuid::Uuid::nil().to_string().len() - "q".len();
    world.send(asks, &request(&"x".repeat(fits - longer_by - 20)));
    assert_eq!(world.take(worker).len(), 1);
    assert_eq!(world.broker.core.requests.len(), 1);
}

/// A worker is told that there is no `reply_to`, which takes more than to leave it out.
#[test]
fn a_notification_that_grows_over_the_limit_is_not_lost_in_silence() {
    let frame_bytes_max = 1_024;
    let notification = |text: &str| {
        let mut message = message("app", "notification", "work", "n", &json!(text));
        message.as_object_mut().unwrap().remove("reply_to");
        message
    };
    let fits = frame_bytes_max - notification("").to_string().len();
    let mut world = World::new(Limits { frame_bytes_max, ..Limits::default() });
    let worker = world.worker("work");
    let tells = world.connected("app", "tells");
    world.send(tells, &notification(&"x".repeat(fits)));
    world.expect_error(tells, "limit_exceeded", "n");
    assert!(world.take(worker).is_empty());
    world.send(tells, &notification(&"x".repeat(fits - r#","reply_to":null"#.len())));
    assert_eq!(world.take(worker).len(), 1);
    assert!(world.take(tells).is_empty());
}

#[test]
fn who_is_held_back_is_not_idle() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(60)),
        slow_consumer_grace: Duration::from_secs(600),
        queue_high_water_bytes: 4_000,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    let publisher = world.connected("app", "publisher");
    for _ in 0..2 {
        let text = json!("x".repeat(4_000));
        world.send(publisher, &message("app", "publish", "feed", "p", &text));
    }
    assert!(world.connection(slow).congested.is_some());
    assert!(world.is_parked(publisher));
    for _ in 0..20 {
        world.pass(Duration::from_secs(29));
    }
    assert!(world.closed.is_empty(), "neither could say anything");

    world.stalled.clear();
    world.relieve(slow);
    world.act();
    assert_eq!(world.take(slow).len(), 2);
    world.pass(Duration::from_secs(59));
    assert!(world.closed.is_empty(), "the time begins when they can");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.closed.len(), 2);
}

/// A peer that leaves and comes again does so within one turn of a busy server.
#[test]
fn a_place_is_free_in_the_turn_in_which_it_is_left() {
    let mut world = World::new(Limits { connections_max: 1, ..Limits::default() });
    let mut present = world.connected("app", "me");
    for _ in 0..3 {
        world.broker.hang_up(present, HangUp::EndOfStream);
        present = world.accept();
        let one_too_many = world.accept();
        world.act();
        assert!(world.take(present).is_empty(), "it is not refused");
        world.expect_error(one_too_many, "server_full", Value::Null);
        world.hang_up(one_too_many);
    }
    assert_eq!(world.broker.core.connections.len(), 1);
}

#[test]
fn strangers_make_room_for_newcomers_once_they_had_time_to_say_who_they_are() {
    let mut world = World::new(Limits { connections_max: 100, ..Limits::default() });
    let known = world.connected("app", "known");
    let strangers: Vec<_> = (1..100).map(|_| world.accept()).collect();
    let short = Limits::default().handshake_timeout / HANDSHAKE_PARTS;
    let nearly = short.saturating_sub(Duration::from_millis(1));
    world.pass(nearly);
    let too_soon = world.accept();
    world.act();
    world.expect_error(too_soon, "server_full", Value::Null);
    world.hang_up(too_soon);
    assert_eq!(world.closed, [too_soon]);

    // Sending bytes does not help; only completing the handshake does.
    world.deliver(strangers[0], &[0, 0]);
    let introduced = message(
        "app",
        "request",
        "system",
        "c",
        &json!({"action": "connect", "connection_id": "late"}),
    );
    world.send(strangers[1], &introduced);
    assert_eq!(world.take(strangers[1])[0]["payload"]["status"], "connected");
    world.pass(Duration::from_millis(1));
    for at in 0..100 {
        world.connected("app", &format!("newcomer {at}"));
        if at == 0 {
            let evicted: Vec<_> = [&strangers[..1], &strangers[2..=EVICTIONS_MAX]].concat();
            assert_eq!(world.closed[1..], evicted, "the oldest first, some at once");
        }
        if world.broker.core.connections.len() == 100 && world.closed.len() == 99 {
            break;
        }
    }
    assert_eq!(world.closed.len(), 99, "all who had not introduced themselves");
    assert_eq!(world.broker.core.counters.handshake_timeouts, 98, "and they are counted");
    assert!(!world.closed.contains(&known) && !world.closed.contains(&strangers[1]));
    let one_too_many = world.accept();
    world.act();
    world.expect_error(one_too_many, "server_full", Value::Null);
}

#[test]
fn another_idle_timeout_holds_for_those_who_are_there() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "me");
    let half_open = world.accept();
    let set = |world: &mut World, idle_timeout| {
        let limits = Limits { idle_timeout, ..Limits::default() };
        flow::reload::reconfigure(&mut world.broker.core, limits, Access::default());
    };
    let timeout = Duration::from_secs(60);
    set(&mut world, Some(timeout));
    world.pass(Duration::from_secs(59));
    assert_eq!(world.closed, [half_open], "the handshake has a time of its own");
    set(&mut world, None);
    world.pass(timeout * 10);
    assert_eq!(world.closed, [half_open]);
    set(&mut world, Some(timeout));
    world.pass(timeout);
    assert_eq!(world.closed, [half_open, key]);
    assert_eq!(world.broker.next_deadline(), None);
}

#[test]
fn so_many_are_told_that_their_user_is_not_admitted_and_the_others_are_closed() {
    let mut world = World::new(Limits::default());
    let access = Access { uids: vec![7], ..Access::default() };
    world.broker.reconfigure(Limits::default(), access);
    let of = |uid| Peer::Unix { user: Some(User { uid, gid: 7 }), pid: None };
    let turned_away: Vec<_> =
        (0..=REFUSALS_MAX).map(|_| world.broker.accept_from(of(8)).unwrap()).collect();
    world.act();
    assert_eq!(world.closed, turned_away[REFUSALS_MAX..]);
    world.expect_error(turned_away[0], "auth_failed", Value::Null);
    world.hang_up(turned_away[0]);
    let nobody = Peer::Unix { user: None, pid: None };
    let next = world.broker.accept_from(nobody).unwrap();
    world.act();
    world.expect_error(next, "auth_failed", Value::Null);
    for admitted in [of(7), Peer::Tcp(([127, 0, 0, 1], 1).into()), Peer::Unknown] {
        let key = world.broker.accept_from(admitted).unwrap();
        world.act();
        assert!(world.take(key).is_empty(), "{admitted:?}");
    }
}
