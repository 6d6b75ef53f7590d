//! Answers in parts, from a server that keeps the rules and from one that does not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use futures_core::Stream;
use ipc_framework::client::{CancelToken, Client, Error, Execution, RequestOptions, RequestStream};
use ipc_framework::{Json, Message, MessageType};
use serde_json::{Value, json};

use super::many_threads::{value, wait};
use super::scripted::{Scripted, Side, failure, picked};
use crate::support::{HANG, until};

/// Something that a server must not do to a request.
type Breach = fn(&mut Side, &Value);

fn connect() -> (Scripted, Client, Side) {
    let script = Scripted::new();
    let (client, side) = script.call(&script.options());
    (script, client, side)
}

/// Asks for a stream with this credit, and returns it with the request as the server got it.
fn open(client: &Client, side: &mut Side, credit: u32) -> (RequestStream, Value) {
    let options = RequestOptions::default().credit(credit);
    let stream = client.request_stream_with("tokens", &"prompt", &options).unwrap();
    let request = side.receive_extended();
    assert_eq!(request["meta"], json!({"stream": credit}), "{request}");
    (stream, request)
}

/// Sends a response with a `meta`.
#[expect(clippy::needless_pass_by_value, reason = "calls read better with json!(…)")]
fn respond(side: &mut Side, request: &Value, payload: Value, meta: Value) {
    let mut response = side.message("response", "tokens", &payload);
    response["reply_to"] = request["message_id"].clone();
    response["meta"] = meta;
    side.send_message(&response);
}

fn part(side: &mut Side, request: &Value, seq: u64) {
    respond(side, request, json!(seq), json!({"seq": seq}));
}

fn end(side: &mut Side, request: &Value, seq: u64) {
    respond(side, request, Value::Null, json!({"seq": seq, "end": true}));
}

/// Expects that the client says this to the server, of this request.
fn expect_told(side: &mut Side, action: &str, request: &Value, credit: Option<u32>) {
    let told = side.receive();
    assert_eq!(
        (&told["message_type"], &told["channel_id"]),
        (&json!("notification"), &json!("system"))
    );
    let mut payload = json!({"action": action, "message_id": request["message_id"]});
    if let Some(credit) = credit {
        payload["n"] = json!(credit);
    }
    assert_eq!(told["payload"], payload, "{told}");
}

/// Expects that the client has sent nothing else, and has taken in all that was sent to it.
fn fence(client: &Client, side: &mut Side) {
    let future = client.request_future("fence", &0).unwrap();
    let fence = side.receive();
    assert_eq!(fence["channel_id"], "fence", "{fence}");
    side.answer(&fence, 0);
    wait(future).unwrap();
}

fn next(stream: &mut RequestStream) -> Value {
    value(&stream.next().expect("a part").expect("no error"))
}

#[test]
fn parts_come_as_they_are_read_and_their_credit_goes_back_in_batches() {
    let (_script, client, mut side) = connect();
    let (mut stream, request) = open(&client, &mut side, 4);
    for seq in 0..4 {
        part(&mut side, &request, seq);
    }
    fence(&client, &mut side);
    assert_eq!(next(&mut stream), 0);
    fence(&client, &mut side);
    assert_eq!(next(&mut stream), 1);
    expect_told(&mut side, "credit", &request, Some(2));
    part(&mut side, &request, 4);
    // A part is never an error, and keys of `meta` that are unknown mean nothing.
    let meta = json!({"seq": 5, "of a newer server": {"x": [1]}, "headers": {"a": "b"}});
    respond(&mut side, &request, failure("timeout"), meta);
    assert_eq!((next(&mut stream), next(&mut stream)), (json!(2), json!(3)));
    expect_told(&mut side, "credit", &request, Some(2));
    assert_eq!((next(&mut stream), next(&mut stream)), (json!(4), failure("timeout")));
    expect_told(&mut side, "credit", &request, Some(2));
    end(&mut side, &request, 6);
    assert!(stream.next().is_none() && stream.next().is_none());
    assert_eq!(client.connection_info().pending_requests, 0);
    // After the end nothing is wanted and nothing is told.
    end(&mut side, &request, 6);
    part(&mut side, &request, 6);
    side.answer(&request, failure("handler_failed"));
    drop(stream);
    fence(&client, &mut side);
}

#[test]
fn an_answer_that_is_no_part_is_the_only_one_and_an_error_ends_the_stream() {
    let (_script, client, mut side) = connect();
    let (mut stream, request) = open(&client, &mut side, 1);
    side.answer(&request, json!({"all": 1}));
    assert_eq!(next(&mut stream), json!({"all": 1}));
    assert!(stream.next().is_none());
    // Also behind parts, which are read before.
    let (mut stream, request) = open(&client, &mut side, 8);
    part(&mut side, &request, 0);
    let error = json!({"status": "error", "code": "app:empty", "error": "why", "details": [1]});
    side.answer(&request, error);
    assert_eq!(next(&mut stream), 0);
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Some("app:empty"));
    assert_eq!(error.details().unwrap().as_str(), "[1]");
    assert!(stream.next().is_none());
    // An end without parts.
    let (mut stream, request) = open(&client, &mut side, 8);
    end(&mut side, &request, 0);
    assert!(stream.next().is_none());
    fence(&client, &mut side);
}

