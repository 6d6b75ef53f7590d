//! Workers whose requesters give up, have deadlines, or vanish.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ipc_framework::HandlerError;
use ipc_framework::client::{Call, CancelReason, Client, Error, RequestOptions, Trace};
use serde_json::{Value, json};

use super::many_threads::{client_options, connect, value, wait};
use super::scripted::{Scripted, Side, admit};
use super::workers::deferred;
use crate::support::{HANG, serve_echo, until};

/// Returns the reason of a cancel, which the call tells to a listener.
fn reason_of(call: &Call) -> mpsc::Receiver<Option<CancelReason>> {
    let (sender, told) = mpsc::channel();
    let cancelled = call.clone();
    call.on_cancel(move || sender.send(cancelled.cancel_reason()).unwrap());
    told
}

#[test]
fn a_handler_learns_that_its_requester_gave_up_and_why() {
    let server = serve_echo();
    let worker = connect(&server);
    let jobs = deferred(&worker, "work", 10);
    let next = || jobs.recv_timeout(HANG).unwrap();

    let client = connect(&server);
    let future = client.request_future("work", &1).unwrap();
    let (_, responder) = next();
    let told = reason_of(&responder.call());
    assert!(!responder.call().is_cancelled());
    assert_eq!(responder.call().deadline(), None);
    drop(future);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Caller));
    assert!(responder.call().is_cancelled());
    // Too late to be heard, and no fault. A listener that comes late is called as well.
    let call = responder.call();
    responder.reply(&"nobody hears it").unwrap();
    assert_eq!(reason_of(&call).recv().unwrap(), Some(CancelReason::Caller));

    let soon = RequestOptions::default().timeout(Duration::from_millis(50));
    let error = client.request_with("work", &2, &soon).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    let (_, responder) = next();
    assert!(responder.call().remaining().unwrap() <= Duration::from_millis(50));
    let told = reason_of(&responder.call());
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Deadline));
    responder.give_up();

    let mut gone = server.connected("app", "one that leaves");
    gone.send("request", "work", json!(3));
    let (_, responder) = next();
    let told = reason_of(&responder.call());
    drop(gone);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Gone));
    drop(responder);
    worker.close().unwrap();
}

#[test]
fn a_listener_is_dropped_after_the_answer() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let jobs = deferred(&worker, "work", 1);
    let future = client.request_future("work", &1).unwrap();
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    let told = reason_of(&responder.call());
    responder.reply(&1).unwrap();
    wait(future).unwrap();
    assert_eq!(told.recv_timeout(HANG), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn what_the_requester_tells_arrives_and_what_is_asked_in_turn_inherits_it() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let inner = deferred(&worker, "inner", 1);
    let weak = worker.downgrade();
    worker
        .serve("outer", 1, move |request| {
            let client = weak.upgrade().ok_or("it ends")?;
            let headers = json!(request.call().headers());
            let answer = client.request_with("inner", &headers, &request.nested())?;
            Ok(answer.payload)
        })
        .unwrap();
    let trace = Trace::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let options = RequestOptions::default()
        .timeout(Duration::from_secs(60))
        .trace(trace.clone())
        .header("tenant", "acme");
    let future = client.request_future_with("outer", &1, &options).unwrap();
    let (request, responder) = inner.recv_timeout(HANG).unwrap();
    assert_eq!(value(&request), json!({"tenant": "acme"}));
    let call = responder.call();
    assert!(call.remaining().unwrap() <= Duration::from_secs(60));
    assert!(call.remaining().unwrap() > Duration::from_secs(1));
    assert_eq!(call.trace(), Some(trace));
    assert!(call.headers().is_empty() && !call.wants_parts());
    responder.reply(&"inherited").unwrap();
    assert_eq!(value(&wait(future).unwrap()), "inherited");

    let future = client.request_future("outer", &1).unwrap();
    let (_, responder) = inner.recv_timeout(HANG).unwrap();
    assert_eq!(responder.call().deadline(), None);
    let told = reason_of(&responder.call());
    drop(future);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Caller));
}

