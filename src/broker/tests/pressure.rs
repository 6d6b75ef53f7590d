//! Backpressure: senders wait for a slow reader, take turns, and none is forgotten.

use super::*;

#[test]
fn a_publisher_waits_for_a_slow_subscriber_and_goes_on_in_order() {
    let limits = Limits { queue_high_water_bytes: 4_000, ..Limits::default() };
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    let healthy = world.connected("app", "healthy");
    for key in [slow, healthy] {
        world.send(key, &message("app", "subscribe", "feed", "s", &json!({})));
    }
    let publisher = world.connected("app", "publisher");
    world.stalled.push(slow);
    let text = "x".repeat(1_000);
    let burst: Vec<u8> = (0..20)
        .flat_map(|at| framed(&message("app", "publish", "feed", "p", &json!([at, text]))))
        .collect();
    world.deliver(publisher, &burst);
    let first = world.take(healthy);
    assert!(first.len() < 20, "the publisher is held back");
    assert!(!world.broker.wants_read(publisher));
    assert!(world.broker.core.connections.get(slow).unwrap().send.len() < 6_000);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.closed, [slow]);
    assert_eq!(world.broker.core.counters.slow_consumers, 1);
    let all: Vec<Value> = first.into_iter().chain(world.take(healthy)).collect();
    let order: Vec<u64> = all.iter().map(|m| m["payload"][0].as_u64().unwrap()).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
    assert!(world.broker.wants_read(publisher));
    assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
}

/// A stalled subscriber of `feed` whose queue one publication overfills, and publishers
/// that have published one each, of which all but the first are held back.
fn crowd(publishers: usize) -> (World, ConnectionKey, Vec<ConnectionKey>) {
    let mut world = small_queues();
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    let publishers: Vec<_> =
        (0..publishers).map(|at| world.connected("app", &format!("{at}"))).collect();
    for (at, publisher) in publishers.iter().enumerate() {
        world.send(*publisher, &publication(at, 0));
    }
    assert!(world.connection(publishers[0]).may_proceed());
    assert!(publishers[1..].iter().all(|key| world.is_parked(*key)));
    (world, slow, publishers)
}

const HIGH_WATER_BYTES: usize = 4_000;

/// Returns a broker whose queues are over their high-water mark with one publication.
fn small_queues() -> World {
    World::new(Limits { queue_high_water_bytes: HIGH_WATER_BYTES, ..Limits::default() })
}

/// Returns a publication that overfills a queue.
fn publication(publisher: usize, number: usize) -> Value {
    let text = "x".repeat(HIGH_WATER_BYTES);
    message("app", "publish", "feed", "p", &json!([publisher, number, text]))
}

/// Returns a request that does the same.
fn request(requester: usize) -> Value {
    let mut request = publication(requester, 0);
    request["message_type"] = json!("request");
    request
}

/// Returns the publisher and the number of each publication that a subscriber was sent.
fn origins(messages: &[Value]) -> Vec<(usize, usize)> {
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    messages.iter().map(|m| (number(&m["payload"][0]), number(&m["payload"][1]))).collect()
}

#[test]
fn publishers_that_were_held_back_go_on_one_at_a_time() {
    const PUBLISHERS: usize = 10;
    let (mut world, slow, publishers) = crowd(PUBLISHERS);
    for at in 0..PUBLISHERS {
        world.relieve(slow);
        world.act();
        assert_eq!(origins(&world.take(slow)), [(at, 0)], "in the order in which they came");
        let waiting = publishers.iter().filter(|key| world.is_parked(**key));
        assert_eq!(waiting.count(), (PUBLISHERS - 1).saturating_sub(at + 1));
    }
    assert_eq!(world.broker.core.counters.publishers_held, PUBLISHERS as u64 - 1);
    assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
}

/// A reader that keeps up with a steady sender may never have read everything.
#[test]
fn a_queue_that_is_down_to_half_its_mark_holds_nobody_back() {
    let (mut world, slow, publishers) = crowd(2);
    let read_down_to = |world: &mut World, left: usize| {
        let bytes = world.broker.queued_bytes(slow) - left;
        let read = |_: &_| Ok::<_, Infallible>(Written { bytes, holds: false });
        let Ok(flushed) = world.broker.flush(slow, read);
        assert_eq!(flushed.unsent_bytes, left);
        world.act();
    };
    let grace = Limits::default().slow_consumer_grace;
    world.pass(grace.mul_f64(0.9));
    read_down_to(&mut world, HIGH_WATER_BYTES / 2 + 1);
    assert!(world.is_parked(publishers[1]));
    read_down_to(&mut world, HIGH_WATER_BYTES / 2);
    assert!(!world.is_parked(publishers[1]));
    // What it gets now has a grace of its own.
    assert!(world.broker.queued_bytes(slow) > HIGH_WATER_BYTES);
    world.pass(grace.mul_f64(0.9));
    assert!(world.closed.is_empty());
    world.pass(grace.mul_f64(0.1));
    assert_eq!(world.closed, [slow]);
}

