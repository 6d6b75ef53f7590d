//! Answers in parts, and the credit for them.

use super::*;

impl World {
    /// Sends a response to a request as its worker, with a `meta`.
    pub(super) fn part(
        &mut self,
        worker: ConnectionKey,
        request: &Value,
        payload: &Value,
        meta: &Value,
    ) {
        let mut part = message("app", "response", "work", "r", payload);
        part["reply_to"] = request["message_id"].clone();
        part["meta"] = meta.clone();
        self.send(worker, &part);
    }

    fn credit(&mut self, from: ConnectionKey, id: &str, n: u32) {
        self.notify(from, &json!({"action": "credit", "message_id": id, "n": n}));
    }

    /// A worker and a requester, whose stream `q` has this credit, and the request of the worker.
    fn streaming(&mut self, credit: u32) -> (ConnectionKey, ConnectionKey, Value) {
        let worker = self.extended_worker("worker");
        let asks = self.extended("asks");
        self.call(asks, "q", &json!({"stream": credit}));
        let got = self.take_one(worker);
        (worker, asks, got)
    }
}

#[test]
fn parts_are_passed_on_until_the_end() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(2);
    assert_eq!(got["meta"], json!({"stream": 2}));
    // A part is never an error, whatever its payload.
    let payloads = [json!("one"), json!({"status": "error", "code": "timeout", "error": "no"})];
    for (seq, payload) in (0..).zip(&payloads) {
        world.part(worker, &got, payload, &json!({"seq": seq}));
        let part = world.take_one(asks);
        assert_eq!((&part["payload"], &part["meta"]), (payload, &json!({"seq": seq})));
        assert_eq!((&part["reply_to"], &part["channel_id"]), (&json!("q"), &json!("work")));
    }
    assert!(world.broker.core.counters.errors.is_empty());
    // The end needs no credit.
    world.part(worker, &got, &json!(null), &json!({"seq": 2, "end": true}));
    assert_eq!(world.take_one(asks)["meta"], json!({"seq": 2, "end": true}));
    // After it, all is ignored and counted.
    world.part(worker, &got, &json!(3), &json!({"seq": 3}));
    world.part(worker, &got, &json!(null), &json!({"seq": 2, "end": true}));
    world.credit(asks, "q", 5);
    assert_eq!((world.take(asks), world.take(worker)), (vec![], vec![]));
    let counters = &world.broker.core.counters;
    assert_eq!((counters.stream_parts, counters.credit_stalls), (2, 1));
    assert_eq!(counters.responses_ignored, 2);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_response_without_a_number_ends_a_stream() {
    for (payload, code) in [
        (json!("all"), json!(null)),
        (json!({"status": "error", "code": "app:x", "error": "e"}), json!("app:x")),
    ] {
        let mut world = World::new(Limits::default());
        let (worker, asks, got) = world.streaming(1);
        world.part(worker, &got, &json!(1), &json!({"seq": 0}));
        world.answer(worker, &got, &payload);
        let answers = world.take(asks);
        assert_eq!((&answers[1]["payload"], answers[1].get("meta")), (&payload, None));
        assert_eq!(answers[1]["payload"]["code"], code);
        let errors = u64::from(!code.is_null());
        assert_eq!(world.broker.core.counters.errors.get("app").copied().unwrap_or(0), errors);
        world.assert_empty(&[worker, asks]);
    }
}

#[test]
fn credit_goes_to_the_worker_and_adds_up() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(1);
    world.part(worker, &got, &json!(0), &json!({"seq": 0}));
    world.take(asks);
    for n in [2, 1] {
        world.credit(asks, "q", n);
        let told = world.take_one(worker);
        let id = &got["message_id"];
        assert_eq!(told["payload"], json!({"action": "credit", "message_id": id, "n": n}));
    }
    for seq in 1..=3 {
        world.part(worker, &got, &json!(seq), &json!({"seq": seq}));
        assert_eq!(world.take_one(asks)["payload"], seq);
    }
    world.part(worker, &got, &json!(4), &json!({"seq": 4}));
    world.expect_error(asks, "handler_failed", "q");
    world.expect_cancel(worker, &got, "gone");
    world.assert_empty(&[worker, asks]);
}

