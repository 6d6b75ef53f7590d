//! Bounds: more is refused in a sentence, and there is room again afterwards.

use super::*;
use crate::broker::limits::{HANDSHAKE_PARTS, WORKER_STUCK_AFTER};
use crate::token::Token;
use crate::{Peer, User, Verdict};

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

/// A listing is refused by the length of the names that it would have, which are gone by then.
#[test]
fn names_that_are_gone_take_no_room_in_a_listing() {
    let mut world = World::new(Limits { frame_bytes_max: 4 << 10, ..Limits::default() });
    let key = world.connected("app", "me");
    for at in 0..200 {
        let name = format!("{at:040}");
        for kind in ["subscribe", "unsubscribe"] {
            world.send(key, &message("app", kind, &name, "id", &json!({})));
        }
        let short = world.connected(&name, "me");
        world.hang_up(short);
    }
    world.subscribe(key, "app", "left");
    for action in ["list_channels", "list_applications"] {
        let list = message("app", "request", "system", "l", &json!({"action": action}));
        world.send(key, &list);
        let listed = &world.take(key)[0]["payload"];
        assert_eq!(listed["code"], Value::Null, "{listed}");
        assert_eq!(listed.as_object().unwrap().len(), 1, "{listed}");
    }
}

/// One token for all applications hides them from each other as well as a token of each does.
#[test]
fn applications_do_not_see_one_another_behind_a_token() {
    let token = || Token::new("secret");
    for access in [Access::default().token(token()), Access::default().application("own", token())]
    {
        let mut world = World::new(Limits::default());
        world.broker = Broker::new(Limits::default(), access, [7; 32], Now::default());
        let [own, _other] = ["own", "other"].map(|app_id| {
            let key = world.accept();
            let connect = json!({"action": "connect", "connection_id": "me", "token": "secret"});
            world.send(key, &message(app_id, "request", "system", "c", &connect));
            assert_eq!(world.take(key)[0]["payload"]["status"], "connected");
            key
        });
        let list = json!({"action": "list_channels", "app_id": "other"});
        world.send(own, &message("own", "request", "system", "l", &list));
        world.expect_error(own, "forbidden", "l");
        let list = json!({"action": "list_applications"});
        world.send(own, &message("own", "request", "system", "l", &list));
        let listed = &world.take(own)[0]["payload"];
        assert_eq!(listed.as_object().unwrap().keys().collect::<Vec<_>>(), ["own"]);
    }
}

#[test]
fn what_nobody_hears_or_serves_leaves_nothing_behind() {
    let limits = Limits { channels_per_connection_max: 4, channels_max: 8, ..Limits::default() };
    let mut world = World::new(limits);
    let gateway = world.connected("app", "gateway");
    for at in 0..20 {
        let user = format!("user.{at}");
        for kind in ["publish", "notification", "unsubscribe"] {
            world.send(gateway, &message("app", kind, &user, "id", &json!({})));
        }
        assert!(world.take(gateway).is_empty(), "nothing of it is an error");
        world.send(gateway, &message("app", "request", &user, "q", &json!(1)));
        world.expect_error(gateway, "no_handler", "q");
    }
    let core = &world.broker.core;
    assert_eq!((core.router.channels.len(), core.router.bytes), (0, one_application("app")));
    let counters = &core.counters;
    assert_eq!((counters.publications, counters.publications_unheard), (20, 20));
    assert_eq!(counters.notifications_unhandled, 20);
    for at in 0..4 {
        world.serve(gateway, "app", &format!("work.{at}"));
    }
}

/// The memory of an application without channels.
fn one_application(id: &str) -> usize {
    let mut world = World::new(Limits::default());
    world.broker.application(id, id);
    world.broker.core.router.bytes
}