/// Many publications of each: a publisher with more to say gets no more turns than the others.
#[test]
fn publishers_that_were_held_back_take_turns() {
    const PUBLISHERS: usize = 10;
    const PUBLICATIONS: usize = 20;
    let mut world = small_queues();
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    for at in 0..PUBLISHERS {
        let publisher = world.connected("app", &format!("{at}"));
        let burst: Vec<u8> =
            (0..PUBLICATIONS).flat_map(|number| framed(&publication(at, number))).collect();
        world.deliver(publisher, &burst);
    }
    let mut delivered = Vec::new();
    for _ in 0..PUBLISHERS * PUBLICATIONS {
        world.relieve(slow);
        world.act();
        delivered.extend(origins(&world.take(slow)));
    }
    // The very first found the queue empty and did not have to wait.
    for round in delivered[1..].chunks_exact(PUBLISHERS) {
        let mut publishers: Vec<usize> = round.iter().map(|(publisher, _)| *publisher).collect();
        publishers.sort_unstable();
        assert_eq!(publishers, (0..PUBLISHERS).collect::<Vec<_>>(), "{delivered:?}");
    }
    for at in 0..PUBLISHERS {
        let own = delivered.iter().filter(|(publisher, _)| *publisher == at);
        let numbers: Vec<usize> = own.map(|(_, number)| *number).collect();
        assert_eq!(numbers, (0..PUBLICATIONS).collect::<Vec<_>>());
    }
    // Each is held back once for each publication but its last; twice for want of a turn.
    let held = world.broker.core.counters.publishers_held as usize;
    assert!(held <= 3 * PUBLISHERS * PUBLICATIONS, "{held}");
    assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
}

#[test]
fn the_last_subscriber_leaves_and_all_publishers_go_on() {
    for closed_by_grace in [false, true] {
        let (mut world, slow, publishers) = crowd(10);
        if closed_by_grace {
            world.pass(Limits::default().slow_consumer_grace);
        } else {
            world.hang_up(slow);
        }
        assert_eq!(world.closed, [slow]);
        assert!(publishers.iter().all(|key| world.broker.wants_read(*key)));
        let counters = &world.broker.core.counters;
        assert_eq!((counters.publications, counters.publications_unheard), (10, 9));
        assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
        for publisher in publishers {
            world.hang_up(publisher);
        }
        assert_eq!(world.broker.core.router.channels.len(), 0);
        assert_eq!(world.broker.next_deadline(), None);
    }
}

/// A slow reader processes nothing, so that only the process can end its subscription.
#[test]
fn a_slow_subscriber_is_unsubscribed_and_all_publishers_go_on() {
    for is_channel_removed in [false, true] {
        let (mut world, slow, publishers) = crowd(10);
        let mut context = world.broker.context();
        if is_channel_removed {
            assert!(context.remove_channel("app", "feed"));
        } else {
            assert!(context.unsubscribe(slow, "feed"));
        }
        world.act();
        assert!(publishers.iter().all(|key| world.broker.wants_read(*key)));
        let counters = &world.broker.core.counters;
        assert_eq!((counters.publications, counters.publications_unheard), (10, 9));
        world.relieve(slow);
        world.act();
        assert_eq!(origins(&world.take(slow)), [(0, 0)]);
        for key in publishers.into_iter().chain([slow]) {
            world.hang_up(key);
        }
        assert_eq!(world.broker.core.router.channels.len(), 0);
    }
}

#[test]
fn who_is_let_go_on_and_leaves_passes_its_turn_on() {
    for how in [HangUp::Reset, HangUp::EndOfStream] {
        let (mut world, slow, publishers) = crowd(4);
        world.relieve(slow);
        // Before it could use its turn, and so does the next one.
        world.broker.hang_up(publishers[1], how);
        world.broker.hang_up(publishers[2], how);
        world.act();
        assert_eq!(origins(&world.take(slow)), [(0, 0)]);
        world.relieve(slow);
        world.act();
        assert_eq!(origins(&world.take(slow)), [(3, 0)]);
        assert!(world.broker.wants_read(publishers[3]));
    }
}