#[test]
fn unusable_credit_is_refused_and_changes_nothing() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(65_535);
    for bad in ["0", "65537", "-1", "1.0", "\"1\"", "null", "1,\"n\":1"] {
        let payload = format!("{{\"action\":\"credit\",\"message_id\":\"q\",\"n\":{bad}}}");
        let body = message("app", "notification", "system", "n", &json!("P")).to_string();
        world.deliver(asks, &framed_text(&body.replace("\"P\"", &payload)));
        world.expect_error(asks, "bad_message", "n");
    }
    world.notify(asks, &json!({"action": "credit", "n": 1}));
    world.expect_error(asks, "bad_message", "n");
    world.credit(asks, "q", 2);
    world.expect_error(asks, "bad_message", "n");
    assert_eq!(world.take(worker), [json!(null); 0]);
    world.credit(asks, "q", 1);
    assert_eq!(world.take_one(worker)["payload"]["n"], 1);
    // That of nothing, of another's and of a request without a stream is ignored.
    let other = world.extended("other");
    world.request(other, "plain", &json!(1));
    world.take(worker);
    for (from, id) in [(other, "q"), (other, "plain"), (asks, "unknown")] {
        world.credit(from, id, 1);
        assert_eq!((world.take(from), world.take(worker)), (vec![], vec![]), "{id}");
    }
    world.part(worker, &got, &json!(0), &json!({"seq": 0}));
    assert_eq!(world.take_one(asks)["payload"], 0);
}

#[test]
fn credit_goes_to_the_oldest_stream_with_its_id() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.request(asks, "q", &json!(1));
    for _ in 0..2 {
        world.call(asks, "q", &json!({"stream": 1}));
    }
    let got = world.take(worker);
    for at in [1, 2] {
        world.credit(asks, "q", 1);
        assert_eq!(world.take_one(worker)["payload"]["message_id"], got[at]["message_id"]);
        world.answer(worker, &got[at], &json!(at));
        assert_eq!(world.take_one(asks)["payload"], at);
    }
    world.credit(asks, "q", 1);
    assert_eq!(world.take(worker), [json!(null); 0]);
}

#[test]
fn a_part_that_breaks_a_rule_ends_its_request() {
    for (asked, meta, payload) in [
        (json!({"stream": 1}), json!({"seq": 1}), json!(1)),
        (json!({"stream": 1}), json!({"seq": 1, "end": true}), json!(null)),
        (json!({"stream": 1}), json!({"seq": 0, "end": true}), json!(1)),
        (json!({"stream": 1}), json!({"end": true}), json!(null)),
        (json!({"stream": 1}), json!({"seq": "0"}), json!(1)),
        (json!({"stream": 1}), json!({"seq": 0, "ttl": 1}), json!(1)),
        (json!({"stream": 1}), json!({"seq": 0, "unknown": 1}), json!(1)),
        (json!({"stream": 1}), json!(7), json!(1)),
        (json!({"ttl": 5_000}), json!({"seq": 0}), json!(1)),
        (json!({"headers": {}}), json!({"seq": 0, "end": true}), json!(null)),
    ] {
        let mut world = World::new(Limits::default());
        let worker = world.extended_worker("worker");
        let asks = world.extended("asks");
        world.call(asks, "q", &asked);
        let got = world.take_one(worker);
        world.part(worker, &got, &payload, &meta);
        world.expect_error(asks, "handler_failed", "q");
        world.expect_cancel(worker, &got, "gone");
        world.assert_empty(&[worker, asks]);
    }
}

#[test]
fn headers_of_an_answer_reach_a_requester_that_knows_them() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let [asks, plain] = [world.extended("asks"), world.connected("app", "plain")];
    for (from, expected) in [(asks, Some(&json!({"headers": {"a": "b"}}))), (plain, None)] {
        world.request(from, "q", &json!(1));
        let got = world.take_one(worker);
        world.part(worker, &got, &json!("fine"), &json!({"headers": {"a": "b"}}));
        let answer = world.take_one(from);
        assert_eq!((&answer["payload"], answer.get("meta")), (&json!("fine"), expected));
    }
    // A worker without the extension may not send them.
    let plain_worker = world.worker("other");
    world.send(asks, &message("app", "request", "other", "q", &json!(1)));
    let got = world.take_one(plain_worker);
    world.part(plain_worker, &got, &json!("fine"), &json!({"headers": {}}));
    assert_eq!(world.take(asks), [json!(null); 0]);
    assert_eq!(world.broker.core.counters.responses_ignored, 1);
}

