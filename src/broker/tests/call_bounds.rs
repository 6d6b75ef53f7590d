//! What peers can do to the server and to each other with cancels, deadlines, credit and `meta`.

use super::*;
use crate::broker::limits::WORKER_STUCK_AFTER;

/// It was told to stop and has nothing to answer, so that its silence is no sign of anything.
#[test]
fn a_worker_that_obeyed_a_cancel_gets_requests_again() {
    let mut world = World::new(Limits::default());
    let [obeys, works] = ["obeys", "works"].map(|id| world.extended_worker(id));
    let asks = world.extended("asks");
    for meta in [json!({}), json!({"ttl": 1_000})] {
        world.call(asks, "q", &meta);
        let got = world.take(obeys);
        if got.is_empty() {
            // It was the other one's turn.
            let got = world.take_one(works);
            world.answer(works, &got, &json!(1));
            world.call(asks, "q", &meta);
            world.take_one(obeys);
        }
        world.cancel(asks, "q");
        world.pass(2 * WORKER_STUCK_AFTER);
        world.take(obeys);
        // The other one is busy, so that this one has fewer in flight.
        for at in 0..4 {
            world.call(asks, &format!("next{at}"), &json!({}));
        }
        let [mine, others] = [obeys, works].map(|worker| world.take(worker));
        assert!(!mine.is_empty(), "it is never asked again");
        for (worker, tasks) in [(obeys, &mine), (works, &others)] {
            for task in tasks {
                world.answer(worker, task, &json!(1));
            }
        }
        world.take(asks);
    }
    world.assert_empty(&[asks, obeys, works]);
}

#[test]
fn a_worker_that_hangs_is_tried_with_one_request_at_a_time() {
    let mut world = World::new(Limits::default());
    let [hangs, works] = ["hangs", "works"].map(|id| world.extended_worker(id));
    let asks = world.extended("asks");
    for at in 0..2 {
        world.call(asks, &format!("q{at}"), &json!({}));
    }
    let got = world.take_one(works);
    world.answer(works, &got, &json!(1));
    world.pass(Duration::from_secs(30));
    world.expect_error(asks, "timeout", "q0");
    world.take(hangs);
    for at in 0..6 {
        world.call(asks, &format!("next{at}"), &json!({}));
    }
    let counts = [hangs, works].map(|worker| world.take(worker).len());
    assert_eq!(counts, [1, 5]);
}

