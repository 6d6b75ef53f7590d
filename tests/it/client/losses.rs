//! A lost connection reports how many messages it may have lost. Messages that had not left go by
//! the next connection.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ipc_framework::ErrorCode;
use ipc_framework::client::{Client, Error, Event, Execution, Fault, RequestOptions};
use serde_json::{Value, json};

use super::many_threads::{client_options, value, wait};
use super::scripted::{
    Scripted, Side, Told, admit, call, failure, losses, next, picked, publish_until_some_wait,
    read_all, refuse,
};
use crate::support::{self, HANG};

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["payload"][0].as_u64().unwrap()).collect()
}

#[test]
fn what_an_answer_proves_is_not_counted_as_lost_and_all_else_is() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let told = losses(&client);
    let ask = || {
        let (sender, answers) = channel();
        client.send_request_async("work", &1, move |answer| drop(sender.send(answer))).unwrap();
        answers
    };
    for n in 0..3 {
        client.publish("news", &n).unwrap();
    }
    let answers = ask();
    client.publish("news", &3).unwrap();
    client.notify("notes", &4).unwrap();
    let messages: Vec<Value> = (0..6).map(|_| side.receive()).collect();
    side.answer(&messages[3], json!("done"));
    assert_eq!(value(&answers.recv_timeout(HANG).unwrap().unwrap()), "done");
    let lost = ask();
    side.receive();
    drop(side);
    assert_eq!(next(&told), Told::Lost { unanswered: 1, unconfirmed: 2, waiting: 0 });
    let error = lost.recv_timeout(HANG).unwrap().unwrap_err();
    assert_eq!(error.execution(), Execution::Possible);

    // Messages that wait for the second connection count there, once they have left by it.
    for n in 0..4 {
        client.publish("news", &n).unwrap();
    }
    let mut side = script.accept();
    assert_eq!(next(&told), Told::Connected);
    for n in 0..4 {
        assert_eq!(side.receive()["payload"], n);
    }
    drop(side);
    assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 4, waiting: 0 });
    script.accept();
}

#[test]
fn what_has_not_left_goes_by_the_next_connection_and_nothing_goes_twice() {
    let script = Scripted::new();
    let (client, side) = script.connect();
    let told = losses(&client);
    let sent = publish_until_some_wait(&client);
    drop(side);
    let Told::Lost { unanswered: 0, unconfirmed, waiting } = next(&told) else { panic!("lost") };
    assert!(waiting > 0);
    assert_eq!(unconfirmed as usize + waiting, sent);
    let mut side = script.accept();
    assert_eq!(next(&told), Told::Connected);
    let came: Vec<Value> = (0..waiting).map(|_| side.receive()).collect();
    assert_eq!(numbers(&came), (unconfirmed..sent as u64).collect::<Vec<_>>());
    client.publish("news", &[u64::MAX]).unwrap();
    assert_eq!(side.receive()["payload"][0], u64::MAX);
}

#[test]
fn the_last_clone_dropped_tells_what_was_not_sent_and_loses_nothing_that_was() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let told = losses(&client);
    let sent = publish_until_some_wait(&client);
    drop(client);
    let received = read_all(&mut side).len();
    drop(side);
    let Told::Closed { unsent } = next(&told) else { panic!("closed") };
    assert!(unsent > 0);
    assert_eq!(received + unsent, sent);
    assert!(told.recv_timeout(HANG).is_err(), "the listener is gone");
}

#[test]
fn what_was_sent_before_the_last_clone_is_dropped_arrives_although_something_is_unread() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let (entered, enter) = channel();
    let (release, released) = channel::<()>();
    client
        .on_publication("busy", move |_| {
            entered.send(()).unwrap();
            let _ = released.recv();
        })
        .unwrap();
    assert_eq!(side.receive()["message_type"], "subscribe");
    side.send("publish", "busy", json!(1));
    enter.recv_timeout(HANG).unwrap();
    // The client, whose thread is busy, has not read this when it ends.
    side.send("publish", "other", json!("x".repeat(100_000)));
    for n in 0..10 {
        client.publish("news", &[n]).unwrap();
    }
    drop(client);
    drop(release);
    // A client that ends without an orderly close would do so within this time.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(numbers(&read_all(&mut side)), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_request_whose_time_is_over_in_the_queue_is_never_sent() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let sent = publish_until_some_wait(&client);
    let error = client.send_request("work", &1, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(error.execution(), Execution::Never);
    let (sender, answers) = channel();
    let tell = move |answer: Result<_, Error>| sender.send(answer.map(|_| ())).unwrap();
    let timeout = Duration::from_millis(1);
    client.send_request_async_timeout("work", &2, timeout, tell).unwrap();
    let error = answers.recv_timeout(HANG).unwrap().unwrap_err();
    assert_eq!(error.execution(), Execution::Never);
    drop(client.request_future("work", &3).unwrap());
    client.publish("news", &[sent]).unwrap();
    for n in 0..=sent {
        let message = side.receive();
        assert_eq!(
            (&message["message_type"], &message["payload"][0]),
            (&json!("publish"), &json!(n))
        );
    }
}

