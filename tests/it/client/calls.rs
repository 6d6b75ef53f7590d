//! Requests with deadlines that travel, and cancels, as the server sees them.

use std::time::Duration;

use ipc_framework::client::{CancelToken, Client, Error, Execution, RequestOptions, Trace};
use ipc_framework::{Json, Message, MessageType};
use serde_json::{Value, json};

use super::many_threads::wait;
use super::scripted::{Scripted, Side, call, failure, picked, publish_until_some_wait};
use crate::support::{HANG, until};

/// A client and its server, which knows the extension `call`.
fn connect() -> (Scripted, Client, Side) {
    let script = Scripted::new();
    let (client, side) = script.call(&script.options());
    (script, client, side)
}

/// Expects that the client cancels this request.
fn expect_cancel(side: &mut Side, request: &Value) {
    let cancel = side.receive();
    assert_eq!(cancel["message_type"], "notification", "{cancel}");
    assert_eq!(cancel["channel_id"], "system", "{cancel}");
    let payload = json!({"action": "cancel", "message_id": request["message_id"]});
    assert_eq!(cancel["payload"], payload, "{cancel}");
}

/// Expects that the client has sent nothing else.
fn expect_nothing(client: &Client, side: &mut Side) {
    let sent = client.send_request_async("fence", &0, |_| {}).unwrap();
    let fence = side.receive();
    assert_eq!(fence["channel_id"], "fence", "{fence}");
    side.answer(&fence, 0);
    until("the answer", || client.connection_info().pending_requests, |pending| *pending == 0);
    assert!(!client.cancel(sent));
}

#[test]
fn the_server_says_what_it_knows_and_which_limits_it_has() {
    let (script, client, _side) = connect();
    assert!(client.has_call());
    let limits = client.server_limits().unwrap();
    assert_eq!(limits.frame_bytes_max, 1_000_000);
    assert_eq!(limits.request_timeout, Some(Duration::from_secs(30)));
    for (welcome, has_call) in [
        (json!({}), false),
        (json!({"extensions": []}), false),
        (json!({"extensions": "call"}), false),
        (json!({"extensions": ["call", 1]}), false),
        (json!({"extensions": ["later", "call"], "limits": 7}), true),
        (json!({"extensions": ["call"], "limits": {"max_frame_bytes": -1}}), true),
        (json!({"server": 7, "limits": {"max_frame_bytes": 1, "request_timeout_ms": 1}}), false),
    ] {
        let options = script.options();
        let connecting = std::thread::spawn(move || options.connect().unwrap());
        let _side = script.accept_as(&welcome);
        let client = connecting.join().unwrap();
        assert_eq!(client.has_call(), has_call, "{welcome}");
        assert_eq!(client.server_limits(), None, "{welcome}");
    }
    let options = script.options().connection;
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let _side = script.accept_as(&call());
    let connection = connecting.join().unwrap();
    assert!(connection.has_call() && connection.server_limits() == Some(limits));
}

