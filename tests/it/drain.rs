//! The end of a server: it finishes its work, tells every connection, and loses nothing silently.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ipc_framework::{Config, Limits, Responder, Server};
use serde_json::{Value, json};

use crate::support::{
    HANG, Peer, TestServer, code, install_echo, install_later, reserved_port, serve_as_told,
};

/// Starts a server with the channels `echo`, `large`, which answers 8 MiB, and `later`, which hands
/// its requests to the test.
fn serve_all(limits: Limits) -> (TestServer, Receiver<Responder>) {
    let mut responders = None;
    // One of the tests expects that nothing listens on this port afterwards.
    let config = Config::default().limits(limits).port(reserved_port());
    let server = serve_as_told(config, |server| {
        install_echo(server);
        responders = Some(install_later(server));
        let mut app = server.application("app", "The App");
        app.channel("large").on_request(|request| request.reply(&"x".repeat(LARGE_BYTES)));
    });
    (server, responders.unwrap())
}

const LARGE_BYTES: usize = 8 << 20;

/// A drain that waits for its deadline does not end within the test.
fn patient() -> Limits {
    Limits::default().drain_timeout(HANG * 100)
}

/// Expects the notice that every connection gets. It answers no request.
fn expect_notice(peer: &mut Peer) {
    peer.expect_error("shutting_down", "system", Value::Null);
}

/// Joins the server, which has to end while the peers still hold their connections.
fn expect_ok(server: TestServer) {
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        server.stop(); // panics unless `run` returned Ok
        sender.send(()).unwrap();
    });
    ended.recv_timeout(HANG).expect("run returns Ok");
}

#[test]
fn idle_connections_are_told_and_closed() {
    let (server, _) = serve_all(patient());
    let mut idle: Vec<Peer> =
        (0..20).map(|at| server.connected("app", &format!("peer-{at}"))).collect();
    let mut stranger = server.peer();
    server.wait_until("the stranger", |stats| stats.counters.accepted == 21);
    idle[0].subscribe("news");
    idle[1].serve("work");
    server.handle.stop();
    server.handle.stop();
    for peer in &mut idle {
        expect_notice(peer);
        peer.expect_end();
    }
    expect_notice(&mut stranger);
    stranger.expect_end();
    expect_ok(server);
}

#[test]
fn without_connections_the_end_comes_at_once() {
    let (server, _) = serve_all(patient());
    server.connected("app", "peer").fence();
    server.wait_until("its leave", |stats| stats.total_connections == 0);
    expect_ok(server);
}

#[test]
fn a_server_that_never_ran_can_be_stopped() {
    let config = Config::default().port(0).limits(patient());
    let mut server = Server::bind(config).unwrap();
    server.handle().stop();
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(server.run().is_ok()));
    assert_eq!(ended.recv_timeout(HANG), Ok(true));
}

#[test]
fn a_worker_answers_during_the_drain_and_the_requester_gets_it() {
    let (server, _) = serve_all(patient());
    let mut worker = server.connected("app", "worker").serving("work");
    let mut requester = server.connected("app", "requester");
    let mut idle = server.connected("app", "idle");
    let ids = [1, 2].map(|number| requester.send("request", "work", json!(number)));
    let tasks = [worker.receive(), worker.receive()];
    server.handle.stop();
    expect_notice(&mut idle);
    idle.expect_end();
    expect_notice(&mut requester);
    expect_notice(&mut worker);
    for (task, id) in tasks.iter().zip(&ids).rev() {
        worker.answer(task, json!({"of": task["payload"]}));
        let answer = requester.receive();
        assert_eq!(answer["reply_to"], id.as_str());
        assert_eq!(answer["payload"], json!({"of": task["payload"]}));
    }
    requester.expect_end();
    worker.expect_end();
    expect_ok(server);
}

#[test]
fn a_worker_that_leaves_during_the_drain_hands_its_requests_back() {
    let (server, _) = serve_all(patient());
    let mut worker = server.connected("app", "worker").serving("work");
    let mut requester = server.connected("app", "requester");
    let id = requester.send("request", "work", json!(1));
    worker.receive();
    server.handle.stop();
    expect_notice(&mut requester);
    drop(worker);
    requester.expect_error("worker_lost", "work", id);
    requester.expect_end();
    expect_ok(server);
}

#[test]
fn while_one_waits_new_work_is_refused_and_the_rest_goes_on() {
    let (server, responders) = serve_all(patient());
    let mut peer = server.connected("app", "peer");
    let waiting = peer.send("request", "later", json!(1));
    let responder = responders.recv_timeout(HANG).unwrap();
    let address = server.address;
    server.handle.stop();
    expect_notice(&mut peer);

    assert!(!server.stats().running);
    let refused = TcpStream::connect(address).expect_err("nobody listens any more");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    peer.expect_refusal("request", "echo", json!(2), "shutting_down");
    peer.expect_refusal("request", "later", json!(3), "shutting_down");
    peer.expect_refusal(
        "request",
        "system",
        json!({"action": "serve", "channel": "late"}),
        "shutting_down",
    );
    peer.fence();

    responder.reply(&"in time").unwrap();
    let answer = peer.receive();
    assert_eq!(answer["payload"], "in time");
    assert_eq!(answer["reply_to"], waiting.as_str());
    peer.expect_end();
    expect_ok(server);
}