#[test]
fn requests_whose_time_is_over_take_no_room_from_others() {
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = 10_000;
    let (client, side) = script.connect_with(&options);
    let told = losses(&client);
    drop(side);
    assert!(matches!(next(&told), Told::Lost { .. }));
    for _ in 0..100 {
        let error = client.send_request("work", &1, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
        assert_eq!(error.execution(), Execution::Never);
    }
    client.publish("news", &"in time").unwrap();
    assert_eq!(script.accept().receive()["payload"], "in time");
}

#[test]
fn a_request_that_a_server_did_not_look_at_because_it_ends_goes_by_the_next_connection() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let told = losses(&client);
    let (sender, answers) = channel();
    let ask = |n: u64| {
        let sender = sender.clone();
        client.send_request_async("work", &n, move |answer| sender.send(answer).unwrap()).unwrap();
    };
    (0..3).for_each(ask);
    let requests: Vec<Value> = (0..3).map(|_| side.receive()).collect();
    // They crossed the server's notice.
    side.send("response", "system", failure("shutting_down"));
    assert_eq!(next(&told), Told::Leaving);
    ask(3);
    for request in &requests[..2] {
        refuse(&mut side, request, "shutting_down");
    }
    // The request that a worker has is cut off, and may have been carried out.
    refuse(&mut side, &requests[2], "timeout");
    let cut_off = answers.recv_timeout(HANG).unwrap().unwrap_err();
    assert!(matches!(cut_off, Error::Answered { code: ErrorCode::Timeout, .. }), "{cut_off:?}");
    assert_eq!(cut_off.execution(), Execution::Possible);
    drop(side);
    assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 0, waiting: 3 });
    let mut side = script.accept();
    for n in [0, 1, 3] {
        let request = side.receive();
        assert_eq!(request["payload"], n, "in the order in which they were sent");
        side.answer(&request, json!(n * 10));
        assert_eq!(value(&answers.recv_timeout(HANG).unwrap().unwrap()), n * 10);
    }
}

/// Requests are kept for the next connection up to a bound. Those that are over do not count, however
/// they ended.
#[test]
fn a_request_moves_on_whatever_was_asked_before_it() {
    const BYTES: usize = 30_000;
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = 4 * BYTES;
    let (client, mut side) = script.call(&options);
    let told = losses(&client);
    let large = "x".repeat(BYTES);
    let part = |side: &mut Side, request: &Value, meta: Value| {
        let mut part = side.message("response", "work", &json!(null));
        part["reply_to"] = request["message_id"].clone();
        part["meta"] = meta;
        side.send_message(&part);
    };
    // Each round asks for more than is kept at once.
    for way in ["answered", "refused", "too late", "cancelled", "streamed", "dropped"] {
        for _ in 0..4 {
            match way {
                "answered" | "refused" => {
                    let future = client.request_future("work", &large).unwrap();
                    let request = side.receive_extended();
                    match way {
                        "answered" => side.answer(&request, json!(1)),
                        _ => refuse(&mut side, &request, "handler_failed"),
                    }
                    assert_eq!(wait(future).is_ok(), way == "answered");
                }
                "too late" => {
                    let timeout = Duration::from_millis(20);
                    let error = client.send_request("work", &large, timeout).unwrap_err();
                    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
                    side.receive_extended();
                }
                "cancelled" => {
                    drop(client.request_future("work", &large).unwrap());
                    side.receive_extended();
                    assert_eq!(side.receive_extended()["payload"]["action"], "cancel");
                }
                _ => {
                    let options = RequestOptions::default();
                    let mut stream = client.request_stream_with("work", &large, &options).unwrap();
                    let request = side.receive_extended();
                    part(&mut side, &request, json!({"seq": 0}));
                    stream.next().unwrap().unwrap();
                    if way == "streamed" {
                        part(&mut side, &request, json!({"seq": 1, "end": true}));
                        assert!(stream.next().is_none());
                    } else {
                        drop(stream);
                        assert_eq!(side.receive_extended()["payload"]["action"], "cancel");
                    }
                }
            }
        }
        let asked = client.request_future("work", &(way, &large)).unwrap();
        let request = side.receive_extended();
        side.send("response", "system", failure("shutting_down"));
        assert_eq!(next(&told), Told::Leaving);
        refuse(&mut side, &request, "shutting_down");
        drop(side);
        assert_eq!(next(&told), Told::Lost { unanswered: 0, unconfirmed: 0, waiting: 1 }, "{way}");
        side = script.accept_as(&call());
        assert_eq!(next(&told), Told::Connected);
        let request = side.receive_extended();
        assert_eq!(request["payload"][0], way);
        side.answer(&request, json!(2));
        assert_eq!(value(&wait(asked).unwrap()), 2);
    }
}

