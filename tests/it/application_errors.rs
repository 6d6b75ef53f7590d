//! Errors of the application: made by handlers in the server and in workers, read by clients and by
//! peers that know only the base protocol.

use std::time::Duration;

use ipc_framework::client::{Client, Error, Fault};
use ipc_framework::{Config, HandlerError, Json, Limits};
use serde_json::{Value, json};

use crate::client::many_threads::{client_options, connect, value};
use crate::client::scripted::Scripted;
use crate::support::{self, HANG, Peer, TestServer, serve_echo};

/// A handler's error for what the requester asks.
fn not_there(item: &Value) -> HandlerError {
    HandlerError::app("not_found", format!("there is no {item}")).details(&json!({"item": item}))
}

fn payload(item: &Value) -> Value {
    let text = format!("there is no {item}");
    json!({
        "status": "error", "code": "app:not_found", "error": text, "details": {"item": item},
    })
}

/// Starts a server whose handlers fail in each way that they can.
fn serve() -> TestServer {
    support::serve(Config::default(), |server| {
        let mut app = server.application("app", "The App");
        app.channel("at once").on_request(|request| Err(not_there(&request.payload()?)));
        app.channel("at once").on_notification(|note| Err(not_there(&note.payload()?)));
        app.channel("crash").on_request(|_| Err(HandlerError::new("out of order")));
        app.channel("later").on_request(|request| {
            let item: Value = request.payload()?;
            let (reply, responder) = request.defer()?;
            std::thread::spawn(move || responder.refuse(&not_there(&item)));
            Ok(reply)
        });
    })
}

fn expect_not_there(error: &Error, item: &Value) {
    let Error::Application { code, text, details } = error else { panic!("{error:?}") };
    assert_eq!((&**code, &**text), ("app:not_found", &*format!("there is no {item}")));
    let details: Value = details.as_ref().unwrap().decode().unwrap();
    assert_eq!(details, json!({"item": item}));
    assert!(error.is_application());
    assert_eq!(error.code(), Some("app:not_found"));
    assert_eq!(error.fault(), Fault::Peer);
}

fn serve_by_worker(worker: &Client) {
    worker.serve("threads", 1, |request| Err::<(), _>(not_there(&value(request)))).unwrap();
    worker
        .serve_deferred("deferred", 1, |request, responder| {
            responder.refuse(&not_there(&value(&request))).unwrap();
        })
        .unwrap();
}

#[test]
fn an_error_of_the_application_arrives_as_it_was_raised_and_is_no_crash() {
    let server = serve();
    let (worker, client) = (connect(&server), connect(&server));
    serve_by_worker(&worker);
    let mut connection = client_options(&server).connection.connect().unwrap();
    let mut peer = server.connected("app", "a published one");
    let channels = ["at once", "later", "threads", "deferred"];
    for channel in channels {
        expect_not_there(&client.request(channel, &"tea").unwrap_err(), &json!("tea"));
        expect_not_there(&connection.request(channel, &7).unwrap_err(), &json!(7));
        assert_eq!(peer.request(channel, json!(null)), payload(&json!(null)), "{channel}");
    }
    let noted = peer.send("notification", "at once", json!([1]));
    peer.expect_answer(&noted, payload(&json!([1])));
    let counters = server.stats().counters;
    assert_eq!(counters.errors.get("app").copied(), Some(13));
    assert_eq!((counters.handler_failures, counters.handler_panics), (0, 0));
    assert_eq!(counters.errors.get("handler_failed"), None);
    let error = client.request("crash", &1).unwrap_err();
    assert_eq!((error.code(), error.is_application()), (Some("handler_failed"), false));
    assert_eq!(server.stats().counters.handler_failures, 1);
}

#[test]
fn a_connection_that_serves_answers_with_errors_of_the_application() {
    let server = serve_echo();
    let mut worker = client_options(&server).connection.connect().unwrap();
    worker.serve("items").unwrap();
    let mut peer = server.connected("app", "requester");
    for error in [not_there(&json!("tea")), HandlerError::new("x".repeat(100_000))] {
        let asked = peer.send("request", "items", json!("tea"));
        let request = worker.receive(Some(HANG)).unwrap().unwrap();
        worker.refuse(&request, &error).unwrap();
        let answer = peer.receive();
        assert_eq!(answer["reply_to"], asked.as_str());
        let code = error.code().unwrap_or("handler_failed");
        assert_eq!(support::code(&answer), code);
        assert!(answer["payload"].to_string().len() <= 16 << 10);
    }
}