#[test]
fn who_waits_and_leaves_is_not_waited_for() {
    let (mut world, slow, publishers) = crowd(4);
    world.hang_up(publishers[2]);
    for at in [0, 1, 3] {
        world.relieve(slow);
        world.act();
        assert_eq!(origins(&world.take(slow)), [(at, 0)]);
    }
}

#[test]
fn requesters_that_were_held_back_take_turns_too() {
    const REQUESTERS: usize = 10;
    let mut world = small_queues();
    let worker = world.worker("feed");
    world.stalled.push(worker);
    let requesters: Vec<_> =
        (0..REQUESTERS).map(|at| world.connected("app", &format!("{at}"))).collect();
    for (at, requester) in requesters.iter().enumerate() {
        world.send(*requester, &request(at));
    }
    assert_eq!(world.broker.core.requests.len(), 1);
    world.relieve(worker);
    // The next two leave, one of them with its turn in hand.
    world.broker.hang_up(requesters[1], HangUp::Reset);
    world.hang_up(requesters[2]);
    assert_eq!(origins(&world.take(worker)), [(0, 0)]);
    for at in 3..REQUESTERS {
        world.relieve(worker);
        world.act();
        assert_eq!(origins(&world.take(worker)), [(at, 0)], "in the order in which they came");
    }
    let held = world.broker.core.counters.publishers_held as usize;
    assert!(held <= 2 * REQUESTERS, "{held}");
    assert_eq!(world.broker.core.requests.len(), REQUESTERS - 2);
}

#[test]
fn the_last_worker_leaves_and_all_requesters_are_told() {
    let mut world = small_queues();
    let worker = world.worker("feed");
    world.stalled.push(worker);
    let requesters: Vec<_> = (0..5).map(|at| world.connected("app", &format!("{at}"))).collect();
    for (at, requester) in requesters.iter().enumerate() {
        world.send(*requester, &request(at));
    }
    world.hang_up(worker);
    world.expect_error(requesters[0], "worker_lost", "p");
    for requester in &requesters[1..] {
        world.expect_error(*requester, "no_handler", "p");
    }
}

#[test]
fn a_slow_subscriber_holds_no_requests_back() {
    const REQUESTERS: usize = 4;
    let (mut world, slow, publishers) = crowd(2);
    let worker = world.worker("feed");
    world.stalled.push(worker);
    for at in 0..REQUESTERS {
        let requester = world.connected("app", &format!("asks {at}"));
        world.send(requester, &request(at));
    }
    for at in 0..REQUESTERS {
        world.relieve(worker);
        world.act();
        assert_eq!(origins(&world.take(worker)), [(at, 0)]);
    }
    assert!(world.is_parked(publishers[1]), "who publishes still waits");
    world.pass(Limits::default().slow_consumer_grace);
    assert_eq!(world.closed, [slow]);
    assert!(world.broker.wants_read(publishers[1]));
}

#[test]
fn a_held_back_connection_that_is_superseded_is_read_again() {
    let (mut world, _slow, publishers) = crowd(2);
    let held = publishers[1];
    world.broker.core.connections.get_mut(held).unwrap().splits_writes = true;
    let newer = world.accept();
    let connect = json!({"action": "connect", "connection_id": "1"});
    let connect = framed(&message("app", "request", "system", "c", &connect));
    world.broker.receive(newer, &connect);
    let actions: Vec<Action> = std::iter::from_fn(|| world.broker.next_action()).collect();
    assert!(matches!(world.connection(held).state(), State::Superseded));
    // Its socket was not read meanwhile, and may have come to its end.
    assert!(actions.contains(&Action::Resume(held)), "{actions:?}");
    assert!(world.broker.wants_read(held));
}

