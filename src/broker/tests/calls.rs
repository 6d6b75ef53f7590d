//! Extensions, the key `meta`, deadlines, cancels and second tries.

use super::*;

impl World {
    /// Connects a peer that asks for `call`.
    pub(super) fn extended(&mut self, id: &str) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id, "extensions": ["call"]});
        self.send(key, &message("app", "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["extensions"], json!(["call"]));
        key
    }

    /// Connects a worker of `work` that asks for `call`.
    pub(super) fn extended_worker(&mut self, id: &str) -> ConnectionKey {
        let key = self.extended(id);
        self.serve(key, "app", "work");
        key
    }

    /// Sends a request to the workers of `work` with a `meta`.
    pub(super) fn call(&mut self, from: ConnectionKey, id: &str, meta: &Value) {
        let mut request = message("app", "request", "work", id, &json!(id));
        request["meta"] = meta.clone();
        self.send(from, &request);
    }

    pub(super) fn notify(&mut self, from: ConnectionKey, payload: &Value) {
        self.send(from, &message("app", "notification", "system", "n", payload));
    }

    pub(super) fn cancel(&mut self, from: ConnectionKey, id: &str) {
        self.notify(from, &json!({"action": "cancel", "message_id": id}));
    }

    /// The next message to a connection.
    pub(super) fn take_one(&mut self, key: ConnectionKey) -> Value {
        let messages = self.take(key);
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages[0].clone()
    }

    /// The one message to a worker says that a request is over.
    pub(super) fn expect_cancel(&mut self, worker: ConnectionKey, request: &Value, reason: &str) {
        let told = self.take_one(worker);
        assert_eq!(told["message_type"], "notification");
        assert_eq!((&told["channel_id"], &told["reply_to"]), (&json!("system"), &json!(null)));
        let id = &request["message_id"];
        let expected = json!({"action": "cancel", "message_id": id, "reason": reason});
        assert_eq!(told["payload"], expected);
    }
}

#[test]
fn only_who_asks_is_answered_with_extensions() {
    let mut world = World::new(Limits::default());
    for (asked, expected) in [
        (json!([]), json!([])),
        (json!(["call"]), json!(["call"])),
        (json!(["topic", "of tomorrow", "call", "call"]), json!(["call", "topic"])),
    ] {
        let key = world.accept();
        let connect = json!({"action": "connect", "connection_id": "me", "extensions": asked});
        world.send(key, &message("app", "request", "system", "c", &connect));
        let payload = world.take_one(key)["payload"].clone();
        assert_eq!(payload["extensions"], expected);
        let limits = json!({"max_frame_bytes": 16 << 20, "request_timeout_ms": 30_000});
        assert_eq!(payload["limits"], limits);
    }
    let key = world.accept();
    let connect = json!({"action": "connect", "connection_id": "plain"});
    world.send(key, &message("app", "request", "system", "c", &connect));
    let payload = world.take_one(key)["payload"].clone();
    assert_eq!((payload.get("extensions"), payload.get("limits")), (None, None));

    for bad in [r#""call""#, "null", "{}", "[1]", r#"["call"],"extensions":["call"]"#] {
        let key = world.accept();
        let payload =
            format!("{{\"action\":\"connect\",\"connection_id\":\"x\",\"extensions\":{bad}}}");
        let body = message("app", "request", "system", "c", &json!("P")).to_string();
        world.deliver(key, &framed_text(&body.replace("\"P\"", &payload)));
        world.expect_error(key, "bad_message", "c");
    }
}

#[test]
fn a_meta_without_negotiation_is_an_unknown_key() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let plain = world.connected("app", "plain");
    world.call(plain, "q", &json!({"ttl": 1_000}));
    world.expect_error(plain, "bad_message", "q");
    // Neither are its cancels more than heartbeats.
    world.request(plain, "q", &json!(1));
    world.cancel(plain, "q");
    world.notify(plain, &json!({"action": "cancel"}));
    assert_eq!(world.take(plain), [json!(null); 0]);
    assert_eq!(world.take(worker).len(), 1);
    assert_eq!(world.broker.core.requests.len(), 1);
}

