//! Responses without a request, and requests whose requester or worker is gone.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use super::Bystanders;
use crate::support::{Peer, TestServer, code, frame, serve_echo, serve_limited};

#[test]
fn a_requester_that_leaves_before_its_answer_takes_nothing_along() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut worker = server.connected("app", "worker").serving("work");
    let mut leaving = server.connected("app", "leaving");
    leaving.send("request", "work", json!("for nobody"));
    let task = worker.receive();
    drop(leaving);
    server.wait_until("its end", |stats| stats.total_connections == 4);
    // The next connection gets its place in the table, and even its id.
    let mut next = server.connected("app", "leaving");
    worker.answer(&task, "not yours");
    worker.fence();
    next.fence();
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.counters.answers_undeliverable), (0, 1));
    let id = next.send("request", "work", json!("mine"));
    let task = worker.receive();
    assert_eq!(task["payload"], "mine");
    worker.answer(&task, "yours");
    next.expect_answer(&id, "yours");
    bystanders.go_on();
}

#[test]
fn a_worker_that_dies_hands_back_all_it_held_and_nothing_else() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut dying = server.connected("app", "dying");
    let mut living = server.connected("app", "living");
    dying.serve("work");
    living.serve("work");
    let mut requester = server.connected("app", "peer");
    let ids: Vec<String> =
        (0..20).map(|round| requester.send("request", "work", json!(round))).collect();
    let lost: Vec<Value> = (0..10).map(|_| dying.receive()["payload"].clone()).collect();
    let held: Vec<Value> = (0..10).map(|_| living.receive()).collect();
    drop(dying);
    let of = |payload: &Value| ids[usize::try_from(payload.as_u64().unwrap()).unwrap()].clone();
    let mut told = BTreeSet::new();
    for _ in &lost {
        let error = requester.receive();
        assert_eq!(code(&error), "worker_lost", "{error}");
        assert_eq!(error["channel_id"], "work");
        told.insert(error["reply_to"].as_str().unwrap().to_owned());
    }
    assert_eq!(told, lost.iter().map(of).collect());
    requester.fence();
    assert_eq!(server.stats().pending_requests, 10);
    for task in &held {
        living.answer(task, "kept");
        requester.expect_answer(&of(&task["payload"]), "kept");
    }
    // All requests go to the remaining worker. Without workers they are refused.
    let id = requester.send("request", "work", json!("again"));
    let task = living.receive();
    living.answer(&task, "done");
    requester.expect_answer(&id, "done");
    drop(living);
    server.wait_until("its end", |stats| stats.total_connections == 4);
    requester.expect_refusal("request", "work", json!("too late"), "no_handler");
    bystanders.go_on();
}

#[test]
fn a_response_that_nobody_asked_for_is_ignored() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    let unasked = [
        Value::Null,
        json!(""),
        json!("nothing"),
        json!("requester-1"),
        json!("00000000-0000-4000-8000-000000000000"),
        json!("00000000-0000-4000-8000-0000ffffffff"),
        json!("ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ];
    for channel_id in ["echo", "calm", "system", "new"] {
        for reply_to in &unasked {
            let mut response = peer.message("response", channel_id, &json!("unasked"));
            response["reply_to"] = reply_to.clone();
            peer.send_message(&response);
        }
    }
    peer.fence();
    bystanders.go_on();
    let stats = server.stats();
    assert_eq!(stats.counters.responses_ignored, 4 * unasked.len() as u64);
    assert_eq!(stats.total_channels, 2, "a response brings no channel into being");
}

#[test]
fn only_the_worker_that_holds_a_request_can_answer_it_and_only_once() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut holder = server.connected("app", "holder").serving("work");
    let mut requester = server.connected("app", "peer");
    let id = requester.send("request", "work", json!(1));
    let task = holder.receive();
    // Another worker of the channel, a connection that serves nothing, a worker of another
    // application, and the requester itself.
    let mut second = server.connected("app", "second").serving("work");
    let mut idle = server.connected("app", "idle");
    let mut foreign = server.connected("other", "foreign").serving("work");
    for thief in [&mut second, &mut idle, &mut foreign, &mut requester] {
        thief.answer(&task, "stolen");
        thief.fence();
    }
    requester.fence();
    assert_eq!(server.stats().counters.responses_ignored, 4);
    holder.answer(&task, "right");
    holder.answer(&task, "twice");
    holder.fence();
    requester.expect_answer(&id, "right");
    requester.fence();
    assert_eq!(server.stats().counters.responses_ignored, 5);
    bystanders.go_on();
}

