//! Workers that answer in parts, against the real server over both kinds of sockets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use ipc_framework::client::{Client, Endpoint, Error, PartSender, RequestOptions};
use ipc_framework::{Config, HandlerError, Json, UnixSocket};
use serde_json::{Value, json};

use super::many_threads::{client_options, connect, value};
use super::scripted::{Scripted, admit};
use super::workers::deferred;
use crate::scratch::Scratch;
use crate::support::{self, HANG, serve_echo, until};

/// Serves a channel that counts to the number that it is asked for.
fn serve_count(worker: &Client) {
    worker
        .serve_stream("count", 2, |request, parts| {
            for n in 0..request.payload.decode::<u32>()? {
                parts.send(&n)?;
            }
            Ok(())
        })
        .unwrap();
}

fn numbers(client: &Client, count: u32, credit: u32) -> Vec<Value> {
    let options = RequestOptions::default().credit(credit);
    let stream = client.request_stream_with("count", &count, &options).unwrap();
    stream.map(|part| value(&part.unwrap())).collect()
}

fn next(stream: &mut impl Iterator<Item = Result<ipc_framework::Message, Error>>) -> Value {
    value(&stream.next().expect("a part").expect("no error"))
}

#[test]
fn every_part_arrives_once_and_in_order_over_both_kinds_of_sockets() {
    let scratch = Scratch::new("part-senders");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = support::serve(config, support::install_echo);
    let over_tcp = connect(&server);
    let mut options = client_options(&server);
    options.connection.endpoint = Endpoint::unix(&path);
    let over_unix = options.connect().unwrap();
    serve_count(&over_tcp);
    let expected: Vec<Value> = (0..1_000).map(Value::from).collect();
    for client in [&over_tcp, &over_unix] {
        for credit in [1, 2, 64, 65_536] {
            assert_eq!(numbers(client, 1_000, credit), expected, "with a credit of {credit}");
        }
        assert_eq!(numbers(client, 0, 8), Vec::<Value>::new());
        let all = client.request("count", &3).unwrap();
        assert_eq!(all.payload.as_str(), "[0,1,2]");
        assert_eq!(client.request("count", &0).unwrap().payload.as_str(), "[]");
    }
    // A peer of the base protocol gets one answer, with its seven keys.
    let mut peer = server.connected("app", "a published one");
    assert_eq!(peer.request("count", json!(4)), json!([0, 1, 2, 3]));
    // What is no stream is the only part.
    let only: Vec<_> = over_unix.request_stream("echo", &"only").unwrap().collect();
    assert_eq!(only.len(), 1);
    assert_eq!(value(only[0].as_ref().unwrap()), "only");
    over_tcp.close().unwrap();
}

#[test]
fn a_handler_waits_for_its_reader_and_other_streams_go_on() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    worker
        .serve_stream("tokens", 1, move |_request, parts| {
            loop {
                parts.send(&counted.load(Ordering::SeqCst))?;
                counted.fetch_add(1, Ordering::SeqCst);
            }
        })
        .unwrap();
    serve_count(&worker);
    let options = RequestOptions::default().credit(4);
    let mut stuck = client.request_stream_with("tokens", &1, &options).unwrap();
    until("its credit", || sent.load(Ordering::SeqCst), |sent| *sent == 4);
    assert_eq!(numbers(&client, 500, 8).len(), 500);
    assert_eq!(sent.load(Ordering::SeqCst), 4);
    assert_eq!((next(&mut stuck), next(&mut stuck)), (json!(0), json!(1)));
    until("more credit", || sent.load(Ordering::SeqCst), |sent| *sent == 6);
    // The handler is the only one of its channel: it is free once the reader has left.
    drop(stuck);
    let mut next_one = client.request_stream_with("tokens", &2, &options).unwrap();
    next(&mut next_one);
    drop(next_one);
    worker.close().unwrap();
}