/// A worker may end its service and still have more requests than it is told of in one turn.
#[test]
fn a_worker_without_a_channel_is_told_all_that_it_is_owed() {
    const COUNT: usize = 3 * FRAMES_PER_TURN_MAX;
    let limits = Limits { queue_high_water_bytes: 128 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    for at in 0..COUNT {
        world.request(asks, &format!("q{at}"), &json!(1));
    }
    assert_eq!(world.take(worker).len(), COUNT);
    let stop = json!({"action": "stop_serving", "channel": "work"});
    world.send(worker, &message("app", "request", "system", "stop", &stop));
    world.take_one(worker);
    world.stalled.push(worker);
    world.subscribe(worker, "app", "news");
    world.send(asks, &message("app", "publish", "news", "p", &json!("x".repeat(129 << 10))));
    assert!(world.connection(worker).congested.is_some());
    for at in 0..COUNT {
        world.cancel(asks, &format!("q{at}"));
    }
    world.stalled.clear();
    world.relieve(worker);
    world.act();
    let told = world.take(worker);
    let told = told.iter().filter(|told| told["payload"]["action"] == "cancel").count();
    assert_eq!(told, COUNT);
    world.take(asks);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_cancel_of_many_requests_is_work() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.extended("asks");
    for _ in 0..1_000 {
        world.request(asks, "q", &json!(1));
    }
    let before = world.broker.core.turn.work_done();
    world.cancel(asks, "q");
    assert_eq!(world.take(asks).len(), 1_000);
    assert!(world.broker.core.turn.work_done() - before >= 1_000);
    world.assert_empty(&[worker, asks]);
}

/// Otherwise others would wait for whoever lets the server search.
#[test]
fn whatever_is_searched_or_sent_is_work() {
    const MANY: usize = 1_000;
    let limits = Limits { channels_per_connection_max: MANY, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let work_of = |world: &mut World, act: &mut dyn FnMut(&mut World)| {
        let before = world.broker.core.turn.work_done();
        act(world);
        (world.broker.core.turn.work_done() - before) as usize
    };
    world.call(asks, "a stream", &json!({"stream": 1}));
    for _ in 0..MANY {
        world.request(asks, "q", &json!(1));
    }
    let credit = json!({"action": "credit", "message_id": "q", "n": 1});
    let searched = work_of(&mut world, &mut |world| world.notify(asks, &credit));
    assert!(searched >= MANY / 16, "{searched} for a credit");

    let serve = json!({"action": "serve", "channel": "work", "concurrency": 2_000});
    let serve = message("app", "request", "system", "s", &serve);
    let counted = work_of(&mut world, &mut |world| world.send(worker, &serve));
    assert!(counted >= MANY / 4, "{counted} for a concurrency");

    let owner = world.connected("app", "owner");
    (0..MANY).for_each(|at| world.subscribe(owner, "app", &format!("channel {at}")));
    let reclaimed = work_of(&mut world, &mut |world| world.subscribe(owner, "app", "one more"));
    assert!(reclaimed >= MANY / 16, "{reclaimed} for a channel");
    world.expect_error(owner, "limit_exceeded", "s");

    for at in 0..MANY {
        let subscriber = world.connected("app", &format!("subscriber {at}"));
        world.subscribe(subscriber, "app", "channel 0");
    }
    let mut publication = message("app", "publish", "channel 0", "p", &json!(1));
    let plain = work_of(&mut world, &mut |world| world.send(asks, &publication));
    publication["meta"] = json!({"headers": {}});
    let with_meta = work_of(&mut world, &mut |world| world.send(asks, &publication));
    assert!(plain > MANY && with_meta >= plain, "{plain} and {with_meta} for a publication");
}

/// Who holds the most is closed when memory is short, and not somebody else.
#[test]
fn what_calls_take_counts_as_memory_of_their_connections() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let tables_bytes = world.broker.core.budget.tables_bytes;
    let held = |world: &World, key| flow::memory::held_bytes(world.connection(key));
    world.stalled.push(worker);
    let before = held(&world, asks);
    let id = "an id that is too long to be kept inside of its request";
    world.call(asks, id, &json!({"stream": 1}));
    world.call(asks, "b", &json!({"ttl": 5_000}));
    let added = world.broker.core.budget.tables_bytes - tables_bytes;
    assert!(held(&world, asks) - before >= added, "{added}");
    world.send(asks, &message("app", "request", "work", "large", &json!("x".repeat(8 << 10))));
    let (before, tables_bytes) = (held(&world, worker), world.broker.core.budget.tables_bytes);
    world.notify(asks, &json!({"action": "credit", "message_id": id, "n": 1}));
    let added = world.broker.core.budget.tables_bytes - tables_bytes;
    assert!(added > 0 && held(&world, worker) - before == added, "{added}");
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_meta_is_as_much_work_as_its_bytes_take() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let headers: serde_json::Map<String, Value> =
        (0..400).map(|at| (at.to_string(), json!(""))).collect();
    let before = world.broker.core.turn.work_done();
    world.call(asks, "q", &json!({"headers": headers}));
    assert_eq!(world.take_one(worker)["meta"]["headers"]["399"], "");
    assert!(world.broker.core.turn.work_done() - before >= 256);
}

/// It waits for the requester of its stream, which may never read.
#[test]
fn a_worker_whose_stream_waits_for_credit_is_not_stuck() {
    let mut world = World::new(Limits::default());
    let [streams, works] = ["streams", "works"].map(|id| world.extended_worker(id));
    let asks = world.extended("asks");
    for _ in 0..2 {
        world.call(asks, "q", &json!({"stream": 1}));
    }
    let [got, other] = [streams, works].map(|worker| world.take_one(worker));
    world.answer(works, &other, &json!("all"));
    world.part(streams, &got, &json!(0), &json!({"seq": 0}));
    for _ in 0..3 {
        world.pass(WORKER_STUCK_AFTER + Duration::from_secs(1));
        for _ in 0..4 {
            world.call(asks, "next", &json!({}));
        }
        let [mine, others] = [streams, works].map(|worker| world.take(worker));
        assert!((1..=2).contains(&mine.len()), "{} and {}", mine.len(), others.len());
        for (worker, tasks) in [(streams, &mine), (works, &others)] {
            for task in tasks {
                world.answer(worker, task, &json!(1));
            }
        }
    }
    // With credit it has something to answer again.
    world.notify(asks, &json!({"action": "credit", "message_id": "q", "n": 2}));
    world.pass(WORKER_STUCK_AFTER + Duration::from_secs(1));
    for _ in 0..4 {
        world.call(asks, "next", &json!({}));
    }
    assert_eq!(world.take(works).len(), 4);
    world.take(asks);
    world.assert_empty(&[asks, streams, works]);
}

/// Each of thousands of streams may be put off at another time.
#[test]
fn the_timeouts_of_streams_wait_for_their_own_time() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let timers = world.broker.core.timers.len();
    let got: Vec<Value> = (0..3)
        .map(|at| {
            world.call(asks, &format!("q{at}"), &json!({"stream": 9}));
            world.take_one(worker)
        })
        .collect();
    // The first one is the last one to be active.
    for at in [2, 1, 0] {
        world.pass(Duration::from_secs(5));
        world.part(worker, &got[at], &json!(1), &json!({"seq": 0}));
    }
    world.request(asks, "plain", &json!(1));
    world.take(worker);
    world.take(asks);
    world.pass(Duration::from_secs(15));
    // Only those wait in the order of their beginnings whose time was not put off.
    assert_eq!(world.broker.core.timers.len(), timers + 3);
    world.cancel(asks, "q1");
    assert_eq!(world.broker.core.timers.len(), timers + 2);
    world.take(asks);
    for (seconds, id) in [(5, "q2"), (10, "q0")] {
        world.pass(Duration::from_secs(seconds));
        let answers = world.take(asks);
        let answer = answers.iter().find(|answer| answer["reply_to"] == id).expect("its end");
        assert_eq!(answer["payload"]["code"], "timeout");
    }
    assert_eq!(world.broker.core.timers.len(), timers);
    world.assert_empty(&[worker, asks]);
}