#[test]
fn an_answer_after_the_timeout_is_ignored() {
    let limits = Limits::default().request_timeout(Duration::from_millis(50));
    let server = serve_limited(limits);
    let mut bystanders = Bystanders::of(&server);
    let mut worker = server.connected("app", "worker").serving("work");
    let mut requester = server.connected("app", "peer");
    let id = requester.send("request", "work", json!("slow"));
    let task = worker.receive();
    requester.expect_error("timeout", "work", id);
    worker.answer(&task, "late");
    worker.fence();
    requester.fence();
    let stats = server.stats();
    assert_eq!((stats.pending_requests, stats.counters.responses_ignored), (0, 1));
    // The worker lost only that one request. The next ones have the default timeout, in which every
    // machine answers.
    server.handle.reload(&Config::default()).unwrap();
    requester.fence();
    let id = requester.send("request", "work", json!("quick"));
    let task = worker.receive();
    assert_eq!(task["payload"], "quick");
    worker.answer(&task, "in time");
    requester.expect_answer(&id, "in time");
    bystanders.go_on();
}

#[test]
fn requesters_may_use_the_same_message_id() {
    let server = serve_echo();
    let mut worker = server.connected("app", "worker").serving("work");
    let mut requesters = [server.connected("app", "one"), server.connected("app", "two")];
    let mut tasks = Vec::new();
    // One of them even uses it twice.
    for (who, payload) in [(0, "a"), (1, "b"), (0, "c")] {
        let mut request = requesters[who].message("request", "work", &json!(payload));
        request["message_id"] = json!("the same");
        requesters[who].send_message(&request);
        let task = worker.receive();
        assert_ne!(task["message_id"], "the same");
        tasks.push(task);
    }
    for (at, payload) in [(2, "C"), (1, "B"), (0, "A")] {
        worker.answer(&tasks[at], payload);
    }
    let [one, two] = &mut requesters;
    one.expect_answer("the same", "C");
    two.expect_answer("the same", "B");
    one.expect_answer("the same", "A");
    one.fence();
    two.fence();
}

#[test]
fn a_take_over_takes_the_id_and_nothing_else() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut worker = server.connected("app", "worker").serving("work");
    let mut older = server.connected("app", "same").subscribed("news");
    older.serve("duty");
    older.send("request", "work", json!("of the older"));
    let task = worker.receive();
    // In another application the same id is a different connection.
    let mut namesake = server.connected("other", "same");

    let mut newer = server.connected("app", "same");
    older.expect_closed("taken_over");
    namesake.fence();
    drop(older);
    // The newer connection inherits neither the requests nor the subscriptions and channels of the
    // older one.
    worker.answer(&task, "for the older");
    worker.send("publish", "news", json!("for subscribers"));
    worker.fence();
    worker.expect_refusal("request", "duty", json!(1), "no_handler");
    newer.fence();
    // The id still belongs to the newer connection when the older one is closed.
    server.wait_until("the end of the older", |stats| stats.total_connections == 6);
    let known = server.handle.with(|context| context.get_connection("app", "same").is_some());
    assert!(known.unwrap());
    newer.subscribe("news");
    worker.send("publish", "news", json!("for the newer"));
    assert_eq!(newer.receive()["payload"], "for the newer");
    bystanders.go_on();
}

/// Sends header and body in two writes, as the published clients do.
fn send_apart(peer: &mut Peer, server: &TestServer, message: &Value) {
    let bytes = frame(message.to_string().as_bytes());
    let received = server.stats().counters.bytes_in;
    let (header, body) = bytes.split_at(4);
    peer.stream.write_all(header).unwrap();
    server.wait_until("the header", |stats| stats.counters.bytes_in == received + 4);
    peer.stream.write_all(body).unwrap();
}

/// A published client that reconnects has a thread that still waits on the old connection and must
/// not be woken. So the old connection is told only when it next sends something.
#[test]
fn a_published_client_that_is_taken_over_is_told_later() {
    let (server, mut bystanders) = Bystanders::of_echo();
    for _ in 0..2 {
        let mut older = server.connected("app", "same");
        let ping = older.message("request", "system", &json!({"action": "ping"}));
        send_apart(&mut older, &server, &ping);
        assert_eq!(older.receive()["payload"]["status"], "pong");
        older.subscribe("news");
        older.serve("duty");

        let mut newer = server.connected("app", "same");
        newer.fence();
        bystanders.publisher.send("publish", "news", json!("for nobody"));
        bystanders.publisher.fence();
        bystanders.requester.expect_refusal("request", "duty", json!(1), "no_handler");
        assert_eq!(server.stats().total_connections, 4);
        older.stream.set_nonblocking(true).unwrap();
        let silence = older.stream.peek(&mut [0]).unwrap_err();
        assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock, "it was woken");

        drop(newer);
        server.wait_until("the newer one's leave", |stats| stats.total_connections == 3);
        let silence = older.stream.peek(&mut [0]);
        older.stream.set_nonblocking(false).unwrap();
        assert_eq!(silence.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was woken");

        older.send("publish", "calm", json!("not by me"));
        older.expect_closed("taken_over");
        bystanders.go_on();
        drop(older);
        server.wait_until("free places", |stats| stats.total_connections <= 4);
    }
}
