//! Requests that somebody else answers: they end with their requester or their worker.

use super::*;
use crate::broker::limits::WORKER_STUCK_AFTER;

/// The default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_worker_that_leaves_hands_back_what_it_had() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    let gone = world.connected("app", "gone");
    for at in 0..5 {
        world.request(asks, &format!("q{at}"), &json!(at));
        world.request(gone, "q", &json!(at));
    }
    world.hang_up(gone);
    // Out of order, so that the worker's list is taken apart from the middle.
    let tasks = world.take(worker);
    for task in [&tasks[6], &tasks[0]] {
        // A second answer to the same request is ignored.
        for _ in 0..2 {
            world.answer(worker, task, &task["payload"]);
        }
    }
    world.hang_up(worker);
    let answers = world.take(asks);
    let mut ids: Vec<&str> = answers.iter().map(|a| a["reply_to"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["q0", "q1", "q2", "q3", "q4"], "each exactly once");
    let lost = answers.iter().filter(|a| a["payload"]["code"] == "worker_lost").count();
    assert_eq!(lost, 3);
    assert_eq!(world.broker.core.requests.len(), 0);
}

#[test]
fn a_worker_that_is_stuck_gets_nothing_until_it_answers() {
    let mut world = World::new(Limits::default());
    let [stuck, works] = ["stuck", "works"].map(|id| {
        let worker = world.connected("app", id);
        world.serve(worker, "app", "work");
        worker
    });
    let asks = world.connected("app", "asks");
    let ask = |world: &mut World, count: usize| {
        for at in 0..count {
            world.request(asks, &format!("q{at}"), &json!(at));
        }
        [stuck, works].map(|worker| world.take(worker))
    };
    let [tasks, _] = ask(&mut world, 2);
    world.pass(WORKER_STUCK_AFTER.mul_f64(0.98));
    // Both are in time, and have as many.
    let [more, others] = ask(&mut world, 2);
    assert_eq!([more.len(), others.len()], [1, 1]);
    world.answer(works, &others[0], &json!("done"));
    world.pass(Duration::from_millis(200));
    // It has fewer in flight at the end, and still gets none.
    let [none, all] = ask(&mut world, 20);
    assert_eq!([none.len(), all.len()], [0, 20]);
    // All of its requests time out, which is no answer.
    world.pass(REQUEST_TIMEOUT);
    for task in &all {
        world.answer(works, task, &json!("done"));
    }
    world.take(asks);
    let [none, all] = ask(&mut world, 4);
    assert_eq!([none.len(), all.len()], [0, 4]);
    // An answer to a request that is over shows that it works again.
    world.answer(stuck, &tasks[0], &json!("late"));
    let [some, _] = ask(&mut world, 4);
    assert!(some.len() >= 3, "it has the fewest: {some:?}");
    // If all are stuck, they share what comes.
    world.pass(2 * WORKER_STUCK_AFTER);
    let [some, others] = ask(&mut world, 10);
    assert!(!some.is_empty() && !others.is_empty());
}

#[test]
fn a_worker_that_has_answered_everything_is_not_stuck() {
    let mut world = World::new(Limits::default());
    let [idle, busy] = ["idle", "busy"].map(|id| {
        let worker = world.connected("app", id);
        world.serve(worker, "app", "work");
        worker
    });
    let asks = world.connected("app", "asks");
    for at in 0..4 {
        world.request(asks, &format!("q{at}"), &json!(at));
    }
    let [done, open] = [idle, busy].map(|worker| world.take(worker));
    assert_eq!([done.len(), open.len()], [2, 2]);
    for task in &done {
        world.answer(idle, task, &json!("done"));
    }
    world.pass(2 * WORKER_STUCK_AFTER);
    // The other one works, too, and still has a request.
    world.answer(busy, &open[0], &json!("done"));
    world.request(asks, "next", &json!("next"));
    assert_eq!([idle, busy].map(|worker| world.take(worker).len()), [1, 0]);
}

#[test]
fn errors_of_workers_are_counted_by_their_codes() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    for code in ["handler_failed", "app:no_tea", "app:no_milk", "unknown"] {
        world.request(asks, "q", &json!(1));
        let task = world.take(worker).pop().unwrap();
        world.answer(worker, &task, &json!({"status": "error", "code": code, "error": "why"}));
    }
    let errors = &world.broker.core.counters.errors;
    assert_eq!((errors["handler_failed"], errors["app"], errors.len()), (1, 2, 2), "{errors:?}");
    // The server's own are not among those of workers.
    world.request(asks, "lost", &json!(1));
    world.hang_up(worker);
    world.expect_error(asks, "worker_lost", "lost");
    let counters = &world.broker.core.counters;
    assert_eq!((counters.errors["worker_lost"], counters.errors.len()), (1, 3));
    let of_workers = &counters.worker_errors;
    assert_eq!((of_workers["handler_failed"], of_workers["app"], of_workers.len()), (1, 2, 2));
}