/// Forty requests are given up while the first of them keeps the only thread busy. The handler is
/// called for none of the others.
#[test]
fn work_that_is_cancelled_before_it_begins_never_begins() {
    let server = serve_echo();
    let (worker, client) = (connect(&server), connect(&server));
    let (begun, goes_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Barrier::new(2)));
    let (counted, gate) = (Arc::clone(&begun), Arc::clone(&goes_on));
    worker
        .serve("slow", 1, move |request| {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                gate.wait();
            }
            Ok(request.payload.clone())
        })
        .unwrap();
    let futures: Vec<_> = (0..40).map(|n| client.request_future("slow", &n).unwrap()).collect();
    until("the first", || begun.load(Ordering::SeqCst), |begun| *begun == 1);
    // The worker has all of them once it has answered the ping behind them.
    client.flush().unwrap();
    worker.flush().unwrap();
    drop(futures);
    client.flush().unwrap();
    worker.flush().unwrap();
    let last = client.request_future("slow", &"last").unwrap();
    goes_on.wait();
    assert_eq!(value(&wait(last).unwrap()), "last");
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    worker.close().unwrap();
}

/// A client with a worker, and its server, which sends everything by hand.
fn served() -> (Client, Side, mpsc::Receiver<super::workers::Job>) {
    let script = Scripted::new();
    let (client, mut side) = script.call(&script.options());
    let serving = client.clone();
    let jobs = admit(&mut side, move || deferred(&serving, "work", 1));
    (client, side, jobs)
}

fn request(side: &mut Side, id: u128) -> Value {
    let mut request = side.message("request", "work", &json!(id as u64));
    request["message_id"] = json!(uuid(id));
    side.send_message(&request);
    request
}

fn uuid(id: u128) -> String {
    let id = format!("{id:032x}");
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

fn tell(side: &mut Side, payload: Value) {
    side.send("notification", "system", payload);
}

#[test]
fn words_about_requests_that_make_no_sense_change_nothing() {
    let (client, mut side, jobs) = served();
    let asked = request(&mut side, 7);
    let id = &asked["message_id"];
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    for payload in [
        json!(null),
        json!([]),
        json!("cancel"),
        json!({"action": "cancel"}),
        json!({"action": "cancel", "message_id": 7}),
        json!({"action": "cancel", "message_id": "no uuid"}),
        json!({"action": "cancel", "message_id": "67e55044-10b1-426f-9247-bb680e5fe0c8"}),
        json!({"action": "cancel", "message_id": id, "reason": 7}),
        json!({"action": "of a newer server", "message_id": id}),
        json!({"action": "credit", "message_id": id}),
        json!({"action": "credit", "message_id": id, "n": -1}),
        json!({"action": "credit", "message_id": id, "n": 1_u64 << 40}),
        json!({"action": "credit", "message_id": id, "n": 5}),
    ] {
        tell(&mut side, payload);
    }
    // An unknown reason reads as `gone`; twice is once.
    let second = request(&mut side, 8);
    let told = reason_of(&responder.call());
    assert!(!responder.call().is_cancelled());
    responder.reply(&"answered").unwrap();
    assert_eq!(side.receive()["payload"], "answered");
    drop(told);
    tell(&mut side, json!({"action": "cancel", "message_id": id}));
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    let told = reason_of(&responder.call());
    for reason in ["of a newer server", "deadline"] {
        let id = &second["message_id"];
        tell(&mut side, json!({"action": "cancel", "message_id": id, "reason": reason, "x": 1}));
    }
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Gone));
    drop(responder);
    assert!(client.is_connected());
}

#[test]
fn requests_that_wait_are_taken_out_when_they_are_cancelled_and_the_others_stay_in_order() {
    let (client, mut side, jobs) = served();
    let asked: Vec<Value> = (0..3_000).map(|id| request(&mut side, id)).collect();
    let (_, first) = jobs.recv_timeout(HANG).unwrap();
    for cancelled in asked.iter().filter(|asked| asked["payload"] != 2_000) {
        tell(&mut side, json!({"action": "cancel", "message_id": cancelled["message_id"]}));
    }
    until("the cancel", || first.call().is_cancelled(), |is_cancelled| *is_cancelled);
    // There is room for as many again, which there would not be behind those.
    for id in 3_000..6_000 {
        request(&mut side, id);
    }
    first.give_up();
    let mut served = Vec::new();
    while served.last() != Some(&json!(5_999)) {
        let (message, responder) = jobs.recv_timeout(HANG).unwrap();
        served.push(value(&message));
        responder.reply(&message.payload).unwrap();
        let answer = side.receive();
        assert_eq!(Some(&answer["payload"]), served.last(), "none is refused: {answer}");
    }
    assert_eq!(served[0], 2_000);
    assert_eq!(served.len(), 3_001);
    client.abort();
}

