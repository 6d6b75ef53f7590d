//! Servers that are killed, or that drain, while others use them.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::nats_server::NatsServer;
use super::{joined, next_heard, refused, until_heard, until_served};
use crate::cli::{Running, serve};
use crate::support::{Peer, TestServer, code, eventually, frames, until};

fn joined_program(nats: &NatsServer) -> Running {
    Running::start(serve(&["--port", "0", "--nats", &nats.url()]))
}

/// Sends a request with a `meta`, and returns its id.
fn call(asks: &mut Peer, channel: &str, payload: &Value, meta: &Value) -> String {
    let mut request = asks.message("request", channel, payload);
    request["meta"] = meta.clone();
    asks.send_message(&request);
    request["message_id"].as_str().unwrap().to_owned()
}

/// Answers its tasks until its server ends. Returns how many there were.
fn answering(worker: Peer) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let (mut reader, mut worker, mut tasks) = (worker.reader(), worker, 0);
        while let Ok(task) = reader.try_receive() {
            if task["message_type"] == "request" {
                let channel = task["channel_id"].as_str().unwrap();
                let mut answer = worker.message("response", channel, &task["payload"]);
                answer["reply_to"] = task["message_id"].clone();
                // The server may have been killed meanwhile.
                let _ = worker.stream.write_all(&frames([&answer]));
                tasks += 1;
            }
        }
        tasks
    })
}

/// Waits until `here` knows all channels that were served at the other server before this.
fn until_known(here: &TestServer, there: &Running, mark: &str) -> JoinHandle<usize> {
    let answers = answering(there.connected("app", mark).serving(mark));
    let mut asks = here.connected("app", mark);
    assert_eq!(until_served(&mut asks, mark, &json!(mark)), mark);
    answers
}

#[test]
fn a_stream_whose_server_is_killed_ends_once_as_a_lost_worker() {
    let nats = NatsServer::start();
    let here = joined(&nats);
    let there = joined_program(&nats);
    let mut worker = there.peer().called("app", "worker").asking_for(&["call"]).serving("tale");
    let _known = until_known(&here, &there, "known");
    let mut asks = here.peer().called("app", "asks").asking_for(&["call"]);
    // Streams cannot be asked for again, whatever their requester says.
    let meta = json!({"stream": 100, "idempotent": true});
    let id = call(&mut asks, "tale", &json!("begin"), &meta);
    let task = worker.receive_extended();
    for seq in 0..20 {
        let mut part = worker.message("response", "tale", &json!(seq));
        part["reply_to"] = task["message_id"].clone();
        part["meta"] = json!({"seq": seq});
        worker.send_message(&part);
    }
    for seq in 0..10 {
        assert_eq!(asks.receive_extended()["payload"], seq);
    }
    there.signal("KILL");
    for seq in 10.. {
        let next = asks.receive_extended();
        assert_eq!(next["reply_to"], id.as_str(), "{next}");
        if next["payload"] != seq {
            assert_eq!(code(&next), "worker_lost", "{next}");
            break;
        }
    }
    asks.fence();
    assert_eq!(refused(&mut asks, "tale"), "no_handler");
}

/// Two in a row are of a kind, and two equal workers get one each.
fn is_idempotent(number: usize) -> bool {
    !(number / 2).is_multiple_of(3)
}

