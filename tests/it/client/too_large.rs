//! One message that is too large for the server, among others of the same connection.

use std::time::Duration;

use ipc_framework::client::{Client, Endpoint, Error, Event, Execution};
use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use super::many_threads::wait;
use super::scripted::{Scripted, patient, picked};
use crate::support::{HANG, TestServer, install_echo, install_later, serve, until};

const FRAME_BYTES_MAX: usize = 100_000;

fn served() -> TestServer {
    let mut limits = Limits::default();
    limits.frame_bytes_max = FRAME_BYTES_MAX;
    serve(Config::default().limits(limits), |server| {
        install_echo(server);
        // Nobody answers its requests.
        std::mem::forget(install_later(server));
    })
}

fn connect(server: &TestServer) -> Client {
    patient("app", Endpoint::tcp("127.0.0.1", server.address.port())).connect().unwrap()
}

fn is_too_large(error: &Error) -> bool {
    let says = format!("over the limit of {FRAME_BYTES_MAX}");
    error.to_string().contains(&says) && error.to_string().contains("(frame_too_large)")
}

#[test]
fn the_others_are_told_why_the_connection_was_lost_and_what_is_true_of_them() {
    let server = served();
    let client = connect(&server);
    let waiting = client.request_future_timeout("later", &1, HANG).unwrap();
    client.ping().unwrap();
    let waiting = std::thread::spawn(move || wait(waiting));
    let large = "x".repeat(2 * FRAME_BYTES_MAX);
    let error = client.request("echo", &large).unwrap_err();
    assert!(is_too_large(&error), "{error}");
    assert_eq!(error.execution(), Execution::Never);
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { execution: Execution::Possible, .. }), "{error:?}");
    for part in ["another message has 200", "over its limit of 100000", "--max-frame-bytes"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(client.request("echo", &2).unwrap().payload.as_str(), "2");
    assert_eq!(client.connection_info().connections, 2);
}

/// The kernel takes only a part of them before the server closes. They are not sent again, because
/// the next connection would end like the one before.
#[test]
fn a_message_that_is_too_large_ends_one_connection_and_not_the_next() {
    let server = served();
    let client = connect(&server);
    let lost = picked(&client, |event| match event {
        Event::Disconnected { error, unconfirmed, .. } => Some((is_too_large(error), *unconfirmed)),
        _ => None,
    });
    let large = "x".repeat(12 << 20);
    client.publish("news", &large).unwrap();
    assert_eq!(lost.recv_timeout(HANG).unwrap(), (true, 1));
    let error = client.request("echo", &large).unwrap_err();
    assert!(is_too_large(&error), "{error}");
    assert!(lost.recv_timeout(HANG).unwrap().0);
    until("the third", || client.connection_info().connections, |seen| *seen == 3);
    client.ping().unwrap();
    assert!(lost.try_recv().is_err());
    client.close().unwrap();
}

#[test]
fn what_was_sent_after_it_was_never_looked_at() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let large = "x".repeat(1_000);
    let asked: Vec<_> = [&json!(1), &json!(large), &json!(3)]
        .map(|payload| client.request_future_timeout("work", payload, HANG).unwrap())
        .into_iter()
        .collect();
    let bodies = [(); 3].map(|()| side.try_receive_body().unwrap());
    let body_bytes = bodies[1].len();
    let text =
        format!("the length prefix says {body_bytes} bytes, over the limit of 999; send less");
    let mut closing = side.message(
        "response",
        "system",
        &json!({"status": "error", "code": "frame_too_large", "error": text}),
    );
    closing["reply_to"] = Value::Null;
    side.send_message(&closing);
    drop(side);
    let errors: Vec<Error> = asked.into_iter().map(|asked| wait(asked).unwrap_err()).collect();
    let executions: Vec<Execution> = errors.iter().map(Error::execution).collect();
    assert_eq!(executions, [Execution::Possible, Execution::Never, Execution::Never]);
    assert!(matches!(errors[1], Error::Answered { .. }), "{errors:?}");
    assert!(matches!(errors[2], Error::Lost { .. }), "{errors:?}");
}

#[test]
fn a_blocking_connection_is_told_as_well_even_if_it_was_still_writing() {
    let server = served();
    let mut options = patient("app", Endpoint::tcp("127.0.0.1", server.address.port()));
    options.connection.timeout = Duration::from_secs(20);
    for bytes in [2 * FRAME_BYTES_MAX, 12 << 20] {
        let mut connection = options.connection.connect().unwrap();
        let error = connection.request("echo", &"x".repeat(bytes)).unwrap_err();
        assert!(is_too_large(&error), "{error}");
        assert_eq!(error.execution(), Execution::Never);
    }
}
