//! Channels whose requests are answered later, from any thread.

use std::sync::mpsc;
use std::time::Duration;

use ipc_framework::client::{Client, Error, Responder};
use ipc_framework::{ErrorCode, HandlerError, Json, Message, MessageType};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::many_threads::{client_options, connect, value};
use super::scripted::{Scripted, Told, admit, losses, next, publish_until_some_wait, refuse};
use crate::support::{HANG, serve_echo};

pub(crate) type Job = (Message, Responder);

/// Serves a channel and passes its requests to the test.
pub(crate) fn deferred(worker: &Client, channel: &str, concurrency: usize) -> mpsc::Receiver<Job> {
    let (sender, jobs) = mpsc::channel();
    let pass_on = move |message, responder| sender.send((message, responder)).unwrap();
    worker.serve_deferred(channel, concurrency, pass_on).unwrap();
    jobs
}

/// Sends a request and passes its answer to the test.
fn ask(client: &Client, channel: &str, n: u64) -> mpsc::Receiver<Result<Message, Error>> {
    let (sender, answers) = mpsc::channel();
    // The test may have ended.
    client.send_request_async(channel, &n, move |answer| drop(sender.send(answer))).unwrap();
    answers
}

fn code(answer: Result<Message, Error>) -> ErrorCode {
    match answer {
        Err(Error::Answered { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_come_later_in_any_order_and_no_more_are_out_than_may_be() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = deferred(&worker, "later", 2);
    let answers: Vec<_> = (0..5).map(|n| ask(&client, "later", n)).collect();
    let next = || jobs.recv_timeout(HANG).unwrap();
    let (first, second) = (next(), next());
    // The worker has all five once it has answered the ping behind them.
    client.flush().unwrap();
    worker.flush().unwrap();
    assert!(jobs.try_recv().is_err(), "a third is not handed out");
    second.1.reply(&"second").unwrap();
    assert_eq!(value(&answers[1].recv_timeout(HANG).unwrap().unwrap()), "second");
    let third = next();
    assert!(jobs.try_recv().is_err());
    first.1.fail("no").unwrap();
    assert_eq!(code(answers[0].recv_timeout(HANG).unwrap()), ErrorCode::HandlerFailed);
    third.1.fail_with(ErrorCode::LimitExceeded, "too much of it; ask for less").unwrap();
    assert_eq!(code(answers[2].recv_timeout(HANG).unwrap()), ErrorCode::LimitExceeded);
    let raw = Json::parse(r#"{"n": 1e400}"#).unwrap();
    next().1.reply(&raw).unwrap();
    assert_eq!(answers[3].recv_timeout(HANG).unwrap().unwrap().payload, raw);
    drop(next());
    let dropped = answers[4].recv_timeout(HANG).unwrap().unwrap_err();
    assert!(dropped.to_string().contains("dropped the request"), "{dropped}");
}

#[test]
fn a_handler_that_answers_at_once_is_called_for_all() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let handler = |request: Message, responder: Responder| {
        responder.reply(&request.payload).unwrap();
    };
    worker.serve_deferred("at once", 1, handler).unwrap();
    let answers: Vec<_> = (0..1000).map(|n| ask(&client, "at once", n)).collect();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(value(&answer.recv_timeout(HANG).unwrap().unwrap()), n);
    }
    worker.close().unwrap();
}

#[test]
fn a_deferred_handler_that_panics_and_an_answer_that_cannot_be_written_are_answered() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    worker
        .serve_deferred("picky", 1, |request, responder| {
            assert_ne!(value(&request), 0);
            let no_json = std::collections::HashMap::from([((1, 2), 3)]);
            assert!(matches!(responder.reply(&no_json), Err(Error::NotJson(_))));
        })
        .unwrap();
    for (n, says) in [(0, "panicked"), (1, "JSON")] {
        let error = client.request("picky", &n).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_worker_is_told_whether_an_answer_would_wait_for_room() {
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = 500_000;
    let (client, mut side) = script.connect_with(&options);
    let (give, given) = mpsc::channel();
    let serving = client.clone();
    admit(&mut side, move || {
        let pass_on = move |_message, responder: Responder| give.send(responder).unwrap();
        serving.serve_deferred("work", 1, pass_on).unwrap();
    });
    side.send("request", "work", json!(1));
    let responder = given.recv_timeout(HANG).unwrap();
    assert!(responder.has_room());
    publish_until_some_wait(&client);
    assert!(!responder.has_room());
    while !responder.has_room() {
        assert_eq!(side.receive()["message_type"], "publish");
    }
    responder.reply(&"late").unwrap();
    while side.receive()["payload"] != "late" {}
}

#[test]
fn notifications_come_to_workers_and_nothing_answers_them() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = deferred(&worker, "notes", 1);
    for n in 0..3 {
        client.notify("notes", &n).unwrap();
    }
    for n in 0..3 {
        let (message, responder) = jobs.recv_timeout(HANG).unwrap();
        assert_eq!((value(&message), message.message_type), (json!(n), MessageType::Notification));
        responder.reply(&"nobody asked").unwrap();
    }
    worker.close().unwrap();
}

#[test]
fn closing_waits_for_deferred_answers() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = deferred(&worker, "later", 1);
    let answer = ask(&client, "later", 1);
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    let closing = std::thread::spawn(move || worker.close());
    // Closing has begun once no worker serves the channel. Until then a request waits.
    let refused = loop {
        match client.send_request("later", &2, Duration::from_millis(5)) {
            Err(Error::Answered { code, .. }) => break code,
            other => assert!(matches!(other, Err(Error::Deadline { .. })), "{other:?}"),
        }
    };
    assert_eq!(refused, ErrorCode::NoHandler);
    responder.reply(&"after all").unwrap();
    assert_eq!(value(&answer.recv_timeout(HANG).unwrap().unwrap()), "after all");
    for (_, responder) in jobs {
        responder.reply(&"late").unwrap();
    }
    closing.join().unwrap().unwrap();
}

#[test]
fn messages_of_any_type_go_out_as_they_are_and_what_nobody_takes_comes_to_the_default_handler() {
    let server = serve_echo();
    let (client, other) = (connect(&server), connect(&server));
    let (sender, rest) = mpsc::channel();
    client.on_message(move |message| sender.send(message).unwrap()).unwrap();
    let next = || rest.recv_timeout(HANG).unwrap();
    let payload = |value: Value| Json::parse(value.to_string()).unwrap();

    // A request whose answer nobody waits for.
    let mut request = Message::new(MessageType::Request, "", "echo", payload(json!(1)));
    let id = client.send_message(&request).unwrap();
    let answer = next();
    assert_eq!((answer.reply_to.as_deref(), value(&answer)), (Some(&*id), json!(1)));
    request.message_id = "my own".into();
    assert_eq!(client.send_message(&request).unwrap(), "my own");
    assert_eq!(next().reply_to.as_deref(), Some("my own"));

    // A worker without `serve`, as programs for the published package are.
    client.system(&json!({"action": "serve", "channel": "mine"})).unwrap();
    let answer = ask(&other, "mine", 7);
    let request = next();
    assert_eq!((request.message_type, value(&request)), (MessageType::Request, json!(7)));
    client.send_message(&request.create_response(payload(json!(49)))).unwrap();
    assert_eq!(value(&answer.recv_timeout(HANG).unwrap().unwrap()), 49);

    // A subscription by a message, and a publication that has a `reply_to`.
    let connection_id = client.connection_info().connection_id;
    let subscription = payload(json!({"connection_id": connection_id, "ack": true}));
    let subscribe = Message::new(MessageType::Subscribe, "", "news", subscription);
    client.send_message(&subscribe).unwrap();
    assert_eq!(value(&next()), json!({"status": "subscribed"}));
    let mut publish = Message::new(MessageType::Publish, "", "news", payload(json!("flash")));
    publish.reply_to = Some("what was asked elsewhere".into());
    other.send_message(&publish).unwrap();
    let message = next();
    assert_eq!(message.reply_to.as_deref(), Some("what was asked elsewhere"));
    assert_eq!(message.message_type, MessageType::Publish);

    // A subscriber of the channel gets the message instead.
    let heard = client.subscribe("news").unwrap();
    other.publish("news", &payload(json!(["raw"]))).unwrap();
    assert_eq!(value(&heard.next_timeout(HANG).unwrap()), json!(["raw"]));
    client.flush().unwrap();
    assert!(rest.try_recv().is_err());
}

/// A server that knows no cancels passes the answers on all the same.
#[test]
fn late_answers_come_to_the_default_handler_and_cancelled_ones_to_nobody_else() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let (sender, rest) = mpsc::channel();
    client.on_message(move |message| sender.send(message).unwrap()).unwrap();
    let (tell, told) = mpsc::channel();
    let timeout = Duration::from_millis(1);
    let late = tell.clone();
    client
        .send_request_async_timeout("later", &1, timeout, move |answer| late.send(answer).unwrap())
        .unwrap();
    assert!(matches!(told.recv_timeout(HANG).unwrap(), Err(Error::Deadline { .. })));
    let cancelled =
        client.send_request_async("later", &2, move |answer| tell.send(answer).unwrap()).unwrap();
    for n in [1, 2] {
        let request = side.receive();
        assert_eq!(request["payload"], n, "{request}");
        if n == 2 {
            assert!(client.cancel(cancelled));
            assert!(!client.cancel(cancelled));
        }
        side.answer(&request, n);
    }
    let got: Vec<Value> = (0..2).map(|_| value(&rest.recv_timeout(HANG).unwrap())).collect();
    assert_eq!(got, [1, 2]);
    assert!(told.recv_timeout(HANG).is_err(), "the callback is dropped, not called");
    drop(client.request_future_timeout("later", &3, HANG).unwrap());
    assert_eq!(client.connection_info().pending_requests, 0);
}