#[test]
fn a_request_tells_what_its_caller_gave_and_nothing_else() {
    let (_script, client, mut side) = connect();
    // `receive` accepts the seven keys alone.
    for options in [None, Some(RequestOptions::default())] {
        let future = match options {
            None => client.request_future("work", &1),
            Some(options) => client.request_future_with("work", &1, &options),
        };
        let request = side.receive();
        side.answer(&request, 2);
        assert_eq!(wait(future.unwrap()).unwrap().payload.as_str(), "2");
    }
    let all = RequestOptions::default()
        .timeout(Duration::from_secs(60))
        .idempotent(true)
        .trace(Trace::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
        .header("tenant", "acme");
    let future = client.request_future_with("work", &[1], &all).unwrap();
    let body = side.try_receive_body().unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let meta = &request["meta"];
    assert!((59_000..=60_000).contains(&meta["ttl"].as_u64().unwrap()), "{meta}");
    assert_eq!(meta["idempotent"], true);
    assert_eq!(meta["headers"], json!({"tenant": "acme"}));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(meta["trace"], json!({"traceparent": parent}));
    assert_eq!(meta.as_object().unwrap().len(), 4);
    assert!(body.ends_with(format!(",\"ttl\":{}}}}}", meta["ttl"]).as_bytes()), "meta is last");
    side.answer(&request, "done");
    assert_eq!(wait(future).unwrap().payload.as_str(), "\"done\"");
}

#[test]
fn a_deadline_of_the_callers_own_is_the_servers_to_keep_and_the_clients_default_is_cancelled() {
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.timeout = Duration::from_millis(20);
    let (client, mut side) = script.call(&options);
    let is_late = |answer: Result<Message, Error>| {
        let error = answer.unwrap_err();
        assert!(
            matches!(error, Error::Deadline { execution: Execution::Possible, .. }),
            "{error:?}"
        );
    };
    let soon = RequestOptions::default().timeout(Duration::from_millis(20));
    for options in [RequestOptions::default(), soon] {
        let is_told = options.timeout.is_some();
        is_late(client.request_with("work", &1, &options));
        let request = side.receive_extended();
        assert_eq!(request["meta"]["ttl"].is_u64(), is_told, "{request}");
        if !is_told {
            expect_cancel(&mut side, &request);
        }
        is_late(wait(client.request_future_with("work", &1, &options).unwrap()));
        let request = side.receive_extended();
        if !is_told {
            expect_cancel(&mut side, &request);
        }
        // What the server says of it now is no news.
        side.answer(&request, failure(if is_told { "timeout" } else { "cancelled" }));
    }
    is_late(client.request("work", &1));
    let request = side.receive();
    expect_cancel(&mut side, &request);
}

#[test]
fn a_token_ends_all_that_was_sent_with_it() {
    let (_script, client, mut side) = connect();
    let refused = picked(&client, |event| Some(format!("{event:?}")));
    let token = CancelToken::new();
    let options = RequestOptions::default().cancel(token.clone());
    let asking = client.clone();
    let of_thread = options.clone();
    let blocked = std::thread::spawn(move || asking.request_with("work", &1, &of_thread));
    let first = side.receive();
    let future = client.request_future_with("work", &2, &options).unwrap();
    let second = side.receive();
    let (tell, told) = std::sync::mpsc::channel();
    let callback = move |answer| tell.send(answer).unwrap();
    client.send_request_async_with("work", &3, &options, callback).unwrap();
    let third = side.receive();
    let mut message = Message::new(MessageType::Request, "app", "work", Json::default());
    message.message_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".into();
    let (tell, as_it_came) = std::sync::mpsc::channel();
    let callback = move |answer| tell.send(answer).unwrap();
    client.send_request_message_with(&message, &options, callback).unwrap();
    let fourth = side.receive();
    token.cancel();
    let mut cancelled: Vec<Value> = (0..4).map(|_| side.receive()["payload"].clone()).collect();
    for request in [&first, &second, &third, &fourth] {
        let cancel = json!({"action": "cancel", "message_id": request["message_id"]});
        let at = cancelled.iter().position(|seen| *seen == cancel).expect("each is cancelled");
        cancelled.remove(at);
        side.answer(request, failure("cancelled"));
    }
    for answer in [
        blocked.join().unwrap(),
        wait(future),
        told.recv_timeout(HANG).unwrap(),
        as_it_came.recv_timeout(HANG).unwrap(),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Cancelled { execution: Execution::Possible }), "{error:?}");
        assert_eq!(error.code(), Some("cancelled"));
    }
    let error = client.request_with("work", &1, &options).unwrap_err();
    assert!(matches!(error, Error::Cancelled { execution: Execution::Never }), "{error:?}");
    expect_nothing(&client, &mut side);
    assert!(refused.try_recv().is_err(), "the answers to cancels are no news");
}

#[test]
fn a_request_that_was_answered_is_not_cancelled() {
    let (_script, client, mut side) = connect();
    let token = CancelToken::new();
    let options = RequestOptions::default().cancel(token.clone());
    let future = client.request_future_with("work", &1, &options).unwrap();
    let request = side.receive();
    side.answer(&request, 1);
    wait(future).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let callback = move |answer| tell.send(answer).unwrap();
    let id = client.send_request_async_with("work", &1, &options, callback).unwrap();
    let request = side.receive();
    side.answer(&request, 1);
    told.recv_timeout(HANG).unwrap().unwrap();
    token.cancel();
    assert!(!client.cancel(id));
    expect_nothing(&client, &mut side);
}

#[test]
fn to_drop_a_future_cancels_its_request() {
    let (_script, client, mut side) = connect();
    drop(client.request_future("work", &1).unwrap());
    let request = side.receive();
    expect_cancel(&mut side, &request);
    let id = client.send_request_async("work", &2, |_| unreachable!("it is dropped")).unwrap();
    let request = side.receive();
    assert!(client.cancel(id));
    expect_cancel(&mut side, &request);
    expect_nothing(&client, &mut side);
}

#[test]
fn a_request_that_has_not_left_is_not_sent_and_not_cancelled() {
    let (_script, client, mut side) = connect();
    let sent = publish_until_some_wait(&client);
    let future = client.request_future("work", &1).unwrap();
    drop(future);
    for _ in 0..sent {
        assert_eq!(side.receive()["message_type"], "publish");
    }
    expect_nothing(&client, &mut side);
}