#[test]
fn to_drop_a_stream_cancels_it_and_parts_that_still_come_are_nobodys() {
    let (_script, client, mut side) = connect();
    let (told, rest) = channel();
    client.on_message(move |message| told.send(message).unwrap()).unwrap();
    let refused = picked(&client, |event| Some(format!("{event:?}")));
    let (mut stream, request) = open(&client, &mut side, 8);
    part(&mut side, &request, 0);
    assert_eq!(next(&mut stream), 0);
    drop(stream);
    expect_told(&mut side, "cancel", &request, None);
    part(&mut side, &request, 1);
    side.answer(&request, failure("cancelled"));
    fence(&client, &mut side);
    assert!(rest.try_recv().is_err() && refused.try_recv().is_err());
    // By a token, from another thread, while a reader waits.
    let token = CancelToken::new();
    let options = RequestOptions::default().cancel(token.clone());
    let mut stream = client.request_stream_with("tokens", &1, &options).unwrap();
    let request = side.receive_extended();
    let reading = std::thread::spawn(move || (stream.next().unwrap().unwrap_err(), stream));
    token.cancel();
    let (error, stream) = reading.join().unwrap();
    assert!(matches!(error, Error::Cancelled { execution: Execution::Possible }), "{error:?}");
    expect_told(&mut side, "cancel", &request, None);
    drop((stream, token));
    fence(&client, &mut side);
}

#[test]
fn a_server_that_breaks_the_rules_ends_the_request_that_it_answers_and_nothing_else() {
    let (_script, client, mut side) = connect();
    let (mut bystander, other) = open(&client, &mut side, 8);
    // The words of the error, the deed, and whether the client still has something to cancel.
    let rules: [(&str, Breach, bool); 9] = [
        ("out of order", |side, request| part(side, request, 1), true),
        (
            "out of order",
            |side, request| {
                part(side, request, 0);
                part(side, request, 0);
            },
            true,
        ),
        ("without credit", |side, request| (0..3).for_each(|seq| part(side, request, seq)), true),
        ("out of order", |side, request| end(side, request, 1), false),
        (
            "after parts",
            |side, request| {
                part(side, request, 0);
                side.answer(request, 1);
            },
            false,
        ),
        ("seq", |side, request| respond(side, request, json!(0), json!({"seq": -1})), true),
        ("seq", |side, request| respond(side, request, json!(0), json!({"seq": "0"})), true),
        ("end", |side, request| respond(side, request, json!(0), json!({"end": true})), true),
        ("meta", |side, request| respond(side, request, json!(0), json!([0])), true),
    ];
    for (says, breaks, is_cancelled) in rules {
        let (stream, request) = open(&client, &mut side, 2);
        breaks(&mut side, &request);
        if is_cancelled {
            expect_told(&mut side, "cancel", &request, None);
        }
        fence(&client, &mut side);
        let mut items: Vec<_> = stream.collect();
        let error = items.pop().unwrap().unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(items.iter().all(Result::is_ok), "{items:?}");
        fence(&client, &mut side);
    }
    // A part of an answer to a request that takes none.
    let future = client.request_future("tokens", &1).unwrap();
    let request = side.receive();
    part(&mut side, &request, 0);
    assert!(matches!(wait(future).unwrap_err(), Error::Protocol { .. }));
    expect_told(&mut side, "cancel", &request, None);
    // Parts of no stream, under any name.
    for id in ["", "no uuid", "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
        part(&mut side, &json!({"message_id": id}), 0);
        end(&mut side, &json!({"message_id": id}), 0);
        respond(&mut side, &json!({"message_id": id}), json!(0), json!({"seq": {}}));
    }
    part(&mut side, &json!({"message_id": null}), 0);
    part(&mut side, &other, 0);
    assert_eq!(next(&mut bystander), 0);
    fence(&client, &mut side);
}

#[test]
fn a_reader_that_is_stuck_holds_up_no_other() {
    let (_script, client, mut side) = connect();
    let (stuck, its_request) = open(&client, &mut side, 16);
    let (mut stream, request) = open(&client, &mut side, 1);
    for seq in 0..16 {
        part(&mut side, &its_request, seq);
    }
    for seq in 0..1_000 {
        part(&mut side, &request, seq);
        assert_eq!(next(&mut stream), seq);
        expect_told(&mut side, "credit", &request, Some(1));
    }
    end(&mut side, &request, 1_000);
    assert!(stream.next().is_none());
    fence(&client, &mut side);
    assert_eq!(stuck.take(16).flatten().count(), 16);
}

