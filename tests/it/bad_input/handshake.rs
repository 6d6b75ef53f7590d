//! Connections that fail their handshake, or that are too many. Those that do not complete it in time
//! are tested in `attacks::handshakes`.

use std::io::Write;
use std::time::Duration;

use ipc_framework::Limits;
use serde_json::{Value, json};

use super::Bystanders;
use crate::support::{Peer, TestServer, code, eventually, frame, serve_echo, serve_limited};

fn stranger(server: &TestServer) -> Peer {
    server.peer().called("app", "stranger")
}

#[test]
fn whoever_does_not_connect_first_is_told_and_closed() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let connect = json!({"action": "connect", "connection_id": "stranger"});
    let own = json!({"connection_id": "stranger", "ack": true});
    let firsts = [
        ("request", "echo", json!(1)),
        ("request", "system", json!({"action": "ping"})),
        ("request", "system", json!({"action": "Connect", "connection_id": "stranger"})),
        ("request", "system", json!("connect")),
        ("request", "System", connect.clone()),
        ("request", "echo", connect.clone()),
        ("notification", "system", connect.clone()),
        ("publish", "calm", json!("spam")),
        ("subscribe", "calm", own.clone()),
        ("unsubscribe", "calm", own),
    ];
    for (message_type, channel_id, payload) in firsts {
        let mut peer = stranger(&server);
        let id = peer.send(message_type, channel_id, payload);
        // The server ignores everything behind it.
        peer.send("request", "system", connect.clone());
        peer.expect_error("not_connected", channel_id, id);
        peer.expect_end();
    }
    bystanders.go_on();
    assert_eq!(server.stats().total_connections, 3);
}

#[test]
fn a_connect_without_a_usable_id_may_be_mended() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = stranger(&server);
    let ids = [
        None,
        Some(json!(null)),
        Some(json!("")),
        Some(json!(7)),
        Some(json!(["stranger"])),
        Some(json!("x".repeat(257))),
    ];
    for id in ids {
        let mut connect = json!({"action": "connect"});
        if let Some(id) = id {
            connect["connection_id"] = id;
        }
        peer.expect_refusal("request", "system", connect, "bad_message");
    }
    assert_eq!(server.stats().total_connections, 3);
    peer.connect("app", "stranger");
    peer.fence();
    bystanders.go_on();
}

#[test]
fn bad_frames_before_the_connect_leave_the_door_open() {
    let server = serve_echo();
    let mut peer = stranger(&server);
    peer.send_body(b"");
    peer.expect_error("bad_frame", "system", Value::Null);
    peer.send_body(b"\xff");
    peer.expect_error("bad_frame", "system", Value::Null);
    let mut message = peer.message("request", "echo", &json!(1));
    message["timestamp"] = json!("now");
    let id = message["message_id"].clone();
    peer.send_message(&message);
    peer.expect_error("bad_message", "echo", id);
    peer.connect("app", "stranger");
    peer.fence();
}

#[test]
fn an_empty_message_id_is_allowed_in_a_connect_alone() {
    let server = serve_echo();
    let mut peer = stranger(&server);
    let connect = json!({"action": "connect", "connection_id": "stranger"});
    for expected in ["connected", "error"] {
        let mut message = peer.message("request", "system", &connect.clone());
        message["message_id"] = json!("");
        peer.send_message(&message);
        let answer = peer.receive();
        assert_eq!(answer["payload"]["status"], expected, "{answer}");
        assert_eq!(answer["reply_to"], Value::Null, "{answer}");
    }
    peer.fence();
}

#[test]
fn an_http_request_is_told_what_it_met() {
    let (server, mut bystanders) = Bystanders::of_echo();
    for size in [0, 1_000, 300_000] {
        let mut peer = server.peer();
        let head = format!("POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n");
        peer.stream.write_all(head.as_bytes()).unwrap();
        // Unread bytes would turn the close into a reset, and the reason would be lost.
        peer.stream.write_all(&vec![b'x'; size]).unwrap();
        peer.expect_closed("frame_too_large");
        bystanders.go_on();
    }
}

/// Returns a connect whose body has so many bytes.
fn connect_of(peer: &mut Peer, bytes: usize) -> Vec<u8> {
    let mut payload = json!({"action": "connect", "connection_id": "stranger", "padding": ""});
    let length = peer.message("request", "system", &payload.clone()).to_string().len();
    payload["padding"] = json!("x".repeat(bytes - length));
    let body = peer.message("request", "system", &payload).to_string().into_bytes();
    assert_eq!(body.len(), bytes);
    body
}