#[test]
fn answers_are_read_into_values_of_ones_own() {
    let server = serve_echo();
    let client = connect(&server);
    let answer: (String, u8) = client.request_as("echo", &("tea", 3)).unwrap();
    assert_eq!(answer, ("tea".to_owned(), 3));
    let error = client.request_as::<u64, _>("echo", "tea").unwrap_err();
    assert!(matches!(error, Error::BadAnswer(_)), "{error:?}");
    let mut connection = client_options(&server).connection.connect().unwrap();
    assert_eq!(connection.request_as::<u64, _>("echo", &3).unwrap(), 3);
}

#[test]
fn a_handler_may_return_json_as_it_is() {
    let server = serve_echo();
    let worker = connect(&server);
    worker.serve("same", 1, |request| Ok::<_, HandlerError>(request.payload.clone())).unwrap();
    let odd = Json::parse(r#"{"a":1,"a":1e999}"#).unwrap();
    assert_eq!(worker.request("same", &odd).unwrap().payload, odd);
}

#[test]
fn what_waited_for_a_worker_when_its_connection_was_lost_is_not_begun() {
    let script = Scripted::new();
    let (worker, mut side) = script.connect();
    let told = losses(&worker);
    let serving = worker.clone();
    let jobs = admit(&mut side, move || deferred(&serving, "work", 1));
    side.send("request", "work", json!("begun"));
    side.send("request", "work", json!("its requester is told that the worker is lost"));
    side.send("notification", "work", json!("nobody is told"));
    let (message, begun): Job = jobs.recv_timeout(HANG).unwrap();
    assert_eq!(value(&message), "begun");
    worker.publish("news", &1).unwrap();
    assert_eq!(side.receive()["message_type"], "publish");
    drop(side);
    assert!(matches!(next(&told), Told::Lost { .. }));
    let mut side = script.accept();
    assert_eq!(next(&told), Told::Connected);
    let serve = side.receive();
    side.answer(&serve, json!({"status": "serving", "channel": "work"}));
    // This answer has no requester any more.
    begun.reply(&"too late").unwrap();
    let (message, noted) = jobs.recv_timeout(HANG).unwrap();
    assert_eq!(value(&message), "nobody is told");
    drop(noted);
    side.send("request", "work", json!("new"));
    let (message, responder) = jobs.recv_timeout(HANG).unwrap();
    responder.reply(&message.payload).unwrap();
    let came = side.receive();
    assert_eq!((&came["message_type"], &came["payload"]), (&json!("response"), &json!("new")));
}

/// A value that cannot be serialized.
struct Explosive;

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("not to be written");
    }
}

#[test]
fn an_answer_that_panics_while_it_is_written_is_answered_and_the_worker_goes_on() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    worker.serve("threads", 1, |_| Ok(Explosive)).unwrap();
    worker.serve_deferred("deferred", 1, |_, responder| drop(responder.reply(&Explosive))).unwrap();
    for channel in ["threads", "deferred", "threads", "deferred"] {
        let error = client.request(channel, &1).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{channel}: {error}");
    }
    worker.close().unwrap();
}

#[test]
fn a_worker_that_is_refused_takes_nothing_from_the_one_before() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let serve = |says: &'static str| {
        let serving = client.clone();
        move || serving.serve("mine", 1, move |_| Ok(says))
    };
    admit(&mut side, serve("first")).unwrap();
    let second = std::thread::spawn(serve("second"));
    let asked = side.receive();
    refuse(&mut side, &asked, "limit_exceeded");
    assert_eq!(code(second.join().unwrap().map(|()| unreachable!())), ErrorCode::LimitExceeded);
    side.send("request", "mine", json!(1));
    assert_eq!(side.receive()["payload"], "first");
}