#[test]
fn every_fault_of_a_meta_is_told_and_the_message_dropped() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    for (bad, word) in [
        (json!({"ttl": 0}), "ttl"),
        (json!({"ttl": 1_u64 << 40}), "ttl"),
        (json!({"ttl": "5"}), "ttl"),
        (json!({"stream": 65_537}), "stream"),
        (json!({"seq": 1}), "seq"),
        (json!({"idempotent": 1}), "idempotent"),
        (json!({"retain": true}), "retain"),
        (json!({"offset": 1}), "server"),
        (json!({"place": 1}), "unknown"),
        (json!({"headers": {"a": 1}}), "headers"),
        (json!({"headers": {"a": "x".repeat(4_096)}}), "4096"),
        (json!([]), "object"),
    ] {
        world.call(asks, "q", &bad);
        let answer = world.take_one(asks)["payload"].clone();
        assert_eq!(answer["code"], "bad_message", "{bad}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
    }
    let mut publication = message("app", "publish", "news", "p", &json!(1));
    publication["meta"] = json!({"ttl": 5});
    world.send(asks, &publication);
    world.expect_error(asks, "bad_message", "p");
    assert_eq!(world.take(worker), [json!(null); 0]);
}

#[test]
fn a_worker_gets_what_is_left_of_the_deadline_and_what_is_its_own() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let headers = json!({"user": "ü"});
    let trace = json!({"traceparent": "00-1-2-01"});
    let meta = json!({
        "ttl": 1_500, "stream": 8, "idempotent": true, "headers": headers, "trace": trace,
    });
    world.call(asks, "q", &meta);
    let got = world.take_one(worker);
    let expected = json!({"ttl": 1_500, "stream": 8, "headers": headers, "trace": trace});
    assert_eq!(got["meta"], expected);
    assert_eq!((&got["payload"], &got["reply_to"]), (&json!("q"), &json!(null)));
    world.call(asks, "q", &json!({}));
    assert_eq!(world.take_one(worker).get("meta"), None);
    world.call(asks, "q", &json!({"idempotent": true}));
    assert_eq!(world.take_one(worker).get("meta"), None);

    // That it is not idempotent ends at the server as well, however it is spelled.
    for spelled in [r#"{"idempotent":false,"ttl":9}"#, r#"{"\u0069dempotent":false,"ttl":9}"#] {
        // The keys stand as clients write them, so that it could be relayed as it came.
        let body = format!(
            "{{\"message_id\":\"q\",\"app_id\":\"app\",\"channel_id\":\"work\",\
             \"message_type\":\"request\",\"payload\":1,\"timestamp\":0,\"reply_to\":null,\
             \"meta\":{spelled}}}"
        );
        world.deliver(asks, &framed_text(&body));
        let got = world.take_one(worker);
        assert_eq!(got["meta"], json!({"ttl": 9}), "{spelled}");
    }

    // One without the extension gets the message that it always got.
    world.hang_up(worker);
    let plain = world.worker("work");
    world.take(asks);
    world.call(asks, "q", &meta);
    let got = world.take_one(plain);
    assert_eq!(got.get("meta"), None);
    world.answer(plain, &got, &json!("fine"));
    assert_eq!(world.take_one(asks)["payload"], "fine");
    world.assert_empty(&[plain, asks]);
}