#[test]
fn a_connection_that_is_not_introduced_yet_is_not_taken_on() {
    let (server, responders) = serve_all(patient());
    let mut peer = server.connected("app", "peer");
    peer.send("request", "later", json!(1));
    let responder = responders.recv_timeout(HANG).unwrap();
    let mut stranger = server.peer();
    server.wait_until("the stranger", |stats| stats.counters.accepted == 2);
    server.handle.stop();
    expect_notice(&mut peer);
    expect_notice(&mut stranger);
    stranger.expect_end();
    drop(responder);
    assert_eq!(code(&peer.receive()), "handler_failed");
    peer.expect_end();
    expect_ok(server);
}

#[test]
fn what_is_queued_is_flushed() {
    let (server, _) = serve_all(patient());
    let mut peer = server.connected("app", "peer");
    let id = peer.send("request", "large", json!(null));
    server.wait_until("the answer", |stats| stats.counters.bytes_out > LARGE_BYTES as u64);
    assert!(server.stats().buffered_bytes > 0, "the kernel cannot take it all");
    server.handle.stop();
    let answer = peer.receive();
    assert_eq!(answer["reply_to"], id.as_str());
    assert_eq!(answer["payload"].as_str().map(str::len), Some(LARGE_BYTES));
    expect_notice(&mut peer);
    peer.expect_end();
    expect_ok(server);
}

/// Writes requests, starts the drain at once, and counts the outcomes.
fn stop_behind(requests: usize, limits: Limits) {
    let (server, _) = serve_all(limits);
    let mut peer = server.connected("app", "peer");
    let messages: Vec<Value> =
        (0..requests).map(|number| peer.message("request", "echo", &json!(number))).collect();
    peer.send_all(&messages);
    server.handle.stop();
    let mut answers: HashMap<String, Value> = HashMap::new();
    let mut notices = 0;
    while let Ok(answer) = peer.try_receive() {
        if let Some(id) = answer["reply_to"].as_str() {
            assert_eq!(answers.insert(id.to_owned(), answer), None, "answered twice");
        } else {
            assert_eq!(code(&answer), "shutting_down");
            notices += 1;
        }
    }
    assert_eq!(notices, 1);
    let unanswered = messages
        .iter()
        .filter(|message| match answers.get(message["message_id"].as_str().unwrap()) {
            None => true,
            Some(answer) if answer["payload"] == message["payload"] => false,
            Some(answer) => code(answer) != "shutting_down",
        })
        .count();
    drop(peer);
    assert_eq!(unanswered, 0, "of {requests} requests that were written before the drain");
    expect_ok(server);
}

#[test]
fn requests_that_were_written_before_are_answered_or_refused() {
    for requests in [1, 2, 127, 128, 129, 1000] {
        stop_behind(requests, patient());
    }
}

#[test]
fn requests_held_back_behind_their_unread_answers_are_too() {
    // The peer reads nothing before the drain starts. Its answers fill its queue, so the server
    // stops reading its requests.
    stop_behind(4_000, patient().queue_high_water_bytes(16 << 10));
}

#[test]
fn a_drain_does_not_wait_for_ever_for_a_silent_worker() {
    let limits = Limits::default().drain_timeout(Duration::from_millis(50));
    let (server, _) = serve_all(limits);
    let mut worker = server.connected("app", "worker").serving("work");
    let mut requester = server.connected("app", "requester");
    let id = requester.send("request", "work", json!(1));
    worker.receive();
    server.handle.stop();
    expect_notice(&mut worker);
    expect_notice(&mut requester);
    let answer = requester.receive();
    assert_eq!(answer["reply_to"], id.as_str());
    assert_eq!(code(&answer), "timeout", "{answer}");
    requester.expect_end();
    worker.expect_end();
    expect_ok(server);
}

#[test]
fn a_drain_does_not_wait_for_ever_for_a_reader_or_a_responder() {
    let limits = Limits::default().drain_timeout(Duration::from_millis(50));
    let (server, responders) = serve_all(limits);
    let mut reader = server.connected("app", "reader");
    reader.send("request", "large", json!(null));
    let mut patient = server.connected("app", "patient");
    let id = patient.send("request", "later", json!(1));
    let responder = responders.recv_timeout(HANG).unwrap();
    server.wait_until("the answer", |stats| stats.counters.bytes_out > LARGE_BYTES as u64);
    let handle = server.handle.clone();
    expect_ok(server);
    expect_notice(&mut patient);
    // The code is `timeout` because the request may have been carried out.
    patient.expect_error("timeout", "later", id);
    patient.expect_end();
    // A late answer has no effect.
    responder.reply(&"too late").unwrap();
    assert!(handle.stats().is_err());
    drop(reader);
}