#[test]
fn an_older_server_is_asked_as_before_and_told_nothing() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let token = CancelToken::new();
    let options = RequestOptions::default().timeout(Duration::from_millis(20)).idempotent(true);
    let error = client.request_with("work", &1, &options).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    side.receive();
    // A worker would act without the headers as if it had none.
    let error = client.request_with("work", &1, &options.header("tenant", "acme")).unwrap_err();
    assert_eq!(error.code(), Some("unsupported"), "{error}");
    assert!(error.to_string().contains("headers"), "{error}");
    let cancelled = RequestOptions::default().cancel(token.clone());
    let future = client.request_future_with("work", &1, &cancelled).unwrap();
    side.receive();
    token.cancel();
    assert!(matches!(wait(future).unwrap_err(), Error::Cancelled { .. }));
    drop(client.request_future("work", &1).unwrap());
    side.receive();
    let error = client.request_stream("work", &1).unwrap_err();
    assert_eq!(error.code(), Some("unsupported"), "{error}");
    expect_nothing(&client, &mut side);
}

#[test]
fn what_waits_for_a_connection_suits_the_one_that_takes_it() {
    let script = Scripted::new();
    let (client, side) = script.call(&script.options());
    let down = |client: &Client| {
        until("the loss", || client.is_connected(), |is_connected| !is_connected);
    };
    drop(side);
    down(&client);
    let options = RequestOptions::default().timeout(HANG);
    let headers = options.clone().header("a", "b");
    let refused = client.request_future_with("work", &0, &headers).unwrap();
    let future = client.request_future_with("work", &1, &options).unwrap();
    let stream = client.request_stream_with("work", &2, &options).unwrap();
    // The next server knows no extensions.
    let mut side = script.accept();
    let request = side.receive();
    assert_eq!(request["payload"], 1, "{request}");
    assert_eq!(wait(refused).unwrap_err().code(), Some("unsupported"));
    side.answer(&request, "plain");
    assert_eq!(wait(future).unwrap().payload.as_str(), "\"plain\"");
    let ends: Vec<_> = stream.collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(ends[0].as_ref().unwrap_err().code(), Some("unsupported"));
    assert!(!client.has_call());
    drop(side);
    down(&client);
    let future = client.request_future_with("work", &3, &options).unwrap();
    let mut side = script.accept_as(&call());
    let request = side.receive_extended();
    assert_eq!(request["payload"], 3, "{request}");
    side.answer(&request, "plain");
    wait(future).unwrap();
}

#[test]
fn every_method_tells_the_timeout_that_its_caller_gives() {
    let (_script, client, mut side) = connect();
    let client = std::sync::Arc::new(client);
    let asking = std::sync::Arc::clone(&client);
    let asking = std::thread::spawn(move || asking.send_request("work", &1, HANG));
    let request = side.receive_extended();
    let ttl = |request: &Value| request["meta"]["ttl"].as_u64().map(Duration::from_millis);
    assert!(ttl(&request).is_some_and(|ttl| ttl <= HANG && ttl > HANG / 2), "{request}");
    side.answer(&request, 0);
    asking.join().unwrap().unwrap();
    let future = client.request_future_timeout("work", &1, HANG).unwrap();
    assert!(ttl(&side.receive_extended()).is_some());
    let called = client.send_request_async_timeout("work", &1, HANG, drop).unwrap();
    assert!(ttl(&side.receive_extended()).is_some());
    // The client's own is not told, and neither is one that is over before it begins.
    let own = client.request_future("work", &1).unwrap();
    assert_eq!(side.receive_extended().get("meta"), None);
    let _called = client.send_request_async("work", &1, drop).unwrap();
    assert_eq!(side.receive_extended().get("meta"), None);
    client.send_request("work", &1, Duration::ZERO).unwrap_err();
    assert_eq!(side.receive_extended().get("meta"), None);
    drop((future, own));
    client.cancel(called);
}

#[test]
fn a_deadline_that_was_told_too_late_is_cancelled_as_well() {
    let script = Scripted::new();
    let (client, side) = script.call(&script.options());
    drop(side);
    until("the loss", || client.is_connected(), |is_connected| !is_connected);
    let options = RequestOptions::default().timeout(Duration::from_secs(2));
    let future = client.request_future_with("work", &1, &options).unwrap();
    let mut side = script.accept_as(&call());
    // The time that it waited here is not in its `ttl`.
    let request = side.receive_extended();
    assert!(request["meta"]["ttl"].as_u64().unwrap() > 1_900, "{request}");
    assert!(matches!(wait(future).unwrap_err(), Error::Deadline { .. }));
    expect_cancel(&mut side, &request);
}
