//! The extension `binary` over real sockets, with a raw peer on each end.

use std::io::Write;
use std::net::Shutdown;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ipc_framework::proto::Envelope;
use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, code, frame, serve, serve_limited};

/// A message as a peer got it, with the data of its attachments.
struct Got {
    json: Value,
    data: Vec<Vec<u8>>,
    body: Vec<u8>,
}

fn binary(server: &TestServer, id: &str) -> Peer {
    server.peer().called("app", id).asking_for(&["call", "binary"])
}

/// The body of a message whose payload is `{"image": null}`.
fn body(message: &Value, data: &[u8]) -> Vec<u8> {
    let mut message = message.clone();
    message["meta"]["bin"] = json!([["/image", data.len(), "u8", [data.len()]]]);
    let json = message.to_string();
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    for part in [json.as_bytes(), data] {
        body.extend_from_slice(part);
        body.resize(body.len().next_multiple_of(64), 0);
    }
    body
}

fn image() -> Value {
    json!({"image": null})
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn in_base64(data: &[u8]) -> Value {
    let data =
        json!({"$base64": BASE64_STANDARD.encode(data), "dtype": "u8", "shape": [data.len()]});
    json!({"image": data})
}

impl Peer {
    /// Sends a message with an image, and returns it.
    fn send_image(&mut self, kind: &str, channel_id: &str, meta: &Value, data: &[u8]) -> Value {
        let mut message = self.message(kind, channel_id, &image());
        message["meta"] = meta.clone();
        self.send_body(&body(&message, data));
        message
    }

    fn answer_with_image(&mut self, task: &Value, meta: &Value, data: &[u8]) {
        let channel_id = task["channel_id"].as_str().unwrap();
        let mut answer = self.message("response", channel_id, &image());
        answer["reply_to"] = task["message_id"].clone();
        answer["meta"] = meta.clone();
        self.send_body(&body(&answer, data));
    }

    fn got(&mut self) -> Got {
        let body = self.try_receive_body().expect("a frame before the stream ends");
        let envelope = Envelope::parse_binary(&body).expect("a message");
        let attachments = envelope.attachments().expect("good ones");
        let json = match body[0] {
            0 => &body[4..4 + u32::from_be_bytes(*body.first_chunk().unwrap()) as usize],
            _ => &body,
        };
        let data = attachments.iter().map(|each| each.data.to_vec()).collect();
        Got { json: serde_json::from_slice(json).expect("JSON"), data, body }
    }
}

#[test]
fn a_request_and_its_answer_keep_every_byte() {
    let server = serve_limited(Limits::default());
    let mut worker = binary(&server, "worker").serving("work");
    let mut asks = binary(&server, "asks");
    for length in [0, 1, 63, 64, 65, 4_000, 5_000, 602_112, 3_000_000] {
        let data = bytes(length);
        let request = asks.send_image("request", "work", &json!({"ttl": 60_000}), &data);
        let task = worker.got();
        assert_eq!((&task.json["payload"], &task.data[..]), (&image(), &[data][..]));
        assert!(task.json["meta"]["ttl"].as_u64().is_some_and(|ttl| (1..=60_000).contains(&ttl)));
        let data = bytes(length + 1);
        worker.answer_with_image(&task.json, &json!({}), &data);
        let answer = asks.got();
        assert_eq!(answer.json["reply_to"], request["message_id"]);
        assert_eq!((&answer.json["payload"], &answer.data[..]), (&image(), &[data][..]));
    }
}

#[test]
fn peers_without_the_extension_get_base64_and_keep_their_seven_keys() {
    let server = serve_limited(Limits::default());
    let mut publisher = binary(&server, "publisher");
    let mut native = binary(&server, "native");
    native.subscribe("news");
    let mut plain = server.connected("app", "plain").subscribed("news");
    let mut worker = server.connected("app", "worker").serving("work");
    for length in [0, 10, 100_000] {
        let data = bytes(length);
        let headers = json!({"headers": {"type": "image/png"}});
        publisher.send_image("publish", "news", &headers, &data);
        let (got, text) = (native.got(), plain.receive());
        assert_eq!(
            (&got.json["meta"]["headers"], &got.data[..]),
            (&headers["headers"], &[data.clone()][..])
        );
        assert_eq!(text["payload"], in_base64(&data));
        publisher.send_image("request", "work", &json!({}), &data);
        let task = worker.receive();
        assert_eq!(task["payload"], in_base64(&data));
        worker.answer(&task, json!(length));
        assert_eq!(publisher.got().json["payload"], length);
        publisher.send_image("notification", "work", &json!({}), &data);
        assert_eq!(worker.receive()["payload"], in_base64(&data));
    }
}

#[test]
fn a_stream_of_images_reaches_readers_of_both_kinds() {
    let server = serve_limited(Limits::default());
    let mut worker = binary(&server, "worker").serving("camera");
    let mut native = binary(&server, "native");
    let mut other = crate::calls::extended(&server, "other");
    for reader in [&mut native, &mut other] {
        let mut request = reader.message("request", "camera", &json!(null));
        request["meta"] = json!({"stream": 8});
        reader.send_message(&request);
        let task = worker.got().json;
        for seq in 0..4 {
            worker.answer_with_image(&task, &json!({"seq": seq}), &bytes(seq * 40_000));
        }
        let mut end = worker.message("response", "camera", &json!(null));
        end["reply_to"] = task["message_id"].clone();
        end["meta"] = json!({"seq": 4, "end": true});
        worker.send_message(&end);
        for seq in 0..4 {
            let part = reader.got();
            assert_eq!(part.json["meta"]["seq"], seq);
            let data = bytes(seq * 40_000);
            if part.body[0] == 0 {
                assert_eq!(part.data, [data]);
            } else {
                assert_eq!(part.json["payload"], in_base64(&data));
            }
        }
        assert_eq!(reader.got().json["meta"], json!({"seq": 4, "end": true}));
    }
    assert_eq!(server.stats().counters.stream_parts, 8);
}

#[test]
fn a_message_arrives_in_pieces_as_it_does_whole() {
    let server = serve_limited(Limits::default());
    let mut from = binary(&server, "from");
    let mut reader = binary(&server, "reader");
    reader.subscribe("news");
    let data = bytes(200);
    let publication = from.message("publish", "news", &image());
    let whole = body(&publication, &data);
    let stream = frame(&whole);
    for size in [1, 7, 64, 300] {
        for piece in stream.chunks(size) {
            from.stream.write_all(piece).unwrap();
        }
        assert_eq!(reader.got().body, whole, "in pieces of {size}");
    }
}

#[test]
fn every_vector_is_told_from_the_others_over_a_socket() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/vectors.json");
    let text = std::fs::read_to_string(path).expect("the vectors");
    let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
    let server = serve_limited(Limits::default());
    let mut from = binary(&server, "from");
    let mut reader = binary(&server, "reader");
    reader.subscribe("images");
    for vector in &vectors {
        let name = vector["name"].as_str().unwrap();
        let digits = vector["body"].as_str().unwrap().as_bytes();
        let digits = digits.chunks(2).map(|two| std::str::from_utf8(two).unwrap());
        let sent: Vec<u8> = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
        from.send_body(&sent);
        if vector["expect"] == "ok" {
            assert_eq!(reader.got().body, sent, "{name}");
        } else {
            assert_eq!(code(&from.receive()), vector["expect"], "{name}");
        }
    }
    // Nothing came of the bad ones, and both connections are as they were.
    from.fence();
    reader.fence();
}

