//! The extension `call` over real sockets: deadlines, cancels and streams, with a raw peer on each end,
//! and streams of embedded handlers.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_framework::{Config, HandlerError, Limits, PartError};
use serde_json::{Value, json};

use crate::support::{HANG, Peer, TestServer, code, eventually, frames, serve, serve_limited};

/// Connects a peer that asks for `call`.
pub(crate) fn extended(server: &TestServer, id: &str) -> Peer {
    server.peer().called("app", id).asking_for(&["call"])
}

impl Peer {
    /// Sends a request with a `meta`, and returns its id.
    fn call(&mut self, channel_id: &str, payload: &Value, meta: &Value) -> String {
        let mut request = self.message("request", channel_id, payload);
        request["meta"] = meta.clone();
        self.send_message(&request);
        request["message_id"].as_str().unwrap().to_owned()
    }

    fn part(&mut self, task: &Value, payload: &Value, meta: &Value) {
        let channel_id = task["channel_id"].as_str().unwrap();
        let mut part = self.message("response", channel_id, payload);
        part["reply_to"] = task["message_id"].clone();
        part["meta"] = meta.clone();
        self.send_message(&part);
    }

    fn cancel(&mut self, id: &str) {
        self.send("notification", "system", json!({"action": "cancel", "message_id": id}));
    }

    fn credit(&mut self, id: &str, n: u32) {
        self.send("notification", "system", json!({"action": "credit", "message_id": id, "n": n}));
    }
}

#[test]
fn a_stream_goes_through_the_server_at_the_pace_of_its_reader() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("tokens");
    let mut reader = extended(&server, "reader");
    let id = reader.call("tokens", &json!(5), &json!({"stream": 2, "ttl": 60_000}));
    let task = worker.receive_extended();
    assert_eq!(task["meta"]["stream"], 2);
    for seq in 0..2 {
        worker.part(&task, &json!(seq), &json!({"seq": seq}));
        let part = reader.receive_extended();
        assert_eq!((&part["payload"], &part["reply_to"]), (&json!(seq), &json!(id)));
    }
    reader.credit(&id, 3);
    let credit = worker.receive_extended();
    assert_eq!((&credit["payload"]["n"], &credit["channel_id"]), (&json!(3), &json!("system")));
    worker.part(&task, &json!(2), &json!({"seq": 2}));
    worker.part(&task, &json!(null), &json!({"seq": 3, "end": true}));
    assert_eq!(reader.receive_extended()["payload"], 2);
    assert_eq!(reader.receive_extended()["meta"], json!({"seq": 3, "end": true}));
    let counters = server.handle.stats().unwrap().counters;
    assert_eq!((counters.stream_parts, counters.credit_stalls), (3, 1));
}

#[test]
fn a_worker_learns_of_cancels_deadlines_and_vanished_requesters() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("work");
    let mut asks = extended(&server, "asks");
    let id = asks.call("work", &json!("cancelled"), &json!({}));
    asks.cancel(&id);
    assert_eq!(code(&asks.receive_extended()), "cancelled");
    asks.call("work", &json!("late"), &json!({"ttl": 50}));
    assert_eq!(code(&asks.receive_extended()), "timeout");
    asks.call("work", &json!("left alone"), &json!({"stream": 9}));
    let mut told = Vec::new();
    for reason in ["caller", "deadline", "gone"] {
        let task = worker.receive_extended();
        if reason == "gone" {
            asks = extended(&server, "asks");
        }
        let cancel = worker.receive_extended();
        assert_eq!(cancel["payload"]["message_id"], task["message_id"]);
        told.push(cancel["payload"]["reason"].clone());
        // What it sends all the same goes nowhere.
        worker.answer(&task, "late");
    }
    assert_eq!(told, ["caller", "deadline", "gone"]);
    asks.fence();
    let ignored = || Some(server.stats().counters.responses_ignored).filter(|count| *count == 3);
    eventually("late answers are ignored", ignored);
}

#[test]
fn a_thousand_requests_of_one_that_vanishes_are_cancelled_at_once() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("work");
    let mut asks = extended(&server, "asks");
    let requests: Vec<Value> =
        (0..1_000).map(|at| asks.message("request", "work", &json!(at))).collect();
    asks.send_all(&requests);
    let tasks: Vec<Value> = (0..1_000).map(|_| worker.receive_extended()).collect();
    drop(asks);
    for task in &tasks {
        let told = worker.receive_extended();
        assert_eq!(told["payload"]["message_id"], task["message_id"]);
    }
    assert_eq!(server.stats().counters.cancelled["gone"], 1_000);
    worker.fence();
}