/// The queue is bounded in bytes as well.
#[test]
fn requests_that_are_taken_out_leave_room_for_as_many_bytes() {
    const BYTES: usize = 30_000;
    let script = Scripted::new();
    let mut options = script.options();
    options.unread_bytes_max = 4 * BYTES;
    let (client, mut side) = script.call(&options);
    let serving = client.clone();
    let jobs = admit(&mut side, move || deferred(&serving, "work", 1));
    let large = |side: &mut Side, id: u128| {
        let mut request = side.message("request", "work", &json!("x".repeat(BYTES)));
        request["message_id"] = json!(uuid(id));
        side.send_message(&request);
        request
    };
    let running = request(&mut side, 0);
    let (_, first) = jobs.recv_timeout(HANG).unwrap();
    for round in 1..4 {
        let asked: Vec<Value> = (0..3).map(|at| large(&mut side, 10 * round + at)).collect();
        for cancelled in &asked {
            tell(&mut side, json!({"action": "cancel", "message_id": cancelled["message_id"]}));
        }
    }
    let last = large(&mut side, 99);
    tell(&mut side, json!({"action": "cancel", "message_id": running["message_id"]}));
    until("the cancel", || first.call().is_cancelled(), |is_cancelled| *is_cancelled);
    first.give_up();
    let (message, responder) = jobs.recv_timeout(HANG).unwrap();
    assert_eq!(Some(&*message.message_id), last["message_id"].as_str());
    responder.reply(&"last").unwrap();
    assert_eq!(side.receive()["payload"], "last", "none was refused");
    // What may not wait is refused.
    request(&mut side, 100);
    let (_, _first) = jobs.recv_timeout(HANG).unwrap();
    (0..6).for_each(|at| drop(large(&mut side, 200 + at)));
    assert_eq!(side.receive()["payload"]["code"], "limit_exceeded");
    client.abort();
}

#[test]
fn work_for_a_connection_that_is_lost_is_cancelled() {
    let (_client, mut side, jobs) = served();
    request(&mut side, 1);
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    let told = reason_of(&responder.call());
    drop(side);
    assert_eq!(told.recv_timeout(HANG).unwrap(), Some(CancelReason::Gone));
    responder.reply(&1).unwrap();
}

#[test]
fn a_server_that_knows_no_cancels_tells_of_none() {
    let script = Scripted::new();
    let (client, mut side) = script.connect();
    let serving = client.clone();
    let jobs = admit(&mut side, move || deferred(&serving, "work", 1));
    let (sender, rest) = mpsc::channel();
    client.on_message(move |message| sender.send(message).unwrap()).unwrap();
    let asked = request(&mut side, 1);
    let (_, responder) = jobs.recv_timeout(HANG).unwrap();
    tell(&mut side, json!({"action": "cancel", "message_id": asked["message_id"]}));
    // As before, it is a notification like any other.
    assert_eq!(value(&rest.recv_timeout(HANG).unwrap())["action"], "cancel");
    assert!(!responder.call().is_cancelled());
    responder.reply(&1).unwrap();
    assert_eq!(side.receive()["payload"], 1);
}

#[test]
fn an_error_of_a_handler_that_was_cancelled_reaches_nobody() {
    let server = serve_echo();
    let mut options = client_options(&server);
    options.connection.connection_id = Some("the worker".into());
    let (worker, client) = (options.connect().unwrap(), connect(&server));
    let (sender, calls) = mpsc::channel();
    worker
        .serve("work", 1, move |request| {
            let told = reason_of(request.call());
            sender.send(()).unwrap();
            told.recv_timeout(HANG).unwrap();
            assert!(request.is_cancelled() && request.remaining().is_none());
            Err::<(), _>(HandlerError::new("stopped"))
        })
        .unwrap();
    let future = client.request_future("work", &1).unwrap();
    calls.recv_timeout(HANG).unwrap();
    drop(future);
    worker.flush().unwrap();
    worker.close().unwrap();
    let counters = server.stats().counters;
    assert_eq!(counters.errors.get("handler_failed"), None, "{counters:?}");
    assert_eq!(counters.responses_ignored, 0);
}