/// Two servers have the same work. The one with the most of it is killed.
#[test]
fn idempotent_requests_of_a_killed_server_are_answered_by_another_one_and_the_rest_is_lost() {
    const REQUESTS: usize = 24;
    let nats = NatsServer::start();
    let here = joined(&nats);
    let mut servers = ["one", "other"].map(|name| {
        let server = joined_program(&nats);
        let worker = server.connected("app", "worker").serving("work");
        let known = until_known(&here, &server, name);
        (server, worker, known)
    });
    let mut asks = here.peer().called("app", "asks").asking_for(&["call"]);
    let ids: BTreeMap<String, usize> = (0..REQUESTS)
        .map(|number| {
            let meta = json!({"idempotent": is_idempotent(number)});
            (call(&mut asks, "work", &json!(number), &meta), number)
        })
        .collect();
    let mut tasks = [Vec::new(), Vec::new()];
    eventually("all tasks at workers", || {
        for (tasks, (_, worker, _)) in tasks.iter_mut().zip(&servers) {
            tasks.extend(super::within_a_moment(worker));
        }
        (tasks[0].len() + tasks[1].len() == REQUESTS).then_some(())
    });
    let killed = usize::from(tasks[1].len() > tasks[0].len());
    assert!(!tasks[1 - killed].is_empty(), "each server gets some: {tasks:?}");
    let mut expected: BTreeMap<usize, &str> = BTreeMap::new();
    for (at, tasks) in tasks.iter().enumerate() {
        for task in tasks {
            let number = task["payload"].as_u64().unwrap() as usize;
            let is_lost = at == killed && !is_idempotent(number);
            expected.insert(number, if is_lost { "worker_lost" } else { "done" });
        }
    }
    let given = tasks[killed].iter().map(|task| task["payload"].as_u64().unwrap() as usize);
    let mut moved: Vec<usize> = given.filter(|number| is_idempotent(*number)).collect();
    assert!(!moved.is_empty() && expected.values().any(|end| *end == "worker_lost"), "{tasks:?}");
    servers[killed].0.signal("KILL");
    let survivor = &mut servers[1 - killed].1;
    let mut came: Vec<Value> = (0..moved.len()).map(|_| survivor.receive()).collect();
    let mut numbers: Vec<usize> =
        came.iter().map(|task| task["payload"].as_u64().unwrap() as usize).collect();
    numbers.sort_unstable();
    moved.sort_unstable();
    assert_eq!(numbers, moved);
    came.append(&mut tasks[1 - killed]);
    for task in &came {
        survivor.answer(task, "done");
    }
    // Nothing comes to it twice.
    survivor.fence();
    let mut ends: BTreeMap<usize, String> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = asks.receive_extended();
        let number = ids[answer["reply_to"].as_str().unwrap()];
        let end = match answer["payload"].as_str() {
            Some(done) => done.to_owned(),
            None => code(&answer).to_owned(),
        };
        assert_eq!(ends.insert(number, end), None, "{number} is answered twice");
    }
    let expected = expected.into_iter().map(|(number, end)| (number, end.to_owned())).collect();
    assert_eq!(ends, expected);
    asks.fence();
}

#[test]
fn publications_around_the_death_of_a_server_are_not_doubled() {
    const MESSAGES: i64 = 2_000;
    let nats = NatsServer::start();
    let here = joined(&nats);
    let mut subscriber = here.connected("app", "subscriber").subscribed("of there");
    let mut publishes = here.connected("app", "publishes");
    let stays = joined_program(&nats);
    let mut stays_and_hears = stays.connected("app", "subscriber").subscribed("of here");
    until_heard(&mut publishes, "of here", &stays_and_hears);
    let mut last = -1;
    for round in 0..3 {
        let dies = joined_program(&nats);
        let dies_and_hears = dies.connected("app", "subscriber").subscribed("of here");
        let mut dying = dies.connected("app", "publishes");
        until_heard(&mut dying, "of there", &subscriber);
        until_heard(&mut publishes, "of here", &dies_and_hears);
        for number in 0..MESSAGES {
            dying.send("publish", "of there", json!(round * MESSAGES + number));
            publishes.send("publish", "of here", json!(round * MESSAGES + number));
            if number == MESSAGES / 2 {
                // Some of it is heard, and some is under way.
                while last < round * MESSAGES {
                    last = rising(&mut subscriber, last);
                }
                dies.signal("KILL");
                break;
            }
        }
        for number in MESSAGES / 2 + 1..MESSAGES {
            publishes.send("publish", "of here", json!(round * MESSAGES + number));
        }
        for number in 0..MESSAGES {
            assert_eq!(next_heard(&mut stays_and_hears), round * MESSAGES + number);
        }
    }
    let mut ends = stays.connected("app", "publishes");
    until_heard(&mut ends, "of there", &subscriber);
    ends.send("publish", "of there", json!(i64::MAX));
    while last < i64::MAX {
        last = rising(&mut subscriber, last);
    }
}

