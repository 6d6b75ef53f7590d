//! Requests as messages of the caller's own, and answers as they came.

use std::sync::mpsc;
use std::time::Duration;

use ipc_framework::client::{Error, RequestId};
use ipc_framework::{ErrorCode, Json, Message, MessageType};
use serde_json::json;

use super::many_threads::{connect, value};
use crate::support::{HANG, serve_echo};

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn message(channel_id: &str, message_id: &str) -> Message {
    let payload = Json::parse(r#"{"a":1e400}"#).unwrap();
    let mut message = Message::new(MessageType::Request, "app", channel_id, payload);
    message.message_id = message_id.into();
    message
}

#[test]
fn an_answer_comes_under_the_callers_own_id() {
    let server = serve_echo();
    let client = connect(&server);
    let (tell, told) = mpsc::channel();
    let asked = client.send_request_message(&message("echo", ID), HANG, move |answer| {
        tell.send(answer).unwrap();
    });
    assert_eq!(asked.unwrap().to_string(), ID);
    let answer = told.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(answer.reply_to.as_deref(), Some(ID));
    assert_eq!(answer.payload.as_str(), r#"{"a":1e400}"#);
}

#[test]
fn an_answer_that_is_an_error_is_a_message_with_all_that_is_in_it() {
    let server = serve_echo();
    let client = connect(&server);
    client
        .serve("odd", 1, |_request| {
            Ok(json!({"status": "error", "code": "timeout", "error": "e", "more": 1}))
        })
        .unwrap();
    for (channel, code) in [("nobody", ErrorCode::NoHandler), ("odd", ErrorCode::Timeout)] {
        let (tell, told) = mpsc::channel();
        let tell = move |answer| tell.send(answer).unwrap();
        client.send_request_message(&message(channel, ID), HANG, tell).unwrap();
        let payload = value(&told.recv_timeout(HANG).unwrap().unwrap());
        assert_eq!(payload["code"], code.as_str());
        assert_eq!(payload.get("more").is_some(), channel == "odd");
    }
}

#[test]
fn it_is_waited_for_once_until_its_time_is_over_or_it_is_cancelled() {
    let server = serve_echo();
    let client = connect(&server);
    let worker = connect(&server);
    worker.serve_deferred("silent", 9, |_, responder| std::mem::forget(responder)).unwrap();
    let (tell, told) = mpsc::channel();
    let short = Duration::from_millis(50);
    let send = move |answer| tell.send(answer).unwrap();
    client.send_request_message(&message("silent", ID), short, send).unwrap();
    assert!(matches!(told.recv_timeout(HANG).unwrap(), Err(Error::Deadline { .. })));

    let never = |_answer| unreachable!("it is cancelled");
    let request = client.send_request_message(&message("silent", ID), HANG, never).unwrap();
    let again = client.send_request_message(&message("silent", ID), HANG, never);
    assert!(matches!(again, Err(Error::BadId { field: "message_id" })));
    assert!(client.cancel(request));
    assert!(!client.cancel(request));
    let named = client.send_request_message(&message("silent", "job 7"), HANG, never);
    assert!(matches!(named, Err(Error::BadId { field: "message_id" })));
    assert_eq!(RequestId::of_message_id(ID), Some(request));
    assert_eq!(client.connection_info().pending_requests, 0);
    assert!(client.is_connected() && client.waiting_bytes() == 0);
    assert!(client.duplicate_socket().is_some());
}

#[test]
fn an_abort_cuts_a_close_short() {
    let server = serve_echo();
    let worker = connect(&server);
    let (taken, begun) = mpsc::channel();
    worker
        .serve_deferred("silent", 1, move |_, responder| {
            std::mem::forget(responder);
            taken.send(()).unwrap();
        })
        .unwrap();
    let client = connect(&server);
    let (tell, told) = mpsc::channel();
    let send = move |answer| tell.send(answer).unwrap();
    client.send_request_message(&message("silent", ID), HANG, send).unwrap();
    begun.recv_timeout(HANG).unwrap();
    let closing = {
        let worker = worker.clone();
        std::thread::spawn(move || worker.close())
    };
    worker.abort();
    assert!(!worker.is_connected() && worker.duplicate_socket().is_none());
    // The requester is told at once, and not at its timeout.
    let answer = told.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(value(&answer)["code"], "worker_lost");
    closing.join().unwrap().unwrap();
    client.abort();
    assert!(matches!(client.publish("echo", &1), Err(Error::Closed)));
}