#[test]
fn a_message_that_breaks_off_does_nothing() {
    let server = serve_limited(Limits::default());
    let mut reader = binary(&server, "reader");
    reader.subscribe("news");
    let mut from = binary(&server, "from");
    let publication = from.message("publish", "news", &image());
    let stream = frame(&body(&publication, &bytes(100_000)));
    for (at, cut) in [1, 5, 100, 300, 50_000, stream.len() - 1].into_iter().enumerate() {
        let mut from = binary(&server, &format!("broken-{at}"));
        from.stream.write_all(&stream[..cut]).unwrap();
        from.stream.shutdown(Shutdown::Write).unwrap();
        from.expect_end();
    }
    reader.fence();
    assert_eq!(server.stats().counters.publications, 0);
}

#[test]
fn what_is_too_large_in_base64_is_told_and_counted() {
    let server =
        serve(Config::default().limits(Limits::default().frame_bytes_max(100_000)), |_| {});
    let mut from = binary(&server, "from");
    let mut plain = server.connected("app", "plain").subscribed("news");
    let mut worker = server.connected("app", "worker").serving("work");
    let data = bytes(90_000);
    from.send_image("publish", "news", &json!({}), &data);
    let request = from.send_image("request", "work", &json!({}), &data);
    from.expect_error("unsupported", "work", request["message_id"].clone());
    plain.fence();
    worker.fence();
    assert_eq!(from.stats()["counters"]["publications_too_large"], 1);
    // The limit counts the whole body.
    let publication = from.message("publish", "news", &image());
    from.send_body(&body(&publication, &bytes(100_000)));
    from.expect_error("frame_too_large", "system", json!(null));
}

