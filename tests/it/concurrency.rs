//! Workers that take a number of requests at a time, over sockets: the server keeps the rest.

use std::collections::BTreeSet;
use std::net::Shutdown;

use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, code, serve, serve_limited};

impl Peer {
    fn serve_with(&mut self, concurrency: usize) {
        let payload = json!({"action": "serve", "channel": "work", "concurrency": concurrency});
        assert_eq!(self.request("system", payload)["status"], "serving");
    }

    /// Sends so many requests with their numbers as payloads, in one write.
    fn ask_all(&mut self, numbers: std::ops::Range<usize>) {
        let requests: Vec<Value> =
            numbers.map(|at| self.message("request", "work", &json!(at))).collect();
        self.send_all(&requests);
    }

    /// Expects the requests with these numbers, and no others.
    fn expect_tasks(&mut self, numbers: std::ops::Range<usize>) -> Vec<Value> {
        let tasks: Vec<Value> = numbers.clone().map(|_| self.receive()).collect();
        let seen: Vec<u64> = tasks.iter().filter_map(|task| task["payload"].as_u64()).collect();
        assert!(seen.iter().eq(&numbers.map(|at| at as u64).collect::<Vec<_>>()), "{seen:?}");
        // Nothing more is on its way.
        self.fence();
        tasks
    }
}

/// Waits until the server keeps so many requests.
fn kept(server: &TestServer, count: usize) {
    server.wait_until("what is kept", |stats| stats.kept_requests == count);
}

#[test]
fn a_new_worker_takes_over_what_the_others_have_no_room_for() {
    let server = serve(Config::default(), |_| {});
    let mut first = server.connected("app", "first");
    first.serve_with(2);
    let mut asks = server.connected("app", "asks");
    asks.ask_all(0..10);
    kept(&server, 8);
    let tasks = first.expect_tasks(0..2);
    let mut second = server.connected("app", "second");
    second.serve_with(3);
    let more = second.expect_tasks(2..5);
    for (worker, tasks) in [(&mut first, tasks), (&mut second, more)] {
        for task in tasks {
            worker.answer(&task, task["payload"].clone());
        }
    }
    let (tasks, more) = (first.expect_tasks(5..7), second.expect_tasks(7..10));
    kept(&server, 0);
    for (worker, tasks) in [(&mut first, tasks), (&mut second, more)] {
        for task in tasks {
            worker.answer(&task, task["payload"].clone());
        }
    }
    let mut answers: Vec<u64> =
        (0..10).map(|_| asks.receive()["payload"].as_u64().unwrap()).collect();
    answers.sort_unstable();
    assert!(answers.into_iter().eq(0..10));
}

/// More than the requesters may have unanswered, all at once.
#[test]
fn requests_by_the_thousand_reach_workers_that_take_few_at_a_time() {
    const REQUESTERS: usize = 10;
    const REQUESTS: usize = 1_000;
    let server = serve(Config::default(), |_| {});
    let mut workers: Vec<Peer> = [1, 2, 7, 100]
        .into_iter()
        .map(|concurrency| {
            let mut worker = server.connected("app", &format!("worker-{concurrency}"));
            worker.serve_with(concurrency);
            worker
        })
        .collect();
    let streams: Vec<_> = workers.iter().map(|worker| worker.stream.try_clone().unwrap()).collect();
    std::thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(move || {
                while let Ok(task) = worker.try_receive() {
                    worker.answer(&task, task["payload"].clone());
                }
            });
        }
        std::thread::scope(|scope| {
            for at in 0..REQUESTERS {
                let mut asks = server.connected("app", &format!("asks-{at}"));
                let mut reader = asks.reader();
                scope.spawn(move || asks.ask_all(0..REQUESTS));
                scope.spawn(move || {
                    let answers = (0..REQUESTS).map(|_| reader.receive()["payload"].as_u64());
                    let answers: BTreeSet<Option<u64>> = answers.collect();
                    assert!(answers.into_iter().eq((0..REQUESTS as u64).map(Some)));
                });
            }
        });
        for stream in &streams {
            stream.shutdown(Shutdown::Both).unwrap();
        }
    });
    server.wait_until("their leave", |stats| stats.total_connections == 0);
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.kept_requests, stats.buffered_bytes), (0, 0, 0));
    assert_eq!(stats.counters.forwarded, (REQUESTERS * REQUESTS) as u64);
}

#[test]
fn a_requester_that_pipelines_is_refused_what_is_more_than_it_may_have_unanswered() {
    const REQUESTS: usize = 10_000;
    let server = serve(Config::default(), |_| {});
    let mut worker = server.connected("app", "worker");
    worker.serve_with(4);
    let mut asks = server.connected("app", "asks");
    let mut reader = asks.reader();
    let most = Limits::default().pending_per_connection_max;
    std::thread::scope(|scope| {
        scope.spawn(|| asks.ask_all(0..REQUESTS));
        for _ in most..REQUESTS {
            assert_eq!(code(&reader.receive()), "limit_exceeded");
        }
    });
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.kept_requests), (most, most - 4));
    // The messages are small, and so is the memory that keeps them.
    assert!(stats.buffered_bytes < 1 << 20, "{stats:?}");
    for at in 0..most {
        let task = worker.receive();
        assert_eq!(task["payload"], at);
        worker.answer(&task, at);
    }
    for at in 0..most {
        assert_eq!(reader.receive()["payload"], at);
    }
    worker.fence();
    assert_eq!(server.stats().buffered_bytes, 0);
}