#[test]
fn a_deadline_ends_the_request_and_tells_its_worker() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"ttl": 1_500}));
    let got = world.take_one(worker);
    world.pass(Duration::from_millis(1_499));
    assert_eq!(world.take(asks), [json!(null); 0]);
    world.pass(Duration::from_millis(1));
    let answer = world.take_one(asks);
    assert_eq!(answer["payload"]["code"], "timeout");
    assert!(answer["payload"]["error"].as_str().unwrap().contains("1500 ms"), "{answer}");
    world.expect_cancel(worker, &got, "deadline");
    // What comes late is ignored, and the earlier of two deadlines holds.
    world.answer(worker, &got, &json!("late"));
    assert_eq!(world.take(asks), [json!(null); 0]);
    assert_eq!(world.broker.core.counters.responses_ignored, 1);
    world.call(asks, "q", &json!({"ttl": 90_000}));
    let got = world.take_one(worker);
    world.pass(Duration::from_secs(30));
    world.expect_error(asks, "timeout", "q");
    world.expect_cancel(worker, &got, "deadline");
    let core = &world.broker.core;
    assert_eq!((core.counters.ttls_over, core.counters.cancelled["deadline"]), (1, 2));
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_request_that_is_answered_in_time_leaves_no_timer() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let timers = world.broker.core.timers.len();
    world.call(asks, "q", &json!({"ttl": 1_500}));
    let got = world.take_one(worker);
    world.answer(worker, &got, &json!(1));
    assert_eq!(world.take_one(asks)["payload"], 1);
    assert_eq!(world.broker.core.timers.len(), timers);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_cancel_ends_every_request_with_its_id_at_once() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let other = world.extended("other");
    world.request(other, "q", &json!(0));
    world.take(worker);
    for id in ["q", "other", "q"] {
        world.request(asks, id, &json!(id));
    }
    // An id is compared by what it means.
    let body = message("app", "request", "work", "ID", &json!("e")).to_string();
    world.deliver(asks, &framed_text(&body.replace("\"ID\"", "\"\\u0071\"")));
    let got = world.take(worker);
    world.cancel(asks, "unknown");
    assert_eq!(world.take(asks), [json!(null); 0]);
    world.cancel(asks, "q");
    let answers = world.take(asks);
    let codes: Vec<_> = answers.iter().map(|answer| &answer["payload"]["code"]).collect();
    assert_eq!(codes, ["cancelled"; 3]);
    assert_eq!((&answers[0]["reply_to"], &answers[0]["channel_id"]), (&json!("q"), &json!("work")));
    let told = world.take(worker);
    let told: Vec<_> = told.iter().map(|told| &told["payload"]["message_id"]).collect();
    assert_eq!(told, [&got[0]["message_id"], &got[2]["message_id"], &got[3]["message_id"]]);
    // A second cancel, another's, and a late answer change nothing.
    world.cancel(asks, "q");
    world.answer(worker, &got[0], &json!("late"));
    assert_eq!((world.take(asks), world.take(worker)), (vec![], vec![]));
    assert_eq!(world.broker.core.requests.len(), 2);
    world.answer(worker, &got[1], &json!("fine"));
    assert_eq!(world.take_one(asks)["payload"], "fine");
    assert_eq!(world.broker.core.counters.cancelled["caller"], 3);
    world.assert_empty(&[worker, asks, other]);
}

#[test]
fn a_cancel_in_the_same_read_as_its_request_comes_behind_it() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let request = framed(&message("app", "request", "work", "q", &json!(1)));
    let cancel = json!({"action": "cancel", "message_id": "q"});
    let cancel = framed(&message("app", "notification", "system", "n", &cancel));
    world.deliver(asks, &[request, cancel].concat());
    world.expect_error(asks, "cancelled", "q");
    let told = world.take(worker);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0]["message_id"], told[1]["payload"]["message_id"]);
}

#[test]
fn a_cancel_without_a_usable_id_is_refused() {
    let mut world = World::new(Limits::default());
    let asks = world.extended("asks");
    let long = "x".repeat(257);
    for bad in [json!(null), json!(7), json!(""), json!(long)] {
        world.notify(asks, &json!({"action": "cancel", "message_id": bad}));
        world.expect_error(asks, "bad_message", "n");
    }
    for heartbeat in [json!(null), json!({}), json!({"action": 7}), json!({"action": "other"})] {
        world.notify(asks, &heartbeat);
        assert_eq!(world.take(asks), [json!(null); 0]);
    }
}