/// Of the stream that nobody reads no more parts are sent than its credit, and the other 99 are read
/// to their ends.
#[test]
fn one_of_a_hundred_streams_that_is_stuck_holds_up_none() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let sent_to_stuck = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent_to_stuck);
    worker
        .serve_stream("tokens", 100, move |request, parts| {
            let number = request.payload.decode::<u64>()?;
            for n in 0..200 {
                parts.send(&[number, n])?;
                counted.fetch_add(usize::from(number == 0), Ordering::SeqCst);
            }
            Ok(())
        })
        .unwrap();
    let options = RequestOptions::default().credit(8);
    let mut streams: Vec<_> = (0..100_u64)
        .map(|number| client.request_stream_with("tokens", &number, &options).unwrap())
        .collect();
    let stuck = streams.remove(0);
    for n in 0..200 {
        for (at, stream) in streams.iter_mut().enumerate() {
            assert_eq!(next(stream), json!([at + 1, n]));
        }
    }
    for stream in &mut streams {
        assert!(stream.next().is_none());
    }
    until("its credit", || sent_to_stuck.load(Ordering::SeqCst), |sent| *sent == 8);
    let rest: Vec<Value> = stuck.map(|part| value(&part.unwrap())).collect();
    assert_eq!(rest, (0..200).map(|n| json!([0, n])).collect::<Vec<_>>());
    worker.close().unwrap();
}

#[test]
fn an_answer_in_parts_ends_with_the_error_of_its_handler() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    worker
        .serve_stream("fails", 1, |request, parts| {
            parts.send(&"before")?;
            match value(request).as_str().unwrap() {
                "app" => Err(HandlerError::app("no_more", "it is empty").details(&[1])),
                "crash" => Err(HandlerError::new("out of order")),
                "panic" => panic!("a test wants it"),
                _ => {
                    let no_json = std::collections::HashMap::from([((1, 2), 3)]);
                    assert!(matches!(parts.send(&no_json), Err(Error::NotJson(_))));
                    parts.send(&"after")?;
                    Ok(())
                }
            }
        })
        .unwrap();
    let ends = [
        ("app", "app:no_more", "it is empty"),
        ("crash", "handler_failed", "out of order"),
        ("panic", "handler_failed", "panicked"),
    ];
    for (how, code, says) in ends {
        let mut stream = client.request_stream("fails", how).unwrap();
        assert_eq!(next(&mut stream), "before");
        let error = stream.next().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(code), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(stream.next().is_none());
        let error = client.request("fails", how).unwrap_err();
        assert_eq!(error.code(), Some(code), "{error:?}");
    }
    let parts: Vec<_> = client.request_stream("fails", "part").unwrap().collect();
    let parts: Vec<Value> = parts.iter().map(|part| value(part.as_ref().unwrap())).collect();
    assert_eq!(parts, ["before", "after"]);
    assert_eq!(client.request("fails", "part").unwrap().payload.as_str(), r#"["before","after"]"#);
}

#[test]
fn parts_that_fit_into_no_frame_together_are_only_for_streams() {
    let limits = ipc_framework::Limits::default().frame_bytes_max(20_000);
    let server = support::serve(Config::default().limits(limits), support::install_echo);
    let (worker, client) = (connect(&server), connect(&server));
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    worker
        .serve_stream("large", 1, move |request, parts| {
            let sent = (0..request.payload.decode::<u32>()?).try_for_each(|_| {
                let part = "x".repeat(900);
                parts.send(&part)
            });
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(sent?)
        })
        .unwrap();
    assert_eq!(client.request_stream("large", &100).unwrap().count(), 100);
    assert_eq!(client.request("large", &20).unwrap().payload.as_str().len(), 20 * 903 + 1);
    // The first is over the limit by its payload, the second by what is around it.
    for count in [100, 22] {
        let error = client.request("large", &count).unwrap_err();
        assert_eq!(error.code(), Some("limit_exceeded"), "{error:?}");
    }
    // The requester has its error before the handler has ended.
    until("the ends", || ended.load(Ordering::SeqCst), |ended| *ended == 4);
    // All of them together nest too deep by one.
    worker
        .serve_stream("deep", 1, |_request, parts| {
            let deepest = format!("{}{}", "[".repeat(127), "]".repeat(127));
            Ok(parts.send(&Json::parse(deepest)?)?)
        })
        .unwrap();
    assert_eq!(client.request_stream("deep", &1).unwrap().flatten().count(), 1);
    let error = client.request("deep", &1).unwrap_err();
    assert_eq!(error.code(), Some("limit_exceeded"), "{error:?}");
}