/// The time for a hostile message, compared with that of one of the same size with one attachment.
#[test]
fn hostile_pointers_take_linear_time() {
    let long = |count: usize, one: &str| one.repeat(count);
    let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(100), "]".repeat(100));
    let elements = long(1 << 20, "0,");
    let digits = format!("/{}", "9".repeat(100 << 10));
    let slashes = "/0".repeat(60 << 10);
    let keys = long(1 << 18, "\"kkk\":0,");
    let many: Vec<_> = (0..1_000).map(|at| format!("\"k{at:03}\":null")).collect();
    let pointers: Vec<_> = (0..1_000).map(|at| format!("[\"/k{at:03}\",0,null,null]")).collect();
    let apart: Vec<_> =
        (0..400).map(|at| format!("[\"/{at}{}\",0,null,null]", &slashes[..240])).collect();
    let one = |pointer: &str| format!("[[\"{pointer}\",0,null,null]]");
    let quick = (format!("[{elements}null]"), one(&format!("/{}", 1 << 20)));
    let cases = [
        (format!("[{elements}null]"), one(&digits)),
        (format!("[{elements}null]"), one(&slashes)),
        (deep(&format!("{elements}null")), one(&slashes)),
        (format!("{{{keys}\"z\":null}}"), one("/z")),
        // Each pointer leads through as many containers of its own as it can.
        (deep("null"), format!("[{}]", apart.join(","))),
        // Each key has to be looked up among a thousand of its length.
        (
            format!("{{{},{}\"z\":0}}", many.join(","), long(1 << 17, "\"x123\":0,")),
            format!("[{}]", pointers.join(",")),
        ),
    ];
    let time = |(payload, bin): &(String, String)| {
        let json = format!(
            "{{\"message_id\":\"m\",\"app_id\":\"a\",\"channel_id\":\"c\",\"message_type\":\"publish\",\
             \"payload\":{payload},\"timestamp\":0,\"reply_to\":null,\"meta\":{{\"bin\":{bin}}}}}"
        );
        let mut body = (json.len() as u32).to_be_bytes().to_vec();
        body.extend_from_slice(json.as_bytes());
        body.resize(body.len().next_multiple_of(64), 0);
        let envelope = Envelope::parse_binary(&body).unwrap();
        let begin = Instant::now();
        let _ = std::hint::black_box(envelope.attachments());
        begin.elapsed()
    };
    let usual = (0..3).map(|_| time(&quick)).min().unwrap();
    for case in &cases {
        let taken = (0..3).map(|_| time(case)).min().unwrap();
        assert!(taken < usual * 30, "{taken:?}, and {usual:?} for a usual one: {:.60}", case.1);
    }
}