/// Everything that a peer without the extension gets is what it got before there was one.
#[test]
fn a_peer_without_the_extension_notices_nothing() {
    let server = serve_limited(Limits::default());
    let mut plain = server.connected("app", "plain").serving("plain").subscribed("news");
    let mut asks = extended(&server, "asks");
    // It is a worker for one that asks for everything.
    let id = asks.call(
        "plain",
        &json!({"meta": 1}),
        &json!({"ttl": 60_000, "stream": 3, "idempotent": true, "headers": {"a": "b"}}),
    );
    // `receive` checks that there are seven keys.
    let task = plain.receive();
    assert_eq!(task["payload"], json!({"meta": 1}));
    asks.cancel(&id);
    assert_eq!(code(&asks.receive_extended()), "cancelled");
    let mut publication = asks.message("publish", "news", &json!([1]));
    publication["meta"] = json!({"headers": {"a": "b"}});
    asks.send_message(&publication);
    let heard = plain.receive();
    assert_eq!(heard["payload"], json!([1]));
    // It was not told of the cancel, and its late answer goes nowhere.
    plain.answer(&task, "late");
    plain.fence();
    // As a requester it gets the answer of a worker with the extension.
    let mut worker = extended(&server, "worker").serving("work");
    let id = plain.send("request", "work", json!(1));
    let task = worker.receive_extended();
    assert_eq!(task.get("meta"), None);
    worker.part(&task, &json!("fine"), &json!({"headers": {"c": "d"}}));
    plain.expect_answer(&id, "fine");
}

#[test]
fn a_reader_that_is_stuck_holds_up_no_other_stream() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("tokens");
    let mut stuck = extended(&server, "stuck");
    let mut reads = extended(&server, "reads");
    stuck.call("tokens", &json!(0), &json!({"stream": 10}));
    let stuck_task = worker.receive_extended();
    let id = reads.call("tokens", &json!(1), &json!({"stream": 10}));
    let task = worker.receive_extended();
    let mut credit = 10;
    for seq in 0..500 {
        if seq < 10 {
            worker.part(&stuck_task, &json!(seq), &json!({"seq": seq}));
        }
        if credit == 0 {
            reads.credit(&id, 10);
            assert_eq!(worker.receive_extended()["payload"]["n"], 10);
            credit = 10;
        }
        worker.part(&task, &json!(seq), &json!({"seq": seq}));
        assert_eq!(reads.receive_extended()["payload"], seq);
        credit -= 1;
    }
    // Its credit is all that waits.
    worker.part(&stuck_task, &json!("one more"), &json!({"seq": 10}));
    assert_eq!(worker.receive_extended()["payload"]["action"], "cancel");
    let last = (0..11).map(|_| stuck.receive_extended()).last().unwrap();
    assert_eq!(code(&last), "handler_failed");
}

#[test]
fn a_take_over_in_the_middle_of_a_stream_ends_it_on_both_sides() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("tokens");
    let mut reader = extended(&server, "reader");
    reader.call("tokens", &json!(1), &json!({"stream": 10}));
    let task = worker.receive_extended();
    worker.part(&task, &json!(0), &json!({"seq": 0}));
    reader.receive_extended();
    let mut newer = extended(&server, "reader");
    assert_eq!(code(&reader.receive_extended()), "taken_over");
    assert_eq!(worker.receive_extended()["payload"]["reason"], "gone");
    // The newer one asks again, and its worker is taken over.
    let id = newer.call("tokens", &json!(1), &json!({"stream": 10}));
    worker.receive_extended();
    let _newer_worker = extended(&server, "worker");
    let lost = newer.receive_extended();
    assert_eq!((code(&lost), &lost["reply_to"]), ("worker_lost", &json!(id)));
}

#[test]
fn a_drain_lets_a_stream_go_on_to_its_end() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("tokens");
    let mut reader = extended(&server, "reader");
    let id = reader.call("tokens", &json!(1), &json!({"stream": 1}));
    let task = worker.receive_extended();
    server.handle.stop();
    assert_eq!(code(&worker.receive_extended()), "shutting_down");
    assert_eq!(code(&reader.receive_extended()), "shutting_down");
    worker.part(&task, &json!(0), &json!({"seq": 0}));
    assert_eq!(reader.receive_extended()["payload"], 0);
    reader.credit(&id, 1);
    assert_eq!(worker.receive_extended()["payload"]["n"], 1);
    worker.part(&task, &json!(null), &json!({"seq": 1, "end": true}));
    assert_eq!(reader.receive_extended()["meta"]["end"], true);
    server.stop();
}