#[test]
fn a_connect_has_16_kib_and_not_one_byte_more() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = stranger(&server);
    let body = connect_of(&mut peer, 16 << 10);
    peer.send_body(&body);
    assert_eq!(peer.receive()["payload"]["status"], "connected");
    // After the handshake, larger frames are allowed.
    let text = "x".repeat(100_000);
    assert_eq!(peer.request("echo", json!(text)), json!(text));

    let mut peer = stranger(&server);
    let body = connect_of(&mut peer, (16 << 10) + 1);
    peer.send_body(&body);
    peer.expect_closed("frame_too_large");
    bystanders.go_on();
}

#[test]
fn the_limit_of_the_handshake_ends_with_the_connect_even_in_one_write() {
    let server = serve_echo();
    let mut peer = stranger(&server);
    let connect = connect_of(&mut peer, 1_000);
    let text = "x".repeat(100_000);
    let request = peer.message("request", "echo", &json!(text)).to_string();
    let bytes = [frame(&connect), frame(request.as_bytes())].concat();
    peer.stream.write_all(&bytes).unwrap();
    assert_eq!(peer.receive()["payload"]["status"], "connected");
    assert_eq!(peer.receive()["payload"], text);
}

#[test]
fn what_a_stranger_leaves_unread_does_not_grow() {
    let server = serve_limited(Limits::default().handshake_timeout(Duration::from_secs(1)));
    let mut bystanders = Bystanders::of(&server);
    let peer = server.peer();
    peer.read_nothing_early(4 << 10);
    // Each write causes 20,000 errors of about 300 bytes.
    let bytes = frame(b"[]").repeat(20_000);
    let buffered_bytes = bystanders.peak_of_a_flood(&server, &peer, bytes);
    let stats = server.wait_until("empty buffers", |stats| stats.buffered_bytes == 0);
    let errors = stats.counters.errors["bad_frame"];
    assert!(errors > 1_000, "only {errors} bad frames were read");
    // One read of 64 KiB, one buffer of 64 KiB, and the buffers of the bystanders.
    assert!(buffered_bytes <= 192 << 10, "{buffered_bytes} bytes for {errors} errors");
}

/// Connects as soon as there is a place.
fn connect_when_free(server: &TestServer, connection_id: &str) -> Peer {
    eventually("a free place", || {
        let mut peer = server.peer().called("app", connection_id);
        let answer = peer.introduce(None).ok()?;
        let is_connected = answer["payload"]["status"] == "connected";
        assert!(is_connected || code(&answer) == "server_full", "{answer}");
        is_connected.then_some(peer)
    })
}

#[test]
fn a_flood_of_connections_is_refused_and_places_become_free_again() {
    let server = serve_limited(Limits::default().connections_max(8));
    let mut bystanders = Bystanders::of(&server);
    let mut admitted: Vec<Peer> =
        (0..5).map(|at| server.connected("app", &format!("peer-{at}"))).collect();
    let mut flood: Vec<Peer> = (0..300).map(|_| server.peer()).collect();
    let mut told = 0;
    for peer in &mut flood {
        // At most 64 at a time are told.
        if let Ok(answer) = peer.try_receive() {
            assert_eq!(answer["payload"]["code"], "server_full", "{answer}");
            peer.expect_end();
            told += 1;
        }
    }
    assert!(told >= 64, "only {told} were told why");
    bystanders.go_on();
    assert_eq!(server.stats().total_connections, 8);
    drop(flood);
    admitted.pop();
    let mut late = connect_when_free(&server, "late");
    late.fence();
    bystanders.go_on();
    admitted.iter_mut().for_each(Peer::fence);
    assert_eq!(server.stats().total_connections, 8);
}

#[test]
fn those_who_were_refused_take_nobodys_place() {
    let server = serve_limited(Limits::default().connections_max(4));
    let mut bystanders = Bystanders::of(&server);
    let leaving = server.connected("app", "leaving");
    // They have read that the server is full, and stay open.
    let mut refused: Vec<Peer> = (0..10).map(|_| server.peer()).collect();
    for peer in &mut refused {
        peer.expect_closed("server_full");
    }
    drop(leaving);
    server.wait_until("a free place", |stats| stats.total_connections == 3);
    let mut next = server.connected("app", "next");
    next.fence();
    bystanders.go_on();
}

#[test]
fn a_response_instead_of_a_connect_is_not_answered_and_closed() {
    let server = serve_echo();
    let mut peer = stranger(&server);
    peer.send("response", "echo", json!(null));
    peer.expect_end();
}