#[test]
fn a_stream_has_the_time_of_a_request_from_part_to_part() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(9);
    world.call(asks, "bounded", &json!({"stream": 9, "ttl": 70_000}));
    let bounded = world.take_one(worker);
    for seq in 0..4 {
        world.pass(Duration::from_secs(20));
        if seq < 3 {
            world.part(worker, &bounded, &json!(seq), &json!({"seq": seq}));
        }
        world.part(worker, &got, &json!(seq), &json!({"seq": seq}));
    }
    // As a whole, only its own `ttl` bounds it.
    let answers = world.take(asks);
    let late =
        answers.iter().find(|answer| answer["reply_to"] == "bounded" && answer["meta"].is_null());
    assert_eq!(late.unwrap()["payload"]["code"], "timeout");
    world.expect_cancel(worker, &bounded, "deadline");
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.take(asks), [json!(null); 0]);
    world.pass(Duration::from_millis(1));
    world.expect_error(asks, "timeout", "q");
    world.expect_cancel(worker, &got, "deadline");
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_part_without_room_costs_its_stream_and_not_the_connection() {
    let limits =
        Limits { queue_high_water_bytes: 16 << 10, frame_bytes_max: 16 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let (worker, asks, got) = world.streaming(100);
    world.call(asks, "other", &json!({"stream": 100}));
    let other = world.take_one(worker);
    world.stalled.push(asks);
    let payload = json!("x".repeat(4 << 10));
    let mut told = Vec::new();
    for seq in 0..100 {
        world.part(worker, &got, &payload, &json!({"seq": seq}));
        told = world.take(worker);
        if !told.is_empty() {
            break;
        }
    }
    assert_eq!(told[0]["payload"]["reason"], "limit");
    assert!(world.closed.is_empty());
    // The other stream fails by itself, when it sends something.
    world.part(worker, &other, &payload, &json!({"seq": 0}));
    world.expect_cancel(worker, &other, "limit");
    world.stalled.clear();
    world.relieve(asks);
    world.act();
    let answers = world.take(asks);
    let ends: Vec<_> = answers.iter().rev().take(2).map(|end| &end["payload"]["code"]).collect();
    assert_eq!(ends, ["limit_exceeded"; 2]);
    assert_eq!(world.broker.core.counters.cancelled["limit"], 2);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_stream_that_is_kept_gets_the_credit_that_came_meanwhile() {
    let mut world = World::new(Limits::default());
    let worker = world.extended("worker");
    assert_eq!(world.serve_with(worker, &json!(1))["status"], "serving");
    world.received.remove(&worker);
    let asks = world.extended("asks");
    world.call(asks, "first", &json!({}));
    world.call(asks, "q", &json!({"stream": 2}));
    let first = world.take_one(worker);
    world.credit(asks, "q", 3);
    assert_eq!(world.take(worker), [json!(null); 0]);
    world.answer(worker, &first, &json!(1));
    let told = world.take(worker);
    assert_eq!(told[0]["meta"], json!({"stream": 2}));
    assert_eq!((&told[1]["payload"]["n"], told.len()), (&json!(3), 2));
    world.take(asks);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_stream_whose_worker_leaves_is_lost_once_a_part_was_passed_on() {
    let mut world = World::new(Limits::default());
    let first = world.extended_worker("first");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"stream": 4, "idempotent": true}));
    let got = world.take_one(first);
    let second = world.extended_worker("second");
    world.part(first, &got, &json!(0), &json!({"seq": 0}));
    assert_eq!(world.connection(asks).session().unwrap().request_bytes, 0);
    world.hang_up(first);
    world.expect_error(asks, "worker_lost", "q");
    assert_eq!(world.take(second), [json!(null); 0]);
    world.assert_empty(&[asks, second]);
}

#[test]
fn a_part_of_anothers_request_is_ignored() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(4);
    let stranger = world.extended("stranger");
    world.part(stranger, &got, &json!("mine"), &json!({"seq": 0}));
    assert_eq!(world.take(asks), [json!(null); 0]);
    world.part(worker, &got, &json!("right"), &json!({"seq": 0}));
    assert_eq!(world.take_one(asks)["payload"], "right");
}