#[test]
fn who_leaves_cancels_all_that_it_waits_for() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let plain = world.connected("app", "plain");
    for at in 0..3 {
        world.call(asks, &format!("q{at}"), &json!({"stream": 2}));
    }
    world.request(plain, "p", &json!(1));
    let got = world.take(worker);
    world.hang_up(asks);
    world.hang_up(plain);
    let told: Vec<_> = world.take(worker).iter().map(|told| told["payload"].clone()).collect();
    let expected: Vec<_> = got
        .iter()
        .map(|got| json!({"action": "cancel", "message_id": got["message_id"], "reason": "gone"}))
        .collect();
    assert_eq!(told, expected);
    world.assert_empty(&[worker]);
}

#[test]
fn a_request_that_is_kept_is_withdrawn_and_its_worker_never_told() {
    let mut world = World::new(Limits::default());
    let worker = world.extended("worker");
    assert_eq!(world.serve_with(worker, &json!(1))["status"], "serving");
    world.received.remove(&worker);
    let asks = world.extended("asks");
    for (id, meta) in [
        ("first", json!({"ttl": 5_000})),
        ("cancelled", json!({"ttl": 5_000})),
        ("late", json!({"ttl": 1_000})),
        ("next", json!({"ttl": 5_000, "headers": {"a": "b"}})),
    ] {
        world.call(asks, id, &meta);
    }
    let first = world.take_one(worker);
    assert_eq!(world.broker.core.requests.kept(), 3);
    world.cancel(asks, "cancelled");
    world.expect_error(asks, "cancelled", "cancelled");
    world.pass(Duration::from_millis(1_200));
    let answer = world.take_one(asks);
    assert!(answer["payload"]["error"].as_str().unwrap().contains("not executed"), "{answer}");
    assert_eq!((world.broker.core.requests.kept(), world.take(worker)), (1, vec![]));
    // The one that waited gets the time that is left.
    world.answer(worker, &first, &json!(1));
    let next = world.take_one(worker);
    assert_eq!((&next["payload"], &next["meta"]["ttl"]), (&json!("next"), &json!(3_800)));
    assert_eq!(next["meta"]["headers"], json!({"a": "b"}));
    world.take(asks);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_kept_request_loses_its_meta_for_a_worker_that_does_not_know_it() {
    let mut world = World::new(Limits::default());
    let plain = world.limited("plain", 1);
    let asks = world.extended("asks");
    world.call(asks, "first", &json!({"ttl": 5_000}));
    world.call(asks, "second", &json!({"ttl": 5_000, "headers": {"a": "}"}}));
    let first = world.take_one(plain);
    world.answer(plain, &first, &json!(1));
    let second = world.take_one(plain);
    assert_eq!((second.get("meta"), &second["payload"]), (None, &json!("second")));
    world.take(asks);
    world.assert_empty(&[plain, asks]);
}

#[test]
fn a_request_that_was_held_back_for_its_whole_time_is_not_executed() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.broker.begin_turn(world.now);
    let mut request = message("app", "request", "work", "q", &json!(1));
    request["meta"] = json!({"ttl": 1_000});
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    // More than a turn takes, so that the request waits, and the next turn comes late.
    let read = [ping.repeat(FRAMES_PER_TURN_MAX), framed(&request)].concat();
    world.broker.receive(asks, &read);
    world.now.monotonic += Duration::from_secs(1);
    world.broker.begin_turn(world.now);
    world.act();
    world.expect_error(asks, "timeout", "q");
    assert_eq!(world.take(worker), [json!(null); 0]);
    assert_eq!(world.broker.core.counters.ttls_over, 1);
}