fn counting(config: Config) -> TestServer {
    serve(config, |server| {
        server.application("app", "The App").channel("count").on_request(|request| {
            let to: u32 = request.payload()?;
            let (reply, mut parts) = request.stream()?;
            thread::spawn(move || {
                for number in 0..to {
                    if parts.send(&number).is_err() {
                        return;
                    }
                }
                parts.end();
            });
            Ok(reply)
        });
    })
}

#[test]
fn an_embedded_handler_streams_and_a_plain_requester_gets_all_at_once() {
    let server = counting(Config::default());
    let mut reader = extended(&server, "reader");
    let id = reader.call("count", &json!(300), &json!({"stream": 7}));
    for number in 0..300 {
        let part = reader.receive_extended();
        assert_eq!((&part["payload"], &part["meta"]["seq"]), (&json!(number), &json!(number)));
        if number % 7 == 6 {
            reader.credit(&id, 7);
        }
    }
    let end = reader.receive_extended();
    assert_eq!((&end["payload"], &end["meta"]), (&json!(null), &json!({"seq": 300, "end": true})));
    let mut plain = server.connected("app", "plain");
    assert_eq!(plain.request("count", json!(3)), json!([0, 1, 2]));
    assert_eq!(plain.request("count", json!(0)), json!([]));
    // What fits into no frame is refused.
    let small = counting(Config::default().limits(Limits::default().frame_bytes_max(1_024)));
    let refused = small.connected("app", "plain").request("count", json!(1_000));
    assert_eq!(refused["code"], "limit_exceeded");
}

#[test]
fn an_embedded_handler_learns_that_its_request_is_over() {
    let (sender, handed) = mpsc::channel();
    let (told, cancels) = mpsc::channel();
    let server = serve(Config::default(), |server| {
        server.application("app", "The App").channel("tokens").on_request(move |request| {
            let (remaining, deadline) = (request.remaining(), request.deadline());
            let (reply, parts) = request.stream()?;
            let told = told.clone();
            parts.on_cancel(move || told.send(()).unwrap());
            sender.send((remaining, deadline.is_some(), parts))?;
            Ok(reply)
        });
    });
    let mut reader = extended(&server, "reader");
    let id = reader.call("tokens", &json!(1), &json!({"stream": 1, "ttl": 60_000}));
    let (remaining, has_deadline, mut parts) = handed.recv_timeout(HANG).unwrap();
    assert!(remaining.is_some_and(|left| left <= Duration::from_secs(60)) && has_deadline);
    assert!(parts.try_send(&1).unwrap());
    assert_eq!(reader.receive_extended()["payload"], 1);
    assert!(!parts.try_send(&2).unwrap());
    assert!(!parts.wait(Duration::from_millis(1)).unwrap());
    // A thread that waits for credit goes on when the request is over.
    let waiting = thread::spawn(move || (parts.send(&2), parts));
    reader.cancel(&id);
    assert_eq!(code(&reader.receive_extended()), "cancelled");
    let (sent, parts) = waiting.join().unwrap();
    assert!(matches!(sent, Err(PartError::Cancelled)) && parts.is_cancelled());
    cancels.recv_timeout(HANG).unwrap();
    drop(parts);
    // One that leaves cancels, too, and so does one that asked for no stream.
    for is_extended in [true, false] {
        let mut reader = server.connected("app", "plain");
        if is_extended {
            reader = extended(&server, "leaves");
        }
        reader.send("request", "tokens", json!(1));
        let (remaining, _, mut parts) = handed.recv_timeout(HANG).unwrap();
        assert_eq!(remaining, None);
        drop(reader);
        cancels.recv_timeout(HANG).unwrap();
        assert!(matches!(parts.send(&1), Err(PartError::Cancelled)));
    }
    // Errors, and a sender that is dropped.
    for (end, expected) in
        [("app", "app:no_tea"), ("text", "handler_failed"), ("", "handler_failed")]
    {
        reader.call("tokens", &json!(1), &json!({"stream": 1}));
        let (_, _, parts) = handed.recv_timeout(HANG).unwrap();
        match end {
            "app" => parts.fail(HandlerError::app("no_tea", "there is none")),
            "text" => parts.fail("it broke"),
            _ => drop(parts),
        }
        assert_eq!(code(&reader.receive_extended()), expected);
    }
}