#[test]
fn without_a_connection_to_come_such_a_refusal_is_an_error_that_says_nothing_was_done() {
    let script = Scripted::new();
    let mut options = script.options();
    options.reconnect = None;
    let (client, mut side) = script.connect_with(&options);
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.request("work", &1));
    let request = side.receive();
    side.send("response", "system", failure("shutting_down"));
    refuse(&mut side, &request, "shutting_down");
    let error = asked.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Answered { code: ErrorCode::ShuttingDown, .. }), "{error:?}");
    assert_eq!(error.execution(), Execution::Never);
}

#[test]
fn what_the_server_refuses_without_anybody_waiting_is_told() {
    let mut config = ipc_framework::Config::default();
    config.limits.subscriptions_per_connection_max = 1;
    let server = support::serve(config, support::install_echo);
    let client = client_options(&server).connect().unwrap();
    let refusals = picked(&client, |event| match event {
        Event::Refused { channel_id, message_id, error: Error::Answered { code, .. } } => {
            Some((channel_id.clone(), message_id.clone(), *code))
        }
        Event::Refused { error, .. } => panic!("{error:?}"),
        _ => None,
    });
    let _first = client.subscribe("first").unwrap();
    let _second = client.subscribe("second").unwrap();
    let (channel_id, message_id, code) = refusals.recv_timeout(HANG).unwrap();
    assert_eq!((&*channel_id, code), ("second", ErrorCode::LimitExceeded));
    assert!(message_id.is_some());
    let payload = ipc_framework::Json::parse("1").unwrap();
    let abroad = ipc_framework::Message::new(
        ipc_framework::MessageType::Publish,
        "another app",
        "news",
        payload,
    );
    let id = client.send_message(&abroad).unwrap();
    let (channel_id, message_id, code) = refusals.recv_timeout(HANG).unwrap();
    assert_eq!((&*channel_id, code), ("news", ErrorCode::Forbidden));
    assert_eq!(message_id, Some(id));
    // A late answer is no refusal.
    client.send_request("nobody", &1, Duration::ZERO).unwrap_err();
    client.flush().unwrap();
    assert!(refusals.try_recv().is_err());
}

/// Collects the served channels that could not be restored, and the reasons.
fn not_restored(client: &Client) -> Receiver<(String, String)> {
    picked(client, |event| match event {
        Event::NotRestored { channel_id, error } => Some((channel_id.clone(), error.to_string())),
        _ => None,
    })
}

#[test]
fn a_served_channel_that_cannot_be_taken_up_again_is_told() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let told = not_restored(&client);
    let serving = client.clone();
    let handler = |request: &ipc_framework::client::Request| Ok(request.payload.clone());
    admit(&mut side, move || serving.serve("mine", 1, handler)).unwrap();
    drop(side);
    let mut side = script.accept();
    let serve = side.receive();
    assert_eq!(serve["payload"], json!({"action": "serve", "channel": "mine"}));
    refuse(&mut side, &serve, "limit_exceeded");
    let (channel_id, error) = told.recv_timeout(HANG).unwrap();
    assert_eq!(channel_id, "mine");
    assert!(error.contains("limit_exceeded"), "{error}");
}

#[test]
fn a_request_that_could_not_be_sent_in_time_is_no_fault_of_whom_it_was_for() {
    let script = Scripted::new();
    let (client, side) = script.connect();
    let told = losses(&client);
    drop((side, script));
    assert!(matches!(next(&told), Told::Lost { .. }));
    let error = client.send_request("work", &1, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!((error.fault(), error.execution()), (Fault::Server, Execution::Never));
}

#[test]
fn a_connect_that_was_garbled_on_its_way_is_tried_again() {
    let script = Scripted::new();
    let (client, side) = script.connect();
    let unreachable = picked(&client, |event| match event {
        Event::Unreachable { error, .. } => Some(error.to_string()),
        _ => None,
    });
    drop(side);
    let mut side = script.accept_bare();
    let connect = side.receive();
    refuse(&mut side, &connect, "bad_message");
    drop(side);
    let error = unreachable.recv_timeout(HANG).expect("it has not given up");
    assert!(error.contains("bad_message"), "{error}");
    let mut side = script.accept();
    client.publish("news", &1).unwrap();
    assert_eq!(side.receive()["payload"], 1);
}

#[test]
fn a_connection_that_ends_while_a_channel_is_taken_up_again_is_no_refusal() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let serving = client.clone();
    admit(&mut side, move || serving.serve_deferred("mine", 1, |_, _| ())).unwrap();
    let told = not_restored(&client);
    drop(side);
    let mut side = script.accept();
    side.receive();
    drop(side);
    let mut side = script.accept();
    let serve = side.receive();
    refuse(&mut side, &serve, "shutting_down");
    drop(side);
    // Both precede the third connection's answer.
    let mut side = script.accept();
    let serve = side.receive();
    refuse(&mut side, &serve, "limit_exceeded");
    let (_, error) = told.recv_timeout(HANG).unwrap();
    assert!(error.contains("limit_exceeded"), "{error}");
}