#[test]
fn a_sender_that_must_not_wait_is_told_of_credit_and_of_the_end() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = deferred(&worker, "tokens", 2);
    let options = RequestOptions::default().credit(2);
    let mut stream = client.request_stream_with("tokens", &1, &options).unwrap();
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    assert!(responder.call().wants_parts());
    let mut parts = responder.parts();
    assert!(parts.try_send(&0).unwrap() && parts.try_send(&1).unwrap());
    assert_eq!(parts.credit(), 0);
    assert!(!parts.try_send(&2).unwrap());
    let (sender, told) = mpsc::channel();
    parts.on_credit(move || sender.send(()).unwrap());
    assert_eq!(next(&mut stream), 0);
    told.recv_timeout(HANG).unwrap();
    assert!(parts.try_send(&2).unwrap());
    assert_eq!((next(&mut stream), next(&mut stream)), (json!(1), json!(2)));
    drop(stream);
    until("the end", || parts.is_cancelled(), |is_cancelled| *is_cancelled);
    until("its listener", || told.try_recv().is_ok(), |is_told| *is_told);
    assert!(matches!(parts.try_send(&3), Err(Error::Cancelled { .. })));
    assert!(matches!(parts.send(&3), Err(Error::Cancelled { .. })));
    parts.end().unwrap();
    // Dropped without an end, it fails.
    let mut stream = client.request_stream_with("tokens", &1, &options).unwrap();
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    drop(responder.parts());
    let error = stream.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("dropped the request"), "{error}");
    worker.close().unwrap();
}

#[test]
fn the_clients_own_thread_does_not_wait_for_credit() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let (sender, ends) = mpsc::channel();
    worker
        .serve_deferred("tokens", 1, move |_request, responder| {
            let mut parts: PartSender = responder.parts();
            let first = parts.send(&1);
            sender.send((first, parts.send(&2))).unwrap();
            parts.end().unwrap();
        })
        .unwrap();
    let options = RequestOptions::default().credit(1);
    let mut stream = client.request_stream_with("tokens", &1, &options).unwrap();
    let (first, second) = ends.recv_timeout(HANG).unwrap();
    assert!(first.is_ok() && matches!(second, Err(Error::OnClientThread)), "{second:?}");
    assert_eq!(next(&mut stream), 1);
    assert!(stream.next().is_none());
}

#[test]
fn for_an_older_server_parts_are_collected_and_nothing_new_is_sent() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let serving = client.clone();
    admit(&mut side, move || serve_count(&serving));
    side.send("request", "count", json!(3));
    // `receive` accepts the seven keys alone.
    assert_eq!(side.receive()["payload"], json!([0, 1, 2]));
}

/// What a worker writes, to the byte.
#[test]
fn parts_are_numbered_and_the_end_is_no_part() {
    let script = Scripted::new();
    let (client, mut side) = script.call(&script.options());
    let serving = client.clone();
    admit(&mut side, move || serve_count(&serving));
    let mut request = side.message("request", "count", &json!(2));
    request["message_id"] = json!("67e55044-10b1-426f-9247-bb680e5fe0c8");
    request["meta"] = json!({"stream": 8, "of a newer server": 1});
    side.send_message(&request);
    for (payload, meta) in [
        (json!(0), r#"{"seq":0}"#),
        (json!(1), r#"{"seq":1}"#),
        (Value::Null, r#"{"seq":2,"end":true}"#),
    ] {
        let body = side.try_receive_body().unwrap();
        assert!(body.ends_with(format!(r#","meta":{meta}}}"#).as_bytes()));
        let part: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&part["payload"], &part["channel_id"]), (&payload, &json!("count")));
        assert_eq!(part["reply_to"], request["message_id"]);
    }
    // A credit that overflows is as much as there can be.
    request["message_id"] = json!("67e55044-10b1-426f-9247-bb680e5fe0c9");
    request["meta"] = json!({"stream": 1});
    request["payload"] = json!(100);
    side.send_message(&request);
    assert_eq!(side.receive_extended()["payload"], 0);
    for _ in 0..3 {
        let credit = json!({
            "action": "credit", "message_id": request["message_id"], "n": u32::MAX,
        });
        side.send("notification", "system", credit);
    }
    for n in 1..100 {
        assert_eq!(side.receive_extended()["payload"], n);
    }
    assert_eq!(side.receive_extended()["meta"], json!({"seq": 100, "end": true}));
}