/// However its keys stand: in the usual order, it could be relayed as it came.
#[test]
fn a_request_that_was_held_back_tells_its_worker_what_is_left() {
    for is_usual in [true, false] {
        let mut world = World::new(Limits::default());
        let worker = world.extended_worker("worker");
        let asks = world.extended("asks");
        let request = if is_usual {
            framed_text(
                "{\"message_id\":\"q\",\"app_id\":\"app\",\"channel_id\":\"work\",\
                 \"message_type\":\"request\",\"payload\":1,\"timestamp\":0,\"reply_to\":null,\
                 \"meta\":{\"ttl\":1000}}",
            )
        } else {
            let mut request = message("app", "request", "work", "q", &json!(1));
            request["meta"] = json!({"ttl": 1_000});
            framed(&request)
        };
        let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
        world.deliver(asks, &request);
        assert_eq!(world.take_one(worker)["meta"], json!({"ttl": 1_000}));
        // More than a turn takes, so that the next ones wait, and the next turn comes late.
        let read = [ping.repeat(FRAMES_PER_TURN_MAX), request.repeat(2)].concat();
        world.broker.receive(asks, &read);
        world.now.monotonic += Duration::from_millis(600);
        world.broker.begin_turn(world.now);
        world.act();
        let got = world.take(worker);
        let left: Vec<_> = got.iter().map(|request| &request["meta"]["ttl"]).collect();
        assert_eq!(left, [400, 400], "{got:?}");
    }
}

#[test]
fn an_idempotent_request_is_given_once_to_another_worker() {
    let mut world = World::new(Limits::default());
    let first = world.extended_worker("first");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"idempotent": true, "ttl": 9_000, "stream": 4}));
    world.call(asks, "other", &json!({"ttl": 9_000}));
    let got = world.take(first);
    world.notify(asks, &json!({"action": "credit", "message_id": "q", "n": 3}));
    assert_eq!(world.take_one(first)["payload"]["n"], 3);
    let second = world.extended_worker("second");
    world.pass(Duration::from_secs(2));
    world.hang_up(first);
    world.expect_error(asks, "worker_lost", "other");
    let again = world.take(second);
    assert_eq!(again[0]["message_id"], got[0]["message_id"]);
    assert_eq!(again[0]["meta"], json!({"ttl": 7_000, "stream": 4}));
    // The credit that the first one had beyond the request goes to the second one, too.
    assert_eq!(again[1]["payload"]["n"], 3);
    let third = world.extended_worker("third");
    world.hang_up(second);
    world.expect_error(asks, "worker_lost", "q");
    assert_eq!(world.take(third), [json!(null); 0]);
    let counters = &world.broker.core.counters;
    assert_eq!((counters.forwarded, counters.retried), (3, 1), "two, and one of them again");
    world.assert_empty(&[asks, third]);
}

#[test]
fn an_idempotent_request_without_another_worker_is_lost() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let idle = world.extended("idle");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"idempotent": true}));
    assert!(world.connection(asks).session().unwrap().request_bytes > 0);
    world.hang_up(worker);
    world.expect_error(asks, "worker_lost", "q");
    world.assert_empty(&[asks, idle]);
}

#[test]
fn a_worker_that_reads_slowly_is_told_later_and_once() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.stalled.push(worker);
    for id in ["a", "b", "c"] {
        world.call(asks, id, &json!({"stream": 2}));
    }
    let filler = json!("x".repeat(8 << 10));
    world.send(asks, &message("app", "request", "work", "large", &filler));
    assert!(world.connection(worker).congested.is_some());
    let tables_bytes = world.broker.core.budget.tables_bytes;
    for n in [1, 2, 3] {
        world.notify(asks, &json!({"action": "credit", "message_id": "a", "n": n}));
        world.notify(asks, &json!({"action": "credit", "message_id": "b", "n": n}));
    }
    world.cancel(asks, "b");
    world.cancel(asks, "c");
    assert!(world.broker.core.budget.tables_bytes < tables_bytes + 1_000);
    world.stalled.clear();
    world.broker.flush(worker, |_| Ok::<_, Infallible>(Written::default())).unwrap();
    world.relieve(worker);
    world.act();
    let got = world.take(worker);
    let told: Vec<_> = got[4..].iter().map(|told| told["payload"].clone()).collect();
    let cancel = |at: usize| json!({"action": "cancel", "message_id": got[at]["message_id"], "reason": "caller"});
    let credit = json!({"action": "credit", "message_id": got[0]["message_id"], "n": 6});
    assert_eq!(told, [credit, cancel(1), cancel(2)]);
    world.take(asks);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_worker_that_leaves_takes_with_it_what_it_is_owed() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.stalled.push(worker);
    world.call(asks, "a", &json!({"stream": 2}));
    world.send(asks, &message("app", "request", "work", "large", &json!("x".repeat(8 << 10))));
    world.cancel(asks, "a");
    world.take(asks);
    world.hang_up(worker);
    world.assert_empty(&[asks]);
}