/// A search among all workers of the channel for each of them would hold up all other connections.
#[test]
fn the_requests_of_a_lost_worker_are_given_again_over_several_turns() {
    const COUNT: usize = 3 * FRAMES_PER_TURN_MAX + 7;
    const NEXT_TURN: Duration = Duration::from_millis(1);
    let mut world = World::new(Limits::default());
    let lost = world.extended_worker("lost");
    let asks = world.extended("asks");
    let leaves = world.extended("leaves");
    let id = |at: usize| format!("q{at}");
    for at in 0..COUNT {
        world.call(asks, &id(at), &json!({"idempotent": true}));
    }
    world.call(leaves, "q", &json!({"idempotent": true}));
    world.call(asks, "late", &json!({"idempotent": true, "ttl": 1}));
    let others = ["a", "b", "c"].map(|id| world.extended_worker(id));
    let mut tasks = Vec::new();
    let mut turn = |world: &mut World| {
        let before = tasks.len();
        for other in others {
            tasks.extend(world.take(other).into_iter().map(|task| (other, task)));
        }
        tasks.len() - before
    };
    world.hang_up(lost);
    assert_eq!(turn(&mut world), FRAMES_PER_TURN_MAX);
    // In the same turn nothing more is done, although another worker is lost, and what ends meanwhile
    // is not given again.
    world.cancel(asks, &id(COUNT - 1));
    world.expect_error(asks, "cancelled", id(COUNT - 1));
    world.hang_up(leaves);
    let before = world.broker.core.turn.work_done();
    for _ in 0..2 {
        world.pass(NEXT_TURN);
        assert_eq!(turn(&mut world), FRAMES_PER_TURN_MAX);
    }
    world.expect_error(asks, "timeout", "late");
    let work = world.broker.core.turn.work_done() - before;
    assert!((2 * FRAMES_PER_TURN_MAX as u64..1_000).contains(&work), "{work}");
    world.pass(NEXT_TURN);
    assert_eq!(turn(&mut world), COUNT - 1 - 3 * FRAMES_PER_TURN_MAX);
    assert_eq!(world.broker.core.counters.retried, COUNT as u64 - 1);
    for (worker, task) in &tasks {
        world.answer(*worker, task, &json!("done"));
    }
    let mut answered: Vec<_> = world.take(asks).iter().map(|m| m["reply_to"].to_string()).collect();
    answered.sort_unstable();
    let mut asked: Vec<_> = (0..COUNT - 1).map(|at| json!(id(at)).to_string()).collect();
    asked.sort_unstable();
    assert_eq!(answered, asked);
    world.assert_empty(&[asks, others[0], others[1], others[2]]);
}

#[test]
fn a_search_among_many_workers_is_work() {
    const WORKERS: usize = 1_000;
    let mut world = World::new(Limits::default());
    let lost = world.extended_worker("lost");
    let asks = world.extended("asks");
    for at in 0..FRAMES_PER_TURN_MAX {
        world.call(asks, &format!("q{at}"), &json!({"idempotent": true}));
    }
    let others: Vec<_> = (0..WORKERS).map(|at| world.extended_worker(&at.to_string())).collect();
    let given = |world: &World| world.broker.core.counters.retried as usize;
    let mut turns = 0;
    world.hang_up(lost);
    while given(&world) < FRAMES_PER_TURN_MAX {
        let before = (given(&world), world.broker.core.turn.work_done());
        turns += 1;
        world.pass(Duration::from_micros(1));
        let work = world.broker.core.turn.work_done() - before.1;
        assert!(given(&world) > before.0 && work <= WORK_PER_TURN_MAX as u64 + 1_000, "{work}");
    }
    assert!((1..=3).contains(&turns), "{turns}");
    world.assert_empty(&[&others[..], &[asks]].concat());
}