#[test]
fn a_stream_ends_with_its_connection_and_is_not_asked_again() {
    let (script, client, mut side) = connect();
    let (mut stream, request) = open(&client, &mut side, 8);
    part(&mut side, &request, 0);
    drop(side);
    assert_eq!(next(&mut stream), 0);
    let error = stream.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { execution: Execution::Possible, .. }), "{error:?}");
    assert!(stream.next().is_none());
    let mut side = script.accept_as(&super::scripted::call());
    fence(&client, &mut side);
    // Of a request of an older connection nobody is told.
    drop(stream);
    fence(&client, &mut side);
    let (mut stream, _) = open(&client, &mut side, 8);
    client.abort();
    assert!(stream.next().unwrap().is_err());
}

#[test]
fn a_time_of_the_callers_own_bounds_the_whole_stream_and_the_clients_the_first_part() {
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.timeout = Duration::from_secs(1);
    let (client, mut side) = script.call(&options);
    let (mut stream, request) = open(&client, &mut side, 8);
    let error = stream.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    expect_told(&mut side, "cancel", &request, None);
    let (mut stream, request) = open(&client, &mut side, 8);
    part(&mut side, &request, 0);
    assert_eq!(next(&mut stream), 0);
    std::thread::sleep(Duration::from_millis(1_500));
    part(&mut side, &request, 1);
    assert_eq!(next(&mut stream), 1);
    drop(stream);
    expect_told(&mut side, "cancel", &request, None);
    let soon = RequestOptions::default().timeout(Duration::from_secs(1));
    let mut stream = client.request_stream_with("tokens", &1, &soon).unwrap();
    let request = side.receive_extended();
    assert!(request["meta"]["ttl"].as_u64().unwrap() <= 1_000, "{request}");
    part(&mut side, &request, 0);
    assert_eq!(next(&mut stream), 0);
    let error = stream.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
}

struct Tell(std::sync::Mutex<std::sync::mpsc::Sender<()>>);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        // The test may have ended.
        let _ = self.0.lock().unwrap().send(());
    }
}

#[test]
fn a_reader_that_must_not_wait_is_woken() {
    let (_script, client, mut side) = connect();
    let (mut stream, request) = open(&client, &mut side, 8);
    let (sender, woken) = channel();
    let waker = Arc::new(Tell(sender.clone().into())).into();
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
    part(&mut side, &request, 0);
    woken.recv_timeout(HANG).unwrap();
    let Poll::Ready(Some(Ok(first))) = Pin::new(&mut stream).poll_next(&mut context) else {
        panic!("it was woken for a part")
    };
    assert_eq!(value(&first), 0);
    assert!(stream.try_next().is_pending());
    assert!(stream.next_timeout(Duration::from_millis(5)).is_pending());
    let sender = std::sync::Mutex::new(sender);
    stream.on_ready(move || sender.lock().unwrap().send(()).unwrap());
    part(&mut side, &request, 1);
    woken.recv_timeout(HANG).unwrap();
    let Poll::Ready(Some(Ok(second))) = stream.try_next() else { panic!("it was told of a part") };
    assert_eq!(value(&second), 1);
    end(&mut side, &request, 2);
    woken.recv_timeout(HANG).unwrap();
    assert!(matches!(stream.try_next(), Poll::Ready(None)));
    assert!(matches!(stream.next_timeout(HANG), Poll::Ready(None)));
}

#[test]
fn a_message_of_ones_own_asks_for_a_stream_and_a_callback_does_not_wait_for_one() {
    let (_script, client, mut side) = connect();
    let mut message = Message::new(MessageType::Request, "app", "tokens", Json::default());
    let options = RequestOptions::default();
    assert!(matches!(client.request_stream_message(&message, &options), Err(Error::BadId { .. })));
    message.message_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".into();
    let stream = client.request_stream_message(&message, &options).unwrap();
    assert_eq!(stream.id().to_string(), message.message_id);
    let request = side.receive_extended();
    assert_eq!(request["message_id"], message.message_id.as_str());
    end(&mut side, &request, 0);
    assert_eq!(stream.count(), 0);
    let (mut stream, request) = open(&client, &mut side, 8);
    let (sender, told) = channel();
    client
        .send_request_async("work", &1, move |_| {
            let first = stream.next();
            sender.send((first, stream.next())).unwrap();
        })
        .unwrap();
    let asked = side.receive();
    side.answer(&asked, 1);
    let (first, second) = told.recv_timeout(HANG).unwrap();
    assert!(matches!(first, Some(Err(Error::OnClientThread))), "{first:?}");
    assert!(second.is_none());
    expect_told(&mut side, "cancel", &request, None);
    until("the end", || client.connection_info().pending_requests, |pending| *pending == 0);
}