/// The list of what a worker is owed has one place for each stream, however often it falls behind.
#[test]
fn credit_that_comes_while_a_worker_catches_up_takes_no_second_place() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let (worker, asks, got) = world.streaming(2);
    let filler = json!("x".repeat(8 << 10));
    let owed = |world: &World| {
        world.connection(worker).session().unwrap().worker.as_ref().unwrap().owed.len()
    };
    for _ in 0..5 {
        world.stalled.push(worker);
        world.send(asks, &message("app", "request", "work", "large", &filler));
        assert!(world.connection(worker).congested.is_some());
        world.credit(asks, "q", 1);
        assert_eq!(owed(&world), 1);
        world.stalled.clear();
        // Its queue drains, and before its next turn more credit comes.
        world.relieve(worker);
        assert!(world.connection(worker).congested.is_none());
        let credit = json!({"action": "credit", "message_id": "q", "n": 1});
        world
            .broker
            .receive(asks, &framed(&message("app", "notification", "system", "n", &credit)));
        world.stalled.push(worker);
        world.broker.receive(asks, &framed(&message("app", "request", "work", "large", &filler)));
        world
            .broker
            .receive(asks, &framed(&message("app", "notification", "system", "n", &credit)));
        assert_eq!(owed(&world), 1);
        world.stalled.clear();
        world.relieve(worker);
        world.act();
    }
    let told = world.take(worker);
    let credit: u64 = told.iter().filter_map(|told| told["payload"]["n"].as_u64()).sum();
    assert_eq!(credit, 15, "{}", got["message_id"]);
    world.take(asks);
    world.assert_empty(&[worker, asks]);
}

/// Parts that nobody reads yet are in its queue, and more of them help nobody.
#[test]
fn no_credit_goes_on_while_the_requester_is_over_its_mark() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let (worker, asks, got) = world.streaming(4);
    let filler = json!("x".repeat(8 << 10));
    world.stalled.push(worker);
    world.send(asks, &message("app", "request", "work", "large", &filler));
    assert!(world.connection(worker).congested.is_some());
    world.credit(asks, "q", 3);
    world.stalled.push(asks);
    world.part(worker, &got, &filler, &json!({"seq": 0}));
    assert!(world.connection(asks).congested.is_none(), "its worker is behind and is not read");
    world.subscribe(asks, "app", "news");
    let publisher = world.connected("app", "publisher");
    world.send(publisher, &message("app", "publish", "news", "p", &filler));
    assert!(world.connection(asks).congested.is_some());
    world.stalled.retain(|key| *key == asks);
    world.relieve(worker);
    world.act();
    let is_credit = |told: &Value| told["payload"]["action"] == "credit";
    assert!(!world.take(worker).iter().any(is_credit));
    world.stalled.clear();
    world.relieve(asks);
    world.act();
    let told = world.take(worker);
    assert_eq!((told.len(), &told[0]["payload"]["n"]), (1, &json!(3)));
    world.take(asks);
    world.assert_empty(&[worker, asks, publisher]);
}

#[test]
fn parts_without_room_cost_no_connection_with_long_names() {
    let limits =
        Limits { queue_high_water_bytes: 64 << 10, frame_bytes_max: 64 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let ids: Vec<String> = (0..90).map(|at| format!("{at:0>250}")).collect();
    for id in &ids {
        world.call(asks, id, &json!({"stream": 100}));
    }
    let got = world.take(worker);
    world.stalled.push(asks);
    let payload = json!("x".repeat(1 << 10));
    for got in &got {
        for seq in 0..4 {
            world.part(worker, got, &payload, &json!({"seq": seq}));
        }
    }
    let told = world.take(worker);
    assert!(told.iter().all(|told| told["payload"]["reason"] == "limit"), "{:?}", told.last());
    world.hang_up(worker);
    assert!(world.closed.iter().all(|closed| *closed != asks), "the connection was closed");
    world.stalled.clear();
    world.relieve(asks);
    world.act();
    let answers = world.take(asks);
    let ends = answers.iter().filter(|answer| answer["payload"]["code"].is_string()).count();
    assert_eq!(ends, ids.len());
    world.assert_empty(&[asks]);
}

#[test]
fn a_part_that_breaks_a_rule_is_no_error_of_its_worker() {
    let mut world = World::new(Limits::default());
    let (worker, asks, got) = world.streaming(2);
    let error = json!({"status": "error", "code": "app:x", "error": "e"});
    world.part(worker, &got, &error, &json!({"seq": "0"}));
    world.expect_error(asks, "handler_failed", "q");
    let counters = &world.broker.core.counters;
    assert_eq!(counters.errors.values().sum::<u64>(), 1, "{:?}", counters.errors);
    assert!(counters.worker_errors.is_empty());
    world.assert_empty(&[worker, asks]);
}