#[test]
fn a_crash_with_a_long_text_is_still_an_error_for_its_requester() {
    let long = "\u{1}".repeat(50_000);
    let thrown = long.clone();
    let server = support::serve(Config::default(), |server| {
        let text = thrown;
        let mut app = server.application("app", "The App");
        app.channel("inside").on_request(move |_| Err(HandlerError::new(text.clone())));
    });
    let (worker, client) = (connect(&server), connect(&server));
    worker.serve("worker", 1, move |_| Err::<(), _>(HandlerError::new(long.clone()))).unwrap();
    for channel in ["inside", "worker"] {
        let error = client.request(channel, &1).unwrap_err();
        assert_eq!(error.code(), Some("handler_failed"), "{channel}");
    }
    assert_eq!(server.stats().counters.errors.get("handler_failed").copied(), Some(2));
}

#[test]
fn an_answer_is_an_error_only_if_it_has_the_members_of_one() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let mut ask = |payload: &str| {
        let future = client.request_future("work", &1).unwrap();
        let request = side.receive();
        let mut answer = side.message("response", "work", &json!(null));
        answer["reply_to"] = request["message_id"].clone();
        let body =
            answer.to_string().replace("\"payload\":null", &format!("\"payload\":{payload}"));
        side.send_body(body.as_bytes());
        crate::client::many_threads::wait(future)
    };
    let result = [
        r#"{"status":"error","code":"app:x","error":"why","other":1}"#,
        r#"{"status":"error","code":"app:x","error":"why","error":"why"}"#,
        r#"{"status":"error","code":"app:x","error":1}"#,
        r#"{"status":"error","code":"app:x"}"#,
        r#"{"status":"ok","code":"app:x","error":"why"}"#,
        r#"{"status":"error","code":"own","error":"why"}"#,
        r#"[{"status":"error","code":"app:x","error":"why"}]"#,
    ];
    for payload in result {
        assert_eq!(ask(payload).unwrap().payload.as_str(), payload);
    }
    let long = format!(r#"{{"status":"error","code":"app:x","error":"{}"}}"#, "y".repeat(16 << 10));
    assert_eq!(ask(&long).unwrap().payload.as_str(), long);
    for (payload, code, details) in [
        (r#"{"status":"error","code":"app:x","error":"why"}"#, "app:x", None),
        (
            r#"{ "details":null, "error":"", "code":"app:" ,"status":"error" }"#,
            "app:",
            Some("null"),
        ),
        (
            r#"{"status":"error","code":"app:n","error":"","details":{"n":1e400,"n":[]}}"#,
            "app:n",
            Some(r#"{"n":1e400,"n":[]}"#),
        ),
        (r#"{"status":"error","code":"timeout","error":"why","details":1}"#, "timeout", None),
    ] {
        let error = ask(payload).unwrap_err();
        assert_eq!(error.code(), Some(code), "{payload}");
        assert_eq!(error.details().map(Json::as_str), details, "{payload}");
    }
}

#[test]
fn an_error_of_the_application_that_comes_late_is_no_refused_message() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = crate::client::workers::deferred(&worker, "slow", 1);
    let refused = crate::client::scripted::picked(&client, |event| {
        matches!(event, ipc_framework::client::Event::Refused { .. }).then_some(())
    });
    let error = client.send_request("slow", &1, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    responder.refuse(&not_there(&json!(1))).unwrap();
    worker.flush().unwrap();
    client.flush().unwrap();
    assert!(refused.try_recv().is_err());
}

#[test]
fn an_error_that_fits_into_no_frame_is_answered_all_the_same() {
    let limits = Limits::default().frame_bytes_max(1_500);
    let server = support::serve(Config::default().limits(limits), |server| {
        let mut app = server.application("app", "The App");
        let text = "y".repeat(2_000);
        app.channel("at once").on_request(move |_| Err(HandlerError::app("x", text.clone())));
    });
    let mut peer: Peer = server.connected("app", "requester");
    peer.expect_refusal("request", "at once", json!(1), "handler_failed");
}
