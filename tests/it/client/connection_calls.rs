//! Requests with options and answers in parts on a blocking connection.

use std::time::Duration;

use ipc_framework::client::{CancelReason, CancelToken, Connection, Error, RequestOptions};
use serde_json::{Value, json};

use super::many_threads::{client_options, connect, value};
use super::scripted::{Scripted, Side, call, failure};
use crate::support::{HANG, serve_echo};

/// A connection and its server, which knows the extension `call`.
fn open(timeout: Duration) -> (Connection, Side) {
    let script = Scripted::new();
    let mut options = script.options().connection;
    options.timeout = timeout;
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = script.accept_as(&call());
    (connecting.join().unwrap(), side)
}

fn respond(side: &mut Side, request: &Value, payload: &Value, meta: Value) {
    let mut response = side.message("response", "tokens", payload);
    response["reply_to"] = request["message_id"].clone();
    response["meta"] = meta;
    side.send_message(&response);
}

fn expect_told(side: &mut Side, payload: &Value) {
    let told = side.receive();
    assert_eq!((&told["message_type"], &told["payload"]), (&json!("notification"), payload));
}

#[test]
fn deadlines_are_told_and_the_connections_own_is_cancelled() {
    let (mut connection, mut side) = open(Duration::from_millis(20));
    let soon = RequestOptions::default().timeout(Duration::from_millis(20)).header("a", "b");
    let error = connection.request_with("work", &1, &soon).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    let request = side.receive_extended();
    assert!((1..=20).contains(&request["meta"]["ttl"].as_u64().unwrap()), "{request}");
    assert_eq!(request["meta"]["headers"], json!({"a": "b"}));
    for with_options in [false, true] {
        let answer = if with_options {
            connection.request_with("work", &1, &RequestOptions::default())
        } else {
            connection.request("work", &1)
        };
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
        let request = side.receive();
        let id = &request["message_id"];
        expect_told(&mut side, &json!({"action": "cancel", "message_id": id}));
        side.answer(&request, failure("cancelled"));
    }
    // The answers to cancels are no messages.
    side.send("publish", "news", json!("flash"));
    connection.set_timeout(HANG);
    assert_eq!(value(&connection.receive(Some(HANG)).unwrap().unwrap()), "flash");
    let token = CancelToken::new();
    token.cancel();
    let error = connection.request_with("work", &1, &RequestOptions::default().cancel(token));
    assert!(matches!(error, Err(Error::Cancelled { .. })));
}

#[test]
fn parts_are_read_one_by_one_and_to_leave_them_cancels_the_rest() {
    let (mut connection, mut side) = open(HANG);
    let options = RequestOptions::default().credit(2);
    let mut stream = connection.request_stream_with("tokens", &1, &options).unwrap();
    let request = side.receive_extended();
    assert_eq!(request["meta"], json!({"stream": 2}));
    let id = &request["message_id"];
    side.send("publish", "news", json!("meanwhile"));
    respond(&mut side, &request, &failure("timeout"), json!({"seq": 0, "newer": 1}));
    assert_eq!(value(&stream.next().unwrap().unwrap()), failure("timeout"));
    expect_told(&mut side, &json!({"action": "credit", "message_id": id, "n": 1}));
    drop(stream);
    expect_told(&mut side, &json!({"action": "cancel", "message_id": id}));
    respond(&mut side, &request, &json!("late"), json!({"seq": 1}));
    side.answer(&request, failure("cancelled"));
    let answering = std::thread::spawn(move || {
        let request = side.receive();
        side.answer(&request, "well again");
        side
    });
    assert_eq!(value(&connection.request("work", &1).unwrap()), "well again");
    let mut side = answering.join().unwrap();
    respond(&mut side, &request, &json!("late"), json!({"seq": 2}));
    side.send("publish", "news", json!("afterwards"));
    for expected in ["meanwhile", "afterwards"] {
        assert_eq!(value(&connection.receive(Some(HANG)).unwrap().unwrap()), expected);
    }
}

#[test]
fn a_server_that_breaks_the_rules_ends_the_stream_and_not_the_connection() {
    let (mut connection, mut side) = open(HANG);
    for (payload, meta, is_cancelled) in [
        (json!(1), json!({"seq": 1}), true),
        (json!(null), json!({"seq": 1, "end": true}), false),
        (json!(1), json!({"seq": "0"}), true),
        (json!(1), json!(7), true),
    ] {
        let mut stream = connection.request_stream("tokens", &1).unwrap();
        let request = side.receive_extended();
        respond(&mut side, &request, &payload, meta);
        assert!(matches!(stream.next(), Some(Err(Error::Protocol { .. }))));
        assert!(stream.next().is_none());
        drop(stream);
        if is_cancelled {
            let id = &request["message_id"];
            expect_told(&mut side, &json!({"action": "cancel", "message_id": id}));
        }
    }
    // A part of an answer to a request that takes none.
    let asking = std::thread::spawn(move || {
        let error = connection.request("work", &1).unwrap_err();
        (connection, error)
    });
    let request = side.receive();
    respond(&mut side, &request, &json!(1), json!({"seq": 0}));
    let (mut connection, error) = asking.join().unwrap();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let mut stream = connection.request_stream("tokens", &1).unwrap();
    side.receive();
    let request = side.receive_extended();
    side.answer(&request, failure("worker_lost"));
    assert_eq!(stream.next().unwrap().unwrap_err().code(), Some("worker_lost"));
    assert!(stream.next().is_none());
}