#[test]
fn a_deferred_answer_knows_that_nobody_waits_for_it() {
    let (sender, handed) = mpsc::channel();
    let server = serve(Config::default(), |server| {
        server.application("app", "The App").channel("later").on_request(move |request| {
            let (reply, responder) = request.defer()?;
            sender.send(responder)?;
            Ok(reply)
        });
    });
    let mut asks = server.connected("app", "asks");
    asks.send("request", "later", json!(1));
    let responder = handed.recv_timeout(HANG).unwrap();
    let (told, cancels) = mpsc::channel();
    responder.on_cancel(move || told.send(()).unwrap());
    assert!(!responder.is_cancelled());
    drop(asks);
    cancels.recv_timeout(HANG).unwrap();
    assert!(responder.is_cancelled());
    // One that asks only after the end learns of it as well.
    let mut asks = server.connected("app", "asks");
    asks.send("request", "later", json!(1));
    let responder = handed.recv_timeout(HANG).unwrap();
    drop(asks);
    server.wait_until("it is gone", |stats| stats.pending_requests == 0);
    eventually("it knows", || responder.is_cancelled().then_some(()));
}

#[test]
fn the_server_ends_although_a_thread_waits_for_credit() {
    let (sender, handed) = mpsc::channel();
    let config =
        Config::default().limits(Limits::default().drain_timeout(Duration::from_millis(50)));
    let server = serve(config, |server| {
        server.application("app", "The App").channel("tokens").on_request(move |request| {
            let (reply, parts) = request.stream()?;
            sender.send(parts)?;
            Ok(reply)
        });
    });
    let mut reader = extended(&server, "reader");
    reader.call("tokens", &json!(1), &json!({"stream": 1}));
    let mut parts = handed.recv_timeout(HANG).unwrap();
    parts.send(&1).unwrap();
    let waiting = thread::spawn(move || parts.send(&2).is_err());
    server.stop();
    assert!(waiting.join().unwrap());
}

/// A cancel reaches the worker in far less than the time after which anybody would give up.
#[test]
fn tokens_arrive_one_by_one_as_they_are_made() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("tokens");
    let mut reader = extended(&server, "reader");
    let id = reader.call("tokens", &json!(1), &json!({"stream": 64}));
    let task = worker.receive_extended();
    let making = thread::spawn(move || {
        for seq in 0..20 {
            worker.part(&task, &json!(seq), &json!({"seq": seq}));
            thread::sleep(Duration::from_millis(10));
        }
        let told = worker.receive_extended();
        (told["payload"]["reason"].clone(), Instant::now())
    });
    for seq in 0..20 {
        assert_eq!(reader.receive_extended()["payload"], seq);
    }
    reader.cancel(&id);
    let cancelled = Instant::now();
    let (reason, told) = making.join().unwrap();
    assert_eq!(reason, "caller");
    assert!(told.saturating_duration_since(cancelled) < HANG);
}

#[test]
fn everything_in_one_write_is_handled_in_order() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("work");
    let mut asks = extended(&server, "asks");
    let mut request = asks.message("request", "work", &json!(1));
    request["meta"] = json!({"stream": 1});
    let id = request["message_id"].clone();
    let notify = |peer: &mut Peer, payload: Value| peer.message("notification", "system", &payload);
    let credit = notify(&mut asks, json!({"action": "credit", "message_id": id, "n": 2}));
    let cancel = notify(&mut asks, json!({"action": "cancel", "message_id": id}));
    asks.send_all([&request, &credit, &cancel, &cancel, &credit]);
    assert_eq!(code(&asks.receive_extended()), "cancelled");
    let task = worker.receive_extended();
    assert_eq!(worker.receive_extended()["payload"]["n"], 2);
    assert_eq!(worker.receive_extended()["payload"]["reason"], "caller");
    // A worker that ignores it is ignored, whatever it sends.
    let mut parts: Vec<Value> = Vec::new();
    for meta in [json!({"seq": 0}), json!({"seq": 7}), json!({"seq": 0, "end": true}), json!(1)] {
        let mut part = worker.message("response", "work", &json!(1));
        part["reply_to"] = task["message_id"].clone();
        part["meta"] = meta;
        parts.push(part);
    }
    assert!(!frames(&parts).is_empty());
    worker.send_all(&parts);
    worker.fence();
    asks.fence();
}