/// Some languages keep ids as UUIDs, and write them in upper case.
#[test]
fn a_worker_may_write_the_id_of_a_request_in_upper_case() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    let task = world.take(worker).pop().unwrap();
    let id = task["message_id"].as_str().unwrap();
    let mut answer = message("app", "response", "work", "r", &json!("done"));
    for (reply_to, answers) in [(id.replace('-', ""), 0), (id.to_uppercase(), 1)] {
        answer["reply_to"] = reply_to.into();
        world.send(worker, &answer);
        assert_eq!(world.take(asks).len(), answers, "{answer}");
    }
}

/// JSON allows an escape for every character, and some encoders escape more than they have to.
#[test]
fn a_worker_may_write_the_id_of_a_request_with_escapes() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    let task = world.take(worker).pop().unwrap();
    let mut answer = message("app", "response", "work", "r", &json!("done"));
    answer["reply_to"] = task["message_id"].clone();
    let escaped = answer.to_string().replace('-', "\\u002d");
    world.deliver(worker, &framed_text(&escaped));
    let answers = world.take(asks);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((&answers[0]["reply_to"], &answers[0]["payload"]), (&json!("q"), &json!("done")));
}

/// Published clients write a blank behind each colon and comma. The ids of the two ends have
/// different lengths, so that a message may grow on its way.
#[test]
fn a_message_that_only_its_whitespace_makes_too_large_is_written_anew() {
    const BODY_BYTES_MAX: usize = 1_024;
    let spaced = |kind: &str, id: &str, reply_to: &str| {
        let before = format!(
            "{{\"message_id\": \"{id}\", \"app_id\": \"app\", \"channel_id\": \"work\", \
             \"message_type\": \"{kind}\", \"payload\": \""
        );
        let behind = format!("\", \"timestamp\": 0, \"reply_to\": {reply_to}}}");
        let pad = "x".repeat(BODY_BYTES_MAX - before.len() - behind.len());
        let body = [before, pad.clone(), behind].concat();
        ([&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat(), pad)
    };
    // One is shorter than the id that the worker sees, and one is longer.
    for id in ["i".repeat(30), "i".repeat(45)] {
        let limits = Limits { frame_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
        let mut world = World::new(limits);
        let worker = world.connected("app", "worker");
        world.serve(worker, "app", "work");
        let asks = world.connected("app", "asks");
        let (request, pad) = spaced("request", &id, "null");
        world.deliver(asks, &request);
        let tasks = world.take(worker);
        assert_eq!(payloads(&tasks), [json!(pad)]);
        let (answer, pad) = spaced("response", "r", &tasks[0]["message_id"].to_string());
        world.deliver(worker, &answer);
        let answers = world.take(asks);
        assert_eq!(payloads(&answers), [json!(pad)]);
        assert_eq!((&answers[0]["reply_to"], &answers[0]["message_id"]), (&json!(id), &json!("r")));
    }
}

#[test]
fn a_drain_waits_for_what_is_in_flight() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    let idle = world.connected("app", "idle");
    world.request(asks, "q", &json!(1));
    let task = world.take(worker).pop().unwrap();
    world.broker.begin_drain();
    world.act();
    assert_eq!(world.take(idle)[0]["payload"]["code"], "shutting_down");
    world.pass(limits::LINGER);
    assert_eq!(world.closed, [idle]);
    world.answer(worker, &task, &json!("done"));
    assert_eq!(world.take(asks).last().unwrap()["payload"], "done");
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

#[test]
fn a_drain_lets_nobody_in_who_came_before_it() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    world.take(worker);
    let late = world.accept();
    world.broker.begin_turn(world.now);
    world.broker.begin_drain();
    // It had arrived, and is processed.
    let connect = json!({"action": "connect", "connection_id": "late"});
    world.broker.receive(late, &framed(&message("app", "request", "system", "c", &connect)));
    world.act();
    world.expect_error(late, "shutting_down", "c");
}

/// It decides who is closed first when memory runs short.
#[test]
fn the_memory_of_a_long_id_is_given_back_however_its_request_ends() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    let id = "i".repeat(100);
    let held_bytes = |world: &World| world.connection(asks).session().unwrap().request_bytes;
    for end in ["answer", "timeout", "worker_lost"] {
        world.request(asks, &id, &json!(1));
        assert!(held_bytes(&world) >= id.len());
        let task = world.take(worker).remove(0);
        match end {
            "answer" => world.answer(worker, &task, &json!("done")),
            "timeout" => world.pass(REQUEST_TIMEOUT),
            _ => world.hang_up(worker),
        }
        assert_eq!(world.take(asks)[0]["reply_to"], id);
        assert_eq!(held_bytes(&world), 0, "{end}");
    }
}