#[test]
fn parts_come_from_a_real_worker_as_well() {
    let server = serve_echo();
    let worker = connect(&server);
    worker
        .serve_stream("count", 1, |request, parts| {
            Ok((0..request.payload.decode::<u32>()?).try_for_each(|n| parts.send(&n))?)
        })
        .unwrap();
    let mut connection = client_options(&server).connection.connect().unwrap();
    let expected: Vec<Value> = (0..1_000).map(Value::from).collect();
    for credit in [1, 7, 65_536] {
        let options = RequestOptions::default().credit(credit).timeout(HANG);
        let stream = connection.request_stream_with("count", &1_000, &options).unwrap();
        let parts: Vec<Value> = stream.map(|part| value(&part.unwrap())).collect();
        assert_eq!(parts, expected);
    }
    assert_eq!(connection.request_stream("count", &1_000_000).unwrap().take(3).count(), 3);
    assert_eq!(value(&connection.request("count", &2).unwrap()), json!([0, 1]));
    assert_eq!(connection.request_stream("echo", &1).unwrap().count(), 1);
    worker.close().unwrap();
}

#[test]
fn a_connection_serves_requests_that_have_deadlines_are_cancelled_and_stream() {
    let server = serve_echo();
    let mut worker = client_options(&server).connection.connect().unwrap();
    worker.serve("work").unwrap();
    let client = connect(&server);
    let told = RequestOptions::default().timeout(Duration::from_secs(50)).credit(2);
    let next = |worker: &mut Connection| worker.receive(Some(HANG)).unwrap().unwrap();

    let future = client.request_future("work", &1).unwrap();
    let request = next(&mut worker);
    assert!(worker.remaining(&request).is_none() && !worker.wants_parts(&request));
    assert!(matches!(worker.respond_part(&request, &1), Err(Error::Unsupported { .. })));
    assert_eq!(worker.cancel_reason(&request).unwrap(), None);
    drop(future);
    client.flush().unwrap();
    worker.ping().unwrap();
    assert_eq!(worker.cancel_reason(&request).unwrap(), Some(CancelReason::Caller));
    worker.respond(&request, &"nobody hears it").unwrap();
    assert_eq!(worker.cancel_reason(&request).unwrap(), None, "it is forgotten");

    let mut stream = client.request_stream_with("work", &2, &told).unwrap();
    let request = next(&mut worker);
    assert!(worker.remaining(&request).unwrap() <= Duration::from_secs(50));
    assert!(worker.wants_parts(&request));
    let reading = std::thread::spawn(move || {
        let first: Vec<Value> = (0..50).map(|_| value(&stream.next().unwrap().unwrap())).collect();
        (first, stream)
    });
    for n in 0..50 {
        worker.respond_part(&request, &n).unwrap();
    }
    let (first, mut stream) = reading.join().unwrap();
    assert_eq!(first, (0..50).map(Value::from).collect::<Vec<_>>());
    worker.end_parts(&request).unwrap();
    assert!(stream.next().is_none());
    assert!(worker.end_parts(&request).is_err());

    let stream = client.request_stream_with("work", &3, &told).unwrap();
    let request = next(&mut worker);
    drop(stream);
    let sent = (0..100).try_for_each(|n| worker.respond_part(&request, &n));
    assert!(matches!(sent, Err(Error::Cancelled { .. })), "{sent:?}");
    // It goes on as before.
    let future = client.request_future("work", &4).unwrap();
    let request = next(&mut worker);
    worker.respond(&request, &"well").unwrap();
    assert_eq!(value(&super::many_threads::wait(future).unwrap()), "well");
}

#[test]
fn words_about_requests_that_make_no_sense_are_notifications_or_nothing() {
    let (mut connection, mut side) = open(HANG);
    let id = side.send("request", "work", json!(1));
    let request = connection.receive(Some(HANG)).unwrap().unwrap();
    assert_eq!(request.message_id, id);
    for payload in [
        json!({"action": "credit", "message_id": id, "n": 5}),
        json!({"action": "credit", "message_id": "another", "n": 5}),
        json!({"action": "cancel", "message_id": "another"}),
    ] {
        side.send("notification", "system", payload);
    }
    for payload in
        [json!(null), json!({"action": "cancel"}), json!({"action": "of a newer server"})]
    {
        side.send("notification", "system", payload.clone());
        let message = connection.receive(Some(HANG)).unwrap().unwrap();
        assert_eq!(value(&message), payload);
    }
    assert_eq!(connection.cancel_reason(&request).unwrap(), None);
    assert!(!connection.wants_parts(&request));
    let mut bad = side.message("request", "work", &json!(2));
    bad["meta"] = json!({"ttl": 0, "stream": 1});
    side.send_message(&bad);
    let request = connection.receive(Some(HANG)).unwrap().unwrap();
    assert!(!connection.wants_parts(&request) && connection.remaining(&request).is_none());
}