#[test]
fn every_rule_that_a_requester_breaks_is_told_and_costs_nothing_else() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("work");
    let mut asks = extended(&server, "asks");
    for (meta, word) in [
        (json!({"ttl": 0}), "ttl"),
        (json!({"ttl": 1_u64 << 40}), "ttl"),
        (json!({"ttl": "5"}), "ttl"),
        (json!({"ttl": 1.5}), "ttl"),
        (json!({"stream": 0}), "stream"),
        (json!({"stream": 65_537}), "stream"),
        (json!({"idempotent": "yes"}), "idempotent"),
        (json!({"seq": 0}), "seq"),
        (json!({"offset": 1}), "offset"),
        (json!({"newer": 1}), "unknown"),
        (json!({"bin": []}), "bin"),
        (json!({"trace": {"traceparent": 7}}), "trace"),
        (json!({"headers": ["a"]}), "headers"),
        (json!({"headers": {"a": "x".repeat(4_096)}}), "4096"),
        (json!(7), "object"),
    ] {
        let id = asks.call("work", &json!(1), &meta);
        let refused = asks.receive_extended();
        assert_eq!((code(&refused), &refused["reply_to"]), ("bad_message", &json!(id)), "{meta}");
        assert!(refused["payload"]["error"].as_str().unwrap().contains(word), "{refused}");
    }
    let request = asks.message("request", "work", &json!(1)).to_string();
    let open = request.strip_suffix('}').unwrap();
    for twice in [
        r#""meta":{"ttl":5},"meta":{"ttl":5}"#,
        r#""meta":{"ttl":5,"\u0074tl":5}"#,
        r#""meta":{"headers":{"a":"1","\u0061":"2"}}"#,
        r#""meta":{"ttl":5},"colour":1"#,
    ] {
        asks.send_body(format!("{open},{twice}}}").as_bytes());
        assert_eq!(code(&asks.receive_extended()), "bad_message", "{twice}");
    }
    asks.send_body(format!("{open},\"meta\":{{\"ttl\":05}}}}").as_bytes());
    assert_eq!(code(&asks.receive_extended()), "bad_frame");
    let id = asks.call("work", &json!(1), &json!({"stream": 65_535}));
    let task = worker.receive_extended();
    for payload in [
        json!({"action": "credit", "message_id": id, "n": 0}),
        json!({"action": "credit", "message_id": id, "n": 65_537}),
        json!({"action": "credit", "message_id": id, "n": 2}),
        json!({"action": "credit", "message_id": id}),
        json!({"action": "credit", "n": 1}),
        json!({"action": "cancel"}),
        json!({"action": "cancel", "message_id": "x".repeat(257)}),
    ] {
        let id = asks.send("notification", "system", payload.clone());
        let refused = asks.receive_extended();
        assert_eq!(
            (code(&refused), &refused["reply_to"]),
            ("bad_message", &json!(id)),
            "{payload}"
        );
    }
    // The stream that they were for goes on, and the worker was told of none of them.
    worker.part(&task, &json!(0), &json!({"seq": 0}));
    assert_eq!(asks.receive_extended()["payload"], 0);
    worker.fence();
    asks.fence();
}

#[test]
fn every_rule_that_a_worker_breaks_ends_its_request_and_nothing_else() {
    let server = serve_limited(Limits::default());
    let mut worker = extended(&server, "worker").serving("work");
    let mut asks = extended(&server, "asks");
    let mut bystander = extended(&server, "bystander");
    let other = bystander.call("work", &json!("other"), &json!({"stream": 1}));
    let other_task = worker.receive_extended();
    for (asked, meta, payload) in [
        (json!({"stream": 1}), json!({"seq": 1}), json!(1)),
        (json!({"stream": 1}), json!({"seq": 1, "end": true}), json!(null)),
        (json!({"stream": 1}), json!({"seq": 0, "end": true}), json!("not null")),
        (json!({"stream": 1}), json!({"seq": -1}), json!(1)),
        (json!({"stream": 1}), json!({"seq": 0, "unknown": 1}), json!(1)),
        (json!({}), json!({"seq": 0}), json!(1)),
    ] {
        let id = asks.call("work", &json!(1), &asked);
        let task = worker.receive_extended();
        worker.part(&task, &payload, &meta);
        let ended = asks.receive_extended();
        assert_eq!((code(&ended), &ended["reply_to"]), ("handler_failed", &json!(id)), "{meta}");
        assert_eq!(worker.receive_extended()["payload"]["action"], "cancel");
        // After the end, all of it is ignored.
        worker.part(&task, &payload, &meta);
        worker.fence();
    }
    worker.part(&other_task, &json!("fine"), &json!({"seq": 0}));
    let part = bystander.receive_extended();
    assert_eq!((&part["payload"], &part["reply_to"]), (&json!("fine"), &json!(other)));
}
