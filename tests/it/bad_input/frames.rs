//! Wrong lengths, connections that break, and bodies that are no messages.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;

use super::Bystanders;
use crate::support::frame;

#[test]
fn a_length_of_zero_is_answered_and_the_next_frame_is_read() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    peer.stream.write_all(&[0; 12]).unwrap();
    for _ in 0..3 {
        peer.expect_error("bad_frame", "system", Value::Null);
    }
    peer.fence();
    bystanders.go_on();
}

#[test]
fn a_length_of_4_gib_is_not_believed() {
    for length in [u32::MAX, 0x8000_0000, (16 << 20) + 1] {
        let (server, mut bystanders) = Bystanders::of_echo();
        let mut peer = server.connected("app", "peer");
        peer.stream.write_all(&length.to_be_bytes()).unwrap();
        peer.expect_closed("frame_too_large");
        bystanders.go_on();
        assert_eq!(server.stats().buffered_bytes, 0);
    }
}

#[test]
fn the_largest_length_promises_nothing() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peers: Vec<_> =
        (0..20).map(|at| server.connected("app", &format!("peer-{at}"))).collect();
    let received = server.stats().counters.bytes_in;
    for peer in &mut peers {
        peer.stream.write_all(&[1, 0, 0, 0, b'{']).unwrap();
    }
    let stats =
        server.wait_until("their bytes", |stats| stats.counters.bytes_in == received + 20 * 5);
    // 20 frames of 16 MiB were announced.
    assert!(stats.buffered_bytes <= 20 * (16 << 10), "{} bytes", stats.buffered_bytes);
    bystanders.go_on();
}

#[test]
fn half_a_frame_then_a_reset_leaves_nothing_behind() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let whole = frame(&with_payload(&format!("\"{}\"", "x".repeat(1_000))));
    // Cuts within the header, behind it, within the body, and before the last byte.
    for cut in [1, 3, 4, 5, 60, 1_000, whole.len() - 1] {
        let mut peer = server.connected("app", "peer");
        peer.stream.write_all(&whole[..cut]).unwrap();
        server.wait_until("half a frame", |stats| stats.buffered_bytes >= cut);
        SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        server.wait_until("the end of the half frame", |stats| {
            stats.total_connections == 3 && stats.buffered_bytes == 0
        });
        bystanders.go_on();
    }
}

#[test]
fn half_a_frame_then_an_end_leaves_nothing_behind() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    peer.stream.write_all(&[0, 0, 1, 0, b'{']).unwrap();
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    peer.expect_end();
    server.wait_until("its end", |stats| stats.total_connections == 3 && stats.buffered_bytes == 0);
    bystanders.go_on();
}

/// Returns a request with this text as its payload.
fn with_payload(payload: &str) -> Vec<u8> {
    format!(
        r#"{{"message_id":"m","app_id":"app","channel_id":"echo","message_type":"request",
        "payload":{payload},"timestamp":1.5}}"#
    )
    .into_bytes()
}

/// All variants of bodies that are not JSON are tested in `proto::envelope::tests` and
/// `proto::scanner::tests`.
#[test]
fn what_is_not_one_json_object_is_a_bad_frame_and_nothing_of_it_is_believed() {
    let whole = with_payload("1");
    let latin_1: Vec<u8> = with_payload("\"~\"")
        .into_iter()
        .map(|byte| if byte == b'~' { 0xfc } else { byte })
        .collect();
    let mut bodies = vec![
        [whole.as_slice(), whole.as_slice()].concat(),
        [b"\xef\xbb\xbf".as_slice(), whole.as_slice()].concat(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..whole.len() - 1], b",}"].concat(),
        latin_1,
        vec![b'['; 100_000],
    ];
    bodies.extend(["", " \n", "null", "[{}]", "{", "{\"a\"}", "nonsense"].map(Vec::from));
    // The message's own object is the first of the 128 levels that are allowed.
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let payloads =
        ["NaN", "01", "[1,]", "{\"a\" 1}", "\"\\x\"", "\"\n\"", "", &deep(128), &objects];
    bodies.extend(payloads.map(with_payload));

    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    for body in &bodies {
        println!("{}", String::from_utf8_lossy(&body[..body.len().min(200)]));
        peer.send_body(body);
        peer.expect_error("bad_frame", "system", Value::Null);
        peer.fence();
    }
    bystanders.go_on();
    assert_eq!(server.stats().counters.errors["bad_frame"], bodies.len() as u64);
}

#[test]
fn the_largest_frame_goes_through_and_one_byte_more_closes() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    let empty = with_payload("\"\"").len();
    let body = with_payload(&format!("\"{}\"", "x".repeat((16 << 20) - empty)));
    assert_eq!(body.len(), 16 << 20);
    // The answer has a longer id and does not fit, so the handler fails.
    peer.send_body(&body);
    peer.expect_error("handler_failed", "echo", "m");
    let text = "x".repeat(15 << 20);
    assert_eq!(peer.request("echo", json!(text)), json!(text));
    bystanders.go_on();
    peer.stream.write_all(&((16_u32 << 20) + 1).to_be_bytes()).unwrap();
    peer.expect_closed("frame_too_large");
    bystanders.go_on();
}