#[test]
fn a_publications_meta_reaches_those_who_know_it_and_nobody_else() {
    let mut world = World::new(Limits::default());
    let [publisher, knows, plain] =
        [world.extended("p"), world.extended("k"), world.connected("app", "plain")];
    for key in [knows, plain] {
        world.subscribe(key, "app", "news");
    }
    let mut publication = message("app", "publish", "news", "1", &json!({"meta": 1}));
    publication["meta"] = json!({"headers": {"a": "b"}, "trace": {"traceparent": "t"}});
    // Whether it stands last or not.
    let text = publication.to_string();
    let last = text.replace(&format!("\"meta\":{},", publication["meta"]), "");
    let last = format!("{},\"meta\":{}}}", &last[..last.len() - 1], publication["meta"]);
    for body in [&text, &last] {
        world.deliver(publisher, &framed_text(body));
        assert_eq!(world.take_one(knows), publication);
        let mut without = publication.clone();
        without.as_object_mut().unwrap().remove("meta");
        assert_eq!(world.take_one(plain), without, "{body}");
    }
    // A notification for a worker keeps it, too.
    let worker = world.extended_worker("worker");
    let mut note = message("app", "notification", "work", "2", &json!(1));
    note["meta"] = publication["meta"].clone();
    world.send(publisher, &note);
    assert_eq!(world.take_one(worker)["meta"], publication["meta"]);
    assert_eq!(world.broker.core.counters.deliveries, 4);
}

#[test]
fn a_drain_waits_for_calls_and_tells_workers_of_those_it_cuts_off() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    for id in ["cancelled", "cut off"] {
        world.call(asks, id, &json!({"stream": 2}));
    }
    let got = world.take(worker);
    world.broker.begin_turn(world.now);
    world.broker.begin_drain();
    world.act();
    world.take(asks);
    world.take(worker);
    world.cancel(asks, "cancelled");
    world.expect_error(asks, "cancelled", "cancelled");
    world.expect_cancel(worker, &got[0], "caller");
    world.notify(asks, &json!({"action": "credit", "message_id": "cut off", "n": 1}));
    assert_eq!(world.take_one(worker)["payload"]["n"], 1);
    world.pass(Duration::from_secs(10));
    world.expect_error(asks, "timeout", "cut off");
    world.expect_cancel(worker, &got[1], "drain");
}

#[test]
fn who_waited_for_a_slow_reader_goes_on_before_it_is_told_what_it_is_owed() {
    let limits = Limits { queue_high_water_bytes: 4 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    world.subscribe(worker, "app", "news");
    let asks = world.extended("asks");
    let publisher = world.connected("app", "publisher");
    world.stalled.push(worker);
    world.call(asks, "a", &json!({"stream": 2}));
    world.send(asks, &message("app", "request", "work", "large", &json!("x".repeat(8 << 10))));
    world.send(publisher, &message("app", "publish", "news", "p", &json!(1)));
    assert!(world.is_parked(publisher));
    world.cancel(asks, "a");
    // Its own answers may put its queue over the mark again, and they would never find it drained.
    world.stalled.clear();
    world.relieve(worker);
    let resumed: Vec<_> = std::iter::from_fn(|| world.broker.next_action())
        .filter_map(|action| if let Action::Resume(key) = action { Some(key) } else { None })
        .collect();
    assert_eq!(resumed.first(), Some(&publisher));
    assert!(resumed.contains(&worker));
}