/// Nobody can hold the process itself back, so there the bound is a hard one.
#[test]
fn who_is_behind_with_what_the_process_publishes_is_closed_once() {
    let limits = Limits {
        queue_high_water_bytes: HIGH_WATER_BYTES,
        frame_bytes_max: HIGH_WATER_BYTES,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let [slow, healthy] = ["slow", "healthy"].map(|id| world.connected("app", id));
    for key in [slow, healthy] {
        world.subscribe(key, "app", "feed");
    }
    world.stalled.push(slow);
    let text = "x".repeat(HIGH_WATER_BYTES / 2);
    let reached: Vec<usize> = (0..6)
        .map(|_| {
            let reached = world.broker.context().publish("app", "feed", &text).unwrap();
            // The healthy one reads in between; the slow one is not closed before the end.
            world.relieve(healthy);
            reached
        })
        .collect();
    assert_eq!(reached, [2, 2, 2, 1, 1, 1]);
    assert_eq!(world.broker.core.counters.slow_consumers, 1, "it is counted once");
    world.pass(Duration::ZERO);
    assert_eq!(world.closed, [slow]);
    assert_eq!(world.take(healthy).len(), 6);
    assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
}

#[test]
fn who_waited_for_a_slow_reader_goes_on_before_it_does() {
    let (mut world, slow, publishers) = crowd(2);
    world.relieve(slow);
    let actions = std::iter::from_fn(|| world.broker.next_action());
    let resumed: Vec<_> = actions.filter(|action| matches!(action, Action::Resume(_))).collect();
    // The other way round its own requests could fill its queue anew in every turn.
    assert_eq!(resumed, [Action::Resume(publishers[1]), Action::Resume(slow)]);
}

/// A handler may close the sender of a message and pass the message on all the same.
#[test]
fn a_message_whose_sender_was_closed_waits_for_nobody() {
    let mut world = small_queues();
    let worker = world.worker("work");
    world.subscribe(worker, "app", "feed");
    world.stalled.push(worker);
    let text = "x".repeat(HIGH_WATER_BYTES);
    assert_eq!(world.broker.context().publish("app", "feed", &text).unwrap(), 1);
    world.broker.fallback().on_request(|mut request| {
        let from = request.from();
        request.context().close_connection(from);
        Ok(request.pass_on())
    });
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    for key in [asks, worker] {
        world.hang_up(key);
    }
    assert_eq!(world.broker.core.counters.publishers_held, 0);
    assert_eq!(world.broker.core.router.channels.len(), 0, "nobody keeps the channel");
}

/// Neither a slow reader nor one that is being closed can read what a stopped server does not send.
#[test]
fn a_server_that_was_stopped_gives_slow_readers_their_grace_anew() {
    let limits = Limits { queue_high_water_bytes: 4_000, ..Limits::default() };
    let grace = limits.slow_consumer_grace;
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    let closing = world.connected("app", "closing");
    let publisher = world.connected("app", "publisher");
    world.stalled.extend([slow, closing]);
    for key in [slow, closing] {
        world.subscribe(key, "app", "news");
    }
    let text = json!("x".repeat(4_000));
    world.send(publisher, &message("app", "publish", "news", "p", &text));
    assert!(world.connection(slow).congested.is_some());
    world.broker.context().close_connection(closing);
    world.act();
    world.pass(grace * 10);
    assert!(world.closed.is_empty(), "the server was away");
    world.pass(grace / 2);
    assert!(world.closed.is_empty());
    world.pass(grace / 2);
    assert_eq!(world.closed.len(), 2, "they did not read");
}

#[test]
fn a_new_worker_lets_all_who_wait_for_one_go_on() {
    const REQUESTERS: usize = 4;
    let limits = Limits { queue_high_water_bytes: HIGH_WATER_BYTES, ..Limits::default() };
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    world.serve(slow, "app", "feed");
    world.stalled.push(slow);
    for at in 0..REQUESTERS {
        let requester = world.connected("app", &format!("{at}"));
        let mut request = publication(at, 0);
        request["message_type"] = json!("request");
        world.send(requester, &request);
    }
    let another = world.connected("app", "another");
    let serve = json!({"action": "serve", "channel": "feed"});
    world.send(another, &message("app", "request", "system", "s", &serve));
    let mut messages = world.take(another);
    messages.retain(|message| message["message_type"] == "request");
    let mut origins = origins(&messages);
    origins.sort_unstable();
    assert_eq!(origins, [(1, 0), (2, 0), (3, 0)]);
    assert_eq!(world.broker.core.requests.len(), REQUESTERS);
}

#[test]
fn a_slow_reader_that_subscribes_holds_back_the_publishers_of_that_channel_as_well() {
    let (mut world, slow, _) = crowd(2);
    assert!(world.connection(slow).congested.is_some());
    assert!(world.broker.context().subscribe(slow, "other"));
    world.act();
    let publisher = world.connected("app", "other publisher");
    world.send(publisher, &message("app", "publish", "other", "p", &json!("held back")));
    assert!(world.is_parked(publisher));
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    assert!(!world.is_parked(publisher));
    let got = payloads(&world.take(slow));
    assert_eq!(got.iter().filter(|payload| **payload == json!("held back")).count(), 1);
}