#[test]
fn what_is_refused_leaves_no_channel_behind() {
    let limits = Limits {
        subscriptions_per_connection_max: 1,
        services_per_connection_max: 1,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    world.broker.filter(|delivery| match delivery.message().channel_id().raw() {
        "forbidden" => Err("nobody hears this".into()),
        "dropped" => Ok(Verdict::Drop),
        _ => Ok(Verdict::CarryOut),
    });
    let key = world.connected("app", "me");
    world.subscribe(key, "app", "news");
    world.serve(key, "app", "work");
    let subscribe = |channel| message("app", "subscribe", channel, "s", &json!({}));
    world.send(key, &subscribe("forbidden"));
    world.expect_error(key, "forbidden", "s");
    world.send(key, &subscribe("dropped"));
    world.send(key, &subscribe("one too many"));
    world.expect_error(key, "limit_exceeded", "s");
    world.send(key, &message("app", "subscribe", "another's", "s", &json!({"connection_id": "x"})));
    world.expect_error(key, "forbidden", "s");
    let serve = json!({"action": "serve", "channel": "more work"});
    world.send(key, &message("app", "request", "system", "s", &serve));
    world.expect_error(key, "limit_exceeded", "s");
    let channels = world.broker.context().list_channels("app");
    assert_eq!(channels.into_keys().collect::<Vec<_>>(), ["news", "work"]);
}

/// A fallback has channels for whatever it is asked, and their latencies.
#[test]
fn channels_that_nobody_uses_any_more_make_room_for_others() {
    const MAX: usize = 4;
    let limits = Limits { channels_per_connection_max: MAX, channels_max: 6, ..Limits::default() };
    let mut world = World::new(limits);
    let (sender, deferred) = std::sync::mpsc::channel();
    world.broker.fallback().on_request(move |request| {
        if request.message().channel_id().raw().starts_with("now") {
            return request.reply(&1);
        }
        let (reply, responder) = request.defer()?;
        sender.send(responder).unwrap();
        Ok(reply)
    });
    let [one, two] = ["one", "two"].map(|id| world.connected("app", id));
    let ask = |world: &mut World, from, channel: &str| {
        world.send(from, &message("app", "request", channel, "q", &json!(0)));
    };
    for at in 0..20 {
        ask(&mut world, one, &format!("now {at}"));
        assert_eq!(payloads(&world.take(one)), [json!(1)], "in round {at}");
    }
    assert!(world.broker.core.router.channels.len() <= MAX);
    for at in 0..MAX {
        ask(&mut world, one, &format!("later {at}"));
    }
    assert!(world.take(one).is_empty());
    ask(&mut world, one, "now or never");
    world.expect_error(one, "limit_exceeded", "q");
    deferred.recv().unwrap().reply(&2).unwrap();
    world.broker.run_mailbox();
    world.act();
    assert_eq!(payloads(&world.take(one)), [json!(2)]);
    ask(&mut world, one, "now or never");
    assert_eq!(payloads(&world.take(one)), [json!(1)]);

    // Nobody keeps channels from others that he does not use.
    for at in 0..20 {
        world.pass(Duration::from_millis(1));
        ask(&mut world, two, &format!("now {at}"));
        assert_eq!(payloads(&world.take(two)), [json!(1)], "in round {at}");
    }
    drop(deferred);
    world.broker.run_mailbox();
    world.act();
    world.take(one);
    for at in 0..6 {
        world.subscribe([one, two][at % 2], "app", &format!("news {at}"));
    }
    assert!(world.take(one).is_empty() && world.take(two).is_empty());
    assert_eq!(world.broker.core.router.channels.len(), 6);
}

#[test]
fn channels_that_nobody_uses_are_forgotten_before_memory_is_short() {
    let mut world = World::new(Limits { memory_bytes_max: 1 << 20, ..Limits::default() });
    world.broker.fallback().on_request(|request| request.reply(&1));
    let key = world.connected("app", "me");
    for at in 0..3_000 {
        world.pass(Duration::from_millis(1));
        world.send(key, &message("app", "request", &format!("{at}"), "q", &json!(0)));
        assert_eq!(payloads(&world.take(key)), [json!(1)], "in round {at}");
    }
    assert_eq!(world.broker.core.counters.memory_refusals, 0);
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
    world.hang_up(worker);
    world.hang_up(asks);
    assert_eq!(world.broker.core.router.channels.len(), 0, "nothing refers to it any more");
}

/// A worker that never got a request is not stuck, however much time passes.
#[test]
fn a_request_that_is_too_large_to_be_forwarded_does_not_make_its_worker_stuck() {
    let frame_bytes_max = 1_024;
    let request = |id: &str, text: &str| message("app", "request", "work", id, &json!(text));
    let fits = frame_bytes_max - request("q", "").to_string().len();
    let mut world = World::new(Limits { frame_bytes_max, ..Limits::default() });
    let workers = ["one", "two"].map(|id| {
        let worker = world.connected("app", id);
        world.serve(worker, "app", "work");
        worker
    });
    let asks = world.connected("app", "asks");
    world.send(asks, &request("q", &"x".repeat(fits)));
    world.expect_error(asks, "limit_exceeded", "q");
    world.pass(WORKER_STUCK_AFTER * 2);
    for id in ["a", "b", "c", "d"] {
        world.send(asks, &request(id, ""));
    }
    assert_eq!(workers.map(|worker| world.take(worker).len()), [2, 2]);
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

/// The largest frame is the largest body and its length prefix.
#[test]
fn a_queue_at_its_mark_takes_the_largest_frame() {
    const BODY_BYTES_MAX: usize = 2_048;
    let publication = |bytes| {
        let empty = message("app", "publish", "news", "p", &json!("")).to_string().len();
        framed(&message("app", "publish", "news", "p", &json!("x".repeat(bytes - empty))))
    };
    let first = publication(500);
    let limits = Limits {
        frame_bytes_max: BODY_BYTES_MAX,
        queue_high_water_bytes: first.len(),
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    world.stalled.push(slow);
    let publisher = world.connected("app", "publisher");
    for bytes in [first, publication(BODY_BYTES_MAX)] {
        world.deliver(publisher, &bytes);
    }
    assert!(world.closed.is_empty(), "it is over its mark by one frame");
    assert_eq!(world.broker.queued_bytes(slow), 504 + 4 + BODY_BYTES_MAX);
    world.relieve(slow);
    assert_eq!(world.take(slow).len(), 2);
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

    // The driver lets them go on in the next turn, and the time is looked at in this one.
    world.now.monotonic = world.broker.next_deadline().expect("that of their silence");
    world.broker.begin_turn(world.now);
    world.stalled.clear();
    world.relieve(slow);
    world.act_once();
    world.broker.advance();
    world.act();
    assert!(world.closed.is_empty(), "they are let go on");
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
        if at < 2 {
            let evicted = [strangers[0], strangers[2]];
            assert_eq!(world.closed[1..], evicted[..=at], "the oldest first, one for each");
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
        (0..REFUSALS_MAX).map(|_| world.broker.accept_from(of(8)).unwrap()).collect();
    assert_eq!(world.broker.accept_from(of(8)), None, "too many to be told");
    world.act();
    assert_eq!(world.broker.core.counters.errors["auth_failed"], 1 + REFUSALS_MAX as u64);
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

#[test]
fn nobody_makes_room_for_a_user_who_is_not_admitted() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let mut world = World::new(limits.clone());
    let access = Access { uids: vec![7], ..Access::default() };
    world.broker.reconfigure(limits, access);
    world.connected("app", "me");
    let stranger = world.accept();
    world.pass(Duration::from_secs(1));
    let of = |uid| Peer::Unix { user: Some(User { uid, gid: 7 }), pid: None };
    let turned_away = world.broker.accept_from(of(8)).unwrap();
    world.act();
    world.expect_error(turned_away, "auth_failed", Value::Null);
    assert!(world.closed.is_empty(), "the one that has not said who it is may stay");
    let admitted = world.broker.accept_from(of(7)).unwrap();
    world.act();
    assert_eq!(world.closed, [stranger]);
    assert!(world.take(admitted).is_empty());
}