#[test]
fn workers_that_die_hand_back_what_they_had_and_leave_what_they_had_not() {
    let server = serve(Config::default(), |_| {});
    let mut workers = ["one", "two"].map(|id| server.connected("app", id));
    for worker in &mut workers {
        worker.serve_with(1);
    }
    let mut asks = server.connected("app", "asks");
    asks.ask_all(0..5);
    kept(&server, 3);
    let [first, mut second] = workers;
    drop(first);
    assert_eq!(code(&asks.receive()), "worker_lost");
    assert_eq!(server.stats().kept_requests, 3);
    let task = second.expect_tasks(1..2).remove(0);
    second.answer(&task, "done");
    assert_eq!(asks.receive()["payload"], "done");
    second.expect_tasks(2..3);
    // The last one dies: what it had may have been executed, the rest was not.
    drop(second);
    let codes = [(); 3].map(|()| code(&asks.receive()).to_owned());
    assert_eq!(codes, ["worker_lost", "no_handler", "no_handler"]);
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.kept_requests, stats.buffered_bytes), (0, 0, 0));
}

#[test]
fn a_requester_that_dies_gives_back_the_memory_of_what_was_kept() {
    const REQUESTS: usize = 10;
    let server = serve(Config::default(), |_| {});
    let mut worker = server.connected("app", "worker");
    worker.serve_with(1);
    let before = server.stats().memory_bytes;
    let mut asks = server.connected("app", "asks");
    let text = json!("x".repeat(40_000));
    for _ in 0..REQUESTS {
        asks.send("request", "work", text.clone());
    }
    kept(&server, REQUESTS - 1);
    let held = server.stats().memory_bytes - before;
    assert!(held > (REQUESTS - 1) * 40_000, "{held} bytes are counted");
    drop(asks);
    assert_eq!(worker.receive()["payload"], text);
    server.wait_until("its leave", |stats| stats.total_connections == 1);
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.kept_requests, stats.buffered_bytes), (0, 0, 0));
    // Free buffers are kept for the next messages.
    assert!(stats.memory_bytes < before + (1 << 20), "{} and {before}", stats.memory_bytes);
    worker.fence();
}

#[test]
fn requests_beyond_what_is_kept_are_refused_at_once_and_the_others_are_answered() {
    const REQUESTS: usize = 80;
    let limits = Limits::default().queue_high_water_bytes(100_000);
    let server = serve_limited(limits);
    let mut worker = server.connected("app", "worker");
    worker.serve_with(1);
    let mut asks = server.connected("app", "asks");
    let mut reader = asks.reader();
    for _ in 0..REQUESTS {
        asks.send("request", "work", json!("x".repeat(30_000)));
    }
    let stats = server.wait_until("all", |stats| stats.counters.frames_in == REQUESTS as u64 + 3);
    let refused = stats.counters.errors["limit_exceeded"] as usize;
    assert!((REQUESTS / 4..REQUESTS / 2).contains(&refused), "{refused}");
    for _ in 0..refused {
        assert_eq!(code(&reader.receive()), "limit_exceeded");
    }
    for _ in refused..REQUESTS {
        let task = worker.receive();
        worker.answer(&task, "done");
        assert_eq!(reader.receive()["payload"], "done");
    }
    reader.fence();
}

#[test]
fn a_drain_answers_what_is_kept() {
    let server = serve(Config::default(), |_| {});
    let mut worker = server.connected("app", "worker");
    worker.serve_with(2);
    let mut asks = server.connected("app", "asks");
    asks.ask_all(0..20);
    kept(&server, 18);
    server.handle.stop();
    let is_notice =
        |message: &Value| message["reply_to"].is_null() && code(message) == "shutting_down";
    for at in 0..20 {
        let mut task = worker.receive();
        if task["message_type"] == "response" {
            assert!(is_notice(&task), "{task}");
            task = worker.receive();
        }
        assert_eq!(task["payload"], at);
        worker.answer(&task, at);
    }
    let mut answers: Vec<Value> = (0..21).map(|_| asks.receive()).collect();
    answers.retain(|answer| answer["payload"].is_number() || !is_notice(answer));
    assert!(answers.iter().map(|answer| answer["payload"].as_u64()).eq((0..20).map(Some)));
    asks.expect_end();
    worker.expect_end();
    server.stop();
}

#[test]
fn what_is_no_concurrency_is_refused_and_the_worker_serves_nothing() {
    let server = serve(Config::default(), |_| {});
    let mut worker = server.connected("app", "worker");
    for bad in [json!(0), json!(65_537), json!(1.5), json!("4"), json!(true), json!(null)] {
        let payload = json!({"action": "serve", "channel": "work", "concurrency": bad});
        worker.expect_refusal("request", "system", payload, "bad_message");
    }
    worker.expect_refusal("request", "work", json!(1), "no_handler");
    for good in [1, 65_536] {
        worker.serve_with(good);
    }
}