#[test]
fn a_requester_that_leaves_takes_its_requests_along() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let stays = world.connected("app", "stays");
    let leaves = world.connected("app", "leaves");
    for at in 0..3 {
        for asks in [leaves, stays] {
            world.request(asks, &format!("q{at}"), &json!(at));
        }
    }
    let tasks = world.take(worker);
    world.hang_up(leaves);
    assert_eq!(world.broker.core.requests.len(), 3, "those of who stays");
    assert_eq!(world.broker.core.counters.answers_undeliverable, 3);
    let answer_all = |world: &mut World| {
        for task in &tasks {
            world.answer(worker, task, &task["payload"]);
        }
    };
    answer_all(&mut world);
    assert_eq!(world.broker.core.counters.responses_ignored, 3, "late answers");
    let answers = world.take(stays);
    assert_eq!(payloads(&answers), [0, 1, 2].map(|at| json!(at)));
    assert_eq!(world.broker.core.requests.len(), 0);

    // A request or connection in the place of an earlier one is not given its answer.
    let successor = world.connected("app", "leaves");
    world.request(successor, "q0", &json!("mine"));
    answer_all(&mut world);
    assert!(world.take(successor).is_empty());
    assert_eq!(world.broker.core.requests.len(), 1);
    world.hang_up(successor);
    assert_eq!(world.broker.core.requests.len(), 0);
    assert_eq!(world.broker.next_deadline(), None, "its timeout goes with it");
}

#[test]
fn a_drain_does_not_wait_for_who_has_left() {
    let mut world = World::new(Limits::default());
    world.worker("work");
    let leaves = world.connected("app", "leaves");
    world.request(leaves, "q", &json!(1));
    world.hang_up(leaves);
    world.broker.begin_drain();
    world.act();
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

#[test]
fn a_requester_that_leaves_during_the_drain_does_not_hold_it_up() {
    let mut world = World::new(Limits::default());
    world.worker("work");
    let leaves = world.connected("app", "leaves");
    world.request(leaves, "q", &json!(1));
    world.broker.begin_drain();
    world.act();
    world.pass(limits::LINGER);
    assert!(!world.broker.is_drained(), "one is in flight");
    world.hang_up(leaves);
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

/// A connection may ask for what it serves itself.
#[test]
fn who_serves_itself_leaves_nothing_behind() {
    let mut world = World::new(Limits::default());
    let both = world.connected("app", "both");
    world.serve(both, "app", "work");
    for at in 0..5 {
        world.request(both, &format!("q{at}"), &json!(at));
    }
    assert_eq!(world.take(both).len(), 5, "its own requests");
    world.hang_up(both);
    let core = &world.broker.core;
    assert_eq!((core.requests.len(), core.router.channels.len()), (0, 0));
    assert_eq!(world.broker.next_deadline(), None);
}

fn pings(count: usize) -> Vec<u8> {
    let ping = json!({"action": "ping"});
    framed(&message("app", "request", "system", "p", &ping)).repeat(count)
}

fn pongs(messages: &[Value]) -> usize {
    messages.iter().filter(|message| message["payload"]["status"] == "pong").count()
}

/// The share of this turn is used up, and the socket is empty.
#[test]
fn a_drain_answers_what_waits_for_the_next_turn() {
    const PINGS: usize = 2 * FRAMES_PER_TURN_MAX + 1;
    let mut world = World::new(Limits::default());
    let asks = world.connected("app", "asks");
    world.broker.begin_drain();
    world.broker.receive(asks, &pings(PINGS));
    world.broker.exhausted(asks);
    world.act();
    assert_eq!(pongs(&world.take(asks)), PINGS);
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

/// The queue was over its mark until this moment, and nothing has gone on yet.
#[test]
fn a_drain_answers_what_a_full_queue_has_held_back() {
    const PINGS: usize = 20;
    let mut world = World::new(Limits { queue_high_water_bytes: 500, ..Limits::default() });
    let asks = world.connected("app", "asks");
    world.stalled.push(asks);
    world.deliver(asks, &pings(PINGS));
    world.broker.begin_drain();
    let mut answered = 0;
    for _ in 0..PINGS {
        world.relieve(asks);
        world.broker.exhausted(asks);
        world.act();
        answered += pongs(&world.take(asks));
    }
    assert_eq!(answered, PINGS);
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

#[test]
fn equal_workers_take_turns() {
    let mut world = World::new(Limits::default());
    let workers = ["one", "two", "three"].map(|id| {
        let key = world.connected("app", id);
        world.serve(key, "app", "work");
        key
    });
    let asks = world.connected("app", "asks");
    let mut chosen = Vec::new();
    for at in 0..6 {
        world.send(asks, &message("app", "request", "work", "q", &json!(at)));
        for (number, worker) in workers.iter().enumerate() {
            for task in world.take(*worker) {
                chosen.push(number);
                let mut answer = message("app", "response", "work", "r", &json!("done"));
                answer["reply_to"] = task["message_id"].clone();
                world.send(*worker, &answer);
            }
        }
        assert_eq!(world.take(asks).len(), 1);
    }
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}
