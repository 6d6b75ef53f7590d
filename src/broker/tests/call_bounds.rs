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
            tasks.iter().for_each(|task| world.answer(worker, task, &json!(1)));
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