/// Returns the next number, which has to be above the last one.
fn rising(subscriber: &mut Peer, last: i64) -> i64 {
    let number = next_heard(subscriber).as_i64().unwrap();
    assert!(number > last, "{number} after {last}");
    number
}

#[test]
fn what_a_server_has_when_it_drains_is_answered() {
    const REQUESTS: usize = 50;
    let nats = NatsServer::start();
    let here = joined(&nats);
    let there = joined_program(&nats);
    let mut worker = there.connected("app", "worker").serving("work");
    let _known = until_known(&here, &there, "known");
    let mut asks = here.connected("app", "asks");
    let ids: Vec<String> =
        (0..REQUESTS).map(|number| asks.send("request", "work", json!(number))).collect();
    let tasks: Vec<Value> = ids.iter().map(|_| worker.receive()).collect();
    there.signal("TERM");
    // It is told first.
    assert_ne!(worker.receive()["message_type"], "request");
    let mut asks_later = here.connected("app", "asks later");
    eventually("a channel that nobody serves any more", || {
        let id = asks_later.send("request", "work", json!("late"));
        let answer = asks_later.receive();
        assert_eq!(answer["reply_to"], id.as_str(), "{answer}");
        // Until the others know, it may come to the server that drains, which refuses it.
        assert!(["no_handler", "shutting_down"].contains(&code(&answer)), "{answer}");
        (code(&answer) == "no_handler").then_some(())
    });
    // So large that the last ones are still on their way when the server has ended.
    let text = "x".repeat(50_000);
    for task in &tasks {
        worker.answer(task, json!([task["payload"], text]));
    }
    for (number, id) in ids.iter().enumerate() {
        asks.expect_answer(id, json!([number, text]));
    }
    asks.fence();
    there.end_well();
}

/// What is under way to a server when it begins to drain may be too late there, and is refused. No request is
/// answered twice, and no idempotent one is lost.
#[test]
fn requests_that_cross_the_drain_of_a_server_are_answered_once_each() {
    // Fewer than a client may have unanswered.
    const BEFORE: usize = 100;
    const REQUESTS: usize = 900;
    let nats = NatsServer::start();
    let here = joined(&nats);
    let servers = ["one", "other"].map(|name| {
        let server = joined_program(&nats);
        let answers = answering(server.connected("app", "worker").serving("work"));
        (until_known(&here, &server, name), server, answers)
    });
    let [(_, drains, drained), (_, stays, stayed)] = servers;
    let mut asks = here.peer().called("app", "asks").asking_for(&["call"]);
    let mut reader = asks.reader();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let sending = std::thread::spawn(move || {
        let mut ids = BTreeMap::new();
        for number in 0..REQUESTS {
            let meta = json!({"idempotent": is_idempotent(number)});
            ids.insert(call(&mut asks, "work", &json!(number), &meta), number);
            if number == BEFORE {
                goes_on.recv().unwrap();
            }
        }
        (ids, asks)
    });
    let mut looks = drains.connected("app", "looks");
    let forwarded = || looks.stats()["counters"]["forwarded"].as_u64().unwrap();
    until("requests of the other server", forwarded, |forwarded| *forwarded > 10);
    drop(looks);
    drains.signal("TERM");
    go_on.send(()).unwrap();
    let mut answers = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = reader.receive_extended();
        let id = answer["reply_to"].as_str().unwrap().to_owned();
        assert_eq!(answers.insert(id, answer), None, "answered twice");
    }
    let (ids, mut asks) = sending.join().unwrap();
    for (id, number) in ids {
        let answer = &answers[&id];
        if answer["payload"] != number {
            let is_lost = code(answer) == "worker_lost" && !is_idempotent(number);
            assert!(is_lost || code(answer) == "shutting_down", "{answer}");
        }
    }
    asks.fence();
    drains.end_well();
    stays.terminate();
    assert!(drained.join().unwrap() > 0 && stayed.join().unwrap() > 0);
}
