//! Attachments, to peers with the extension and without.

use super::*;
use crate::proto::Envelope;
use base64::prelude::{BASE64_STANDARD, Engine as _};

mod own;
mod too_large;
mod workers;

/// A message as a peer got it: its JSON, and the data of its attachments.
#[derive(Debug)]
struct Got {
    json: Value,
    data: Vec<Vec<u8>>,
    /// The whole body.
    body: Vec<u8>,
}

impl Got {
    fn payload(&self) -> &Value {
        &self.json["payload"]
    }
}

/// A body whose `meta` gets the `bin` of these attachments: pointer, dtype, shape and data.
fn body(message: &Value, attachments: &[(&str, Value, Value, Vec<u8>)]) -> Vec<u8> {
    let mut message = message.clone();
    let entries = attachments
        .iter()
        .map(|(pointer, dtype, shape, data)| json!([pointer, data.len(), dtype, shape]));
    message["meta"]["bin"] = entries.collect();
    let json = message.to_string();
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    for part in
        std::iter::once(json.as_bytes()).chain(attachments.iter().map(|(.., data)| &data[..]))
    {
        body.extend_from_slice(part);
        body.resize(body.len().next_multiple_of(64), 0);
    }
    body
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// `{"name": "cat", "image": null}` with an image of this many bytes.
fn image(message: &Value, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let data: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
    let attached = [("/image", json!("u8"), json!([bytes]), data.clone())];
    (body(message, &attached), data)
}

fn cat() -> Value {
    json!({"name": "cat", "image": null})
}

/// The payload of such a message for a peer without the extension.
fn in_base64(data: &[u8]) -> Value {
    let encoded = BASE64_STANDARD.encode(data);
    let image = json!({"$base64": encoded, "dtype": "u8", "shape": [data.len()]});
    json!({"name": "cat", "image": image})
}

impl World {
    /// Connects a peer with these extensions.
    fn with(&mut self, id: &str, extensions: &[&str]) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id, "extensions": extensions});
        self.send(key, &message("app", "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["extensions"], json!(extensions));
        key
    }

    fn binary(&mut self, id: &str) -> ConnectionKey {
        self.with(id, &["call", "binary"])
    }

    fn send_body(&mut self, key: ConnectionKey, body: &[u8]) {
        self.deliver(key, &frame(body));
    }

    /// The messages to a connection, which may have attachments.
    fn got(&mut self, key: ConnectionKey) -> Vec<Got> {
        let bytes = self.received.remove(&key).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Some((header, behind)) = rest.split_first_chunk::<4>() {
            let (body, next) = behind.split_at(u32::from_be_bytes(*header) as usize);
            rest = next;
            let envelope = Envelope::parse_binary(body).expect("a message");
            let attachments = envelope.attachments().expect("good attachments");
            let json = match body[0] {
                0 => &body[4..4 + u32::from_be_bytes(*body.first_chunk().unwrap()) as usize],
                _ => body,
            };
            all.push(Got {
                json: serde_json::from_slice(json).expect("JSON"),
                data: attachments.iter().map(|each| each.data.to_vec()).collect(),
                body: body.to_vec(),
            });
        }
        assert!(rest.is_empty(), "whole frames only");
        all
    }

    fn got_one(&mut self, key: ConnectionKey) -> Got {
        let mut all = self.got(key);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

/// A request with an image to the workers of `work`.
fn ask(id: &str, meta: &Value, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let mut request = message("app", "request", "work", id, &cat());
    request["meta"] = meta.clone();
    image(&request, bytes)
}

/// A response to what a worker got.
fn reply(request: &Got, meta: &Value) -> Value {
    let mut response = message("app", "response", "work", "r", &cat());
    response["reply_to"] = request.json["message_id"].clone();
    response["meta"] = meta.clone();
    response
}

#[test]
fn the_extension_is_granted_and_needed() {
    let mut world = World::new(Limits::default());
    let binary = world.with("binary", &["binary"]);
    let (published, _) = image(&message("app", "publish", "news", "p", &cat()), 10);
    world.send_body(binary, &published);
    assert_eq!(world.take(binary), [json!(null); 0]);
    for key in [world.with("call", &["call"]), world.connected("app", "plain")] {
        world.send_body(key, &published);
        world.expect_error(key, "bad_frame", json!(null));
    }
    // So is a connect that begins with 0.
    let key = world.accept();
    world.send_body(key, &published);
    world.expect_error(key, "bad_frame", json!(null));
}

#[test]
fn a_publication_reaches_each_subscriber_in_its_form() {
    for (bytes, crowd) in [(10, 1), (10, 5), (100_000, 1), (100_000, 5)] {
        let mut world = World::new(Limits::default());
        let from = world.binary("from");
        let mut peers = Vec::new();
        for at in 0..crowd {
            peers.push((world.binary(&format!("b{at}")), "binary"));
            peers.push((world.with(&format!("o{at}"), &["binary"]), "binary"));
            peers.push((world.extended(&format!("c{at}")), "meta"));
            peers.push((world.connected("app", &format!("p{at}")), "plain"));
        }
        for (key, _) in &peers {
            world.subscribe(*key, "app", "news");
        }
        let mut publication = message("app", "publish", "news", "p", &cat());
        publication["meta"] = json!({"headers": {"type": "image/png"}});
        let (body, data) = image(&publication, bytes);
        world.send_body(from, &body);
        for (key, form) in &peers {
            let got = world.got_one(*key);
            match *form {
                "binary" => assert_eq!(got.body, body, "it is relayed as it came"),
                _ => assert_eq!(*got.payload(), in_base64(&data)),
            }
            match *form {
                "plain" => assert_eq!(got.json.get("meta"), None),
                "meta" => assert_eq!(got.json["meta"], publication["meta"]),
                _ => assert_eq!(got.data, std::slice::from_ref(&data)),
            }
        }
        let counters = &world.broker.core.counters;
        assert_eq!((counters.publications, counters.deliveries), (1, 4 * crowd));
        assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
    }
}

#[test]
fn subscribers_share_one_frame_and_nobody_pays_for_a_form_that_nobody_needs() {
    // Subscribers of JSON: two with a `meta`, which share one frame, and one without.
    let others: [&[&str]; 3] = [&["call"], &["call"], &[]];
    let publish = |bytes: usize, others: &[&[&str]]| {
        let limits = Limits { queue_high_water_bytes: 64 << 20, ..Limits::default() };
        let mut world = World::new(limits);
        let from = world.binary("from");
        let mut keys: Vec<_> = (0..20).map(|at| world.binary(&format!("b{at}"))).collect();
        for (at, extensions) in others.iter().enumerate() {
            keys.push(match extensions {
                [] => world.connected("app", "plain"),
                _ => world.with(&format!("o{at}"), extensions),
            });
        }
        for key in keys {
            world.subscribe(key, "app", "news");
            world.stalled.push(key);
        }
        let (body, _) = image(&message("app", "publish", "news", "p", &cat()), bytes);
        let work = world.broker.core.turn.work_done();
        world.send_body(from, &body);
        let core = &world.broker.core;
        (core.pool.gauge().bytes(), core.turn.work_done() - work)
    };
    // Buffers have a little more room than their frames need.
    assert_eq!(publish(10, &[]).0, 4 << 10);
    let (bytes, work) = publish(1_000_000, &[]);
    assert!((1_000_000..2_000_000).contains(&bytes), "{bytes}");
    let (bytes, work_with_base64) = publish(1_000_000, &others);
    let encoded = 1_000_000 / 3 * 4;
    assert!((1_000_000 + 2 * encoded..1_500_000 + 3 * encoded).contains(&bytes), "{bytes}");
    let encoded_work = 2 * encoded as u64 / 256;
    assert!(work_with_base64 > work + encoded_work, "{work_with_base64} and {work}");
}

#[test]
fn a_publication_that_is_too_large_in_base64_is_counted() {
    let limits = Limits { frame_bytes_max: 10_000, ..Limits::default() };
    let mut world = World::new(limits);
    let from = world.binary("from");
    let (native, call, plain) =
        (world.binary("b"), world.extended("c"), world.connected("app", "p"));
    for key in [native, call, plain] {
        world.subscribe(key, "app", "news");
    }
    let (body, data) = image(&message("app", "publish", "news", "p", &cat()), 9_000);
    world.send_body(from, &body);
    assert_eq!(world.got_one(native).data, [data]);
    assert!(world.got(call).is_empty() && world.got(plain).is_empty());
    let counters = &world.broker.core.counters;
    assert_eq!((counters.publications_too_large, counters.deliveries), (2, 1));
    assert!(world.got(from).is_empty());
}

#[test]
fn a_request_and_its_answer_go_between_all_kinds_of_peers() {
    for bytes in [0, 100, 50_000] {
        for requester in ["binary", "call", "plain"] {
            for kind in ["binary", "only binary", "call", "plain"] {
                let mut world = World::new(Limits::default());
                let connect = |world: &mut World, id: &str, kind: &str| match kind {
                    "binary" => world.binary(id),
                    "only binary" => world.with(id, &["binary"]),
                    "call" => world.extended(id),
                    _ => world.connected("app", id),
                };
                let worker = connect(&mut world, "worker", kind);
                world.serve(worker, "app", "work");
                let asks = connect(&mut world, "asks", requester);
                let headers = json!({"user": "ü"});
                let mut sent = Vec::new();
                if requester == "binary" {
                    let meta = json!({"ttl": 1_500, "headers": headers});
                    let (body, data) = ask("q", &meta, bytes);
                    sent = data;
                    world.send_body(asks, &body);
                } else {
                    world.request(asks, "q", &cat());
                }
                let got = world.got_one(worker);
                if requester == "binary" {
                    let mut expected = match kind {
                        "binary" | "call" => json!({"ttl": 1_500, "headers": headers}),
                        "only binary" => json!({"headers": headers}),
                        _ => json!(null),
                    };
                    if kind.contains("binary") {
                        assert_eq!((got.payload(), &got.data), (&cat(), &vec![sent.clone()]));
                        expected["bin"] = got.json["meta"]["bin"].clone();
                    } else {
                        assert_eq!(*got.payload(), in_base64(&sent));
                    }
                    let meta = got.json.get("meta").cloned().unwrap_or_default();
                    assert_eq!(meta, expected, "{kind}");
                }
                if !kind.contains("binary") {
                    continue;
                }
                let (answer, data) = image(&reply(&got, &json!({"headers": headers})), bytes + 1);
                world.send_body(worker, &answer);
                let answer = world.got_one(asks);
                assert_eq!(answer.json["reply_to"], "q");
                let meta = answer.json.get("meta").map(|meta| &meta["headers"]);
                assert_eq!(meta, (requester != "plain").then_some(&headers));
                if requester == "binary" {
                    assert_eq!((answer.payload(), &answer.data), (&cat(), &vec![data]));
                } else {
                    assert_eq!(*answer.payload(), in_base64(&data));
                    let bin = answer.json.get("meta").and_then(|meta| meta.get("bin"));
                    assert_eq!(bin, None);
                }
                assert_eq!(world.broker.core.requests.len(), 0);
                world.assert_empty(&[worker, asks]);
            }
        }
    }
}

#[test]
fn a_notification_is_passed_on() {
    let mut world = World::new(Limits::default());
    let (native, plain) = (world.binary("native"), world.connected("app", "plain"));
    world.serve(native, "app", "work");
    world.serve(plain, "app", "other");
    let from = world.binary("from");
    for channel in ["work", "other"] {
        let (body, data) = image(&message("app", "notification", channel, "n", &cat()), 1_000);
        world.send_body(from, &body);
        if channel == "work" {
            let got = world.got_one(native);
            assert_eq!((&got.json["message_id"], got.data), (&json!("n"), vec![data]));
        } else {
            assert_eq!(*world.got_one(plain).payload(), in_base64(&data));
        }
    }
    assert!(world.got(from).is_empty());
}

#[test]
fn what_is_too_large_in_base64_is_unsupported() {
    let limits = Limits { frame_bytes_max: 10_000, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.worker("work");
    let asks = world.binary("asks");
    let (request, _) = ask("q", &json!({}), 9_000);
    world.send_body(asks, &request);
    let error = world.take_one(asks);
    assert_eq!(
        (&error["payload"]["code"], &error["reply_to"]),
        (&json!("unsupported"), &json!("q"))
    );
    let text = error["payload"]["error"].as_str().unwrap();
    assert!(text.contains("--max-frame-bytes") && text.contains("10000"), "{text}");
    let (note, _) = image(&message("app", "notification", "work", "n", &cat()), 9_000);
    world.send_body(asks, &note);
    world.expect_error(asks, "unsupported", "n");
    assert_eq!(world.take(worker), [json!(null); 0]);
    assert_eq!(world.broker.core.requests.len(), 0);

    // An answer, and a part of one.
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let worker = world.binary("worker");
    world.serve(worker, "app", "work");
    let (plain, call) = (world.connected("app", "plain"), world.extended("call"));
    world.request(plain, "q", &json!(1));
    let got = world.got_one(worker);
    let (answer, _) = image(&reply(&got, &json!({})), 9_000);
    world.send_body(worker, &answer);
    world.expect_error(plain, "unsupported", "q");
    assert!(world.got(worker).is_empty());
    world.call(call, "q", &json!({"stream": 2}));
    let got = world.got_one(worker);
    let (part, _) = image(&reply(&got, &json!({"seq": 0})), 9_000);
    world.send_body(worker, &part);
    world.expect_error(call, "unsupported", "q");
    world.expect_cancel(worker, &got.json, "limit");
    world.assert_empty(&[worker, plain, call]);
}

#[test]
fn parts_of_a_stream_have_attachments() {
    for kind in ["binary", "call"] {
        let mut world = World::new(Limits::default());
        let worker = world.binary("worker");
        world.serve(worker, "app", "work");
        let asks = if kind == "binary" { world.binary("asks") } else { world.extended("asks") };
        world.call(asks, "q", &json!({"stream": 8}));
        let got = world.got_one(worker);
        for (seq, bytes) in [10, 20_000].into_iter().enumerate() {
            let (part, data) = image(&reply(&got, &json!({"seq": seq})), bytes);
            world.send_body(worker, &part);
            let part = world.got_one(asks);
            assert_eq!(
                (&part.json["meta"]["seq"], &part.json["reply_to"]),
                (&json!(seq), &json!("q"))
            );
            if kind == "binary" {
                assert_eq!(part.data, [data]);
            } else {
                assert_eq!(*part.payload(), in_base64(&data));
            }
        }
        world.part(worker, &got.json, &json!(null), &json!({"seq": 2, "end": true}));
        assert_eq!(world.got_one(asks).json["meta"]["end"], true);
        assert_eq!(world.broker.core.counters.stream_parts, 2);
        world.assert_empty(&[worker, asks]);
    }
}

#[test]
fn the_end_of_a_stream_has_no_attachments() {
    for kind in ["binary", "call"] {
        let mut world = World::new(Limits::default());
        let worker = world.binary("worker");
        world.serve(worker, "app", "work");
        let asks = if kind == "binary" { world.binary("asks") } else { world.extended("asks") };
        world.call(asks, "q", &json!({"stream": 8}));
        let got = world.got_one(worker);
        let mut end = reply(&got, &json!({"seq": 0, "end": true}));
        end["payload"] = json!(null);
        world.send_body(worker, &body(&end, &[("", json!(null), json!(null), b"x".to_vec())]));
        world.expect_error(asks, "handler_failed", "q");
        world.expect_cancel(worker, &got.json, "gone");
        world.assert_empty(&[worker, asks]);
    }
}

#[test]
fn a_response_with_faulty_attachments_ends_the_request() {
    let mut world = World::new(Limits::default());
    let worker = world.binary("worker");
    world.serve(worker, "app", "work");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({}));
    let got = world.got_one(worker);
    let (mut answer, _) = image(&reply(&got, &json!({})), 100);
    *answer.last_mut().unwrap() = 1;
    world.send_body(worker, &answer);
    world.expect_error(asks, "handler_failed", "q");
    world.expect_cancel(worker, &got.json, "gone");
    // Nor is it lost by wrong zeros behind its JSON.
    world.call(asks, "q", &json!({}));
    let got = world.got_one(worker);
    let (mut answer, _) = image(&reply(&got, &json!({})), 100);
    let json_end = 4 + u32::from_be_bytes(*answer.first_chunk().unwrap()) as usize;
    assert!(!json_end.is_multiple_of(64));
    answer[json_end] = 1;
    world.send_body(worker, &answer);
    world.expect_error(asks, "handler_failed", "q");
    world.expect_cancel(worker, &got.json, "gone");
    // One without `bin` does not go on as JSON alone either.
    world.call(asks, "q", &json!({}));
    let got = world.got_one(worker);
    let mut bare = reply(&got, &json!({}));
    bare["meta"] = json!({"headers": {}});
    let json = bare.to_string();
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    body.extend_from_slice(json.as_bytes());
    body.resize(body.len().next_multiple_of(64), 0);
    world.send_body(worker, &body);
    world.expect_error(asks, "handler_failed", "q");
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_faulty_message_is_refused_by_its_id_and_does_nothing() {
    let mut world = World::new(Limits::default());
    let (native, from) = (world.binary("native"), world.binary("from"));
    world.subscribe(native, "app", "news");
    let (good, _) = image(&message("app", "publish", "news", "p", &cat()), 100);
    let mut padded = good.clone();
    *padded.last_mut().unwrap() = 1;
    let json_end = 4 + u32::from_be_bytes(*good.first_chunk().unwrap()) as usize;
    let mut wrong_zeros = good.clone();
    wrong_zeros[json_end] = 1;
    let mut long = good.clone();
    long.extend_from_slice(&[0; 64]);
    let bin = |payload: &Value, entries: Value| {
        let mut publication = message("app", "publish", "news", "p", payload);
        publication["meta"] = json!({"bin": entries});
        let json = publication.to_string();
        let mut body = (json.len() as u32).to_be_bytes().to_vec();
        body.extend_from_slice(json.as_bytes());
        body.resize(body.len().next_multiple_of(64), 0);
        body
    };
    for (body, id) in [
        (good[..good.len() - 64].to_vec(), json!("p")),
        (padded, json!("p")),
        (wrong_zeros, json!("p")),
        (good[..json_end].to_vec(), json!("p")),
        (long, json!("p")),
        (bin(&cat(), json!([["/name", 0, null, null]])), json!("p")),
        (bin(&cat(), json!([["/image", 0, "x", []]])), json!("p")),
        (bin(&cat(), json!([])), json!("p")),
        (good[..100].to_vec(), json!(null)),
        (vec![0], json!(null)),
    ] {
        world.send_body(from, &body);
        world.expect_error(from, "bad_message", id);
    }
    // A `bin` in a body of JSON alone.
    let mut bare = message("app", "publish", "news", "p", &cat());
    bare["meta"] = json!({"bin": [["/image", 0, null, null]]});
    for key in [from, world.extended("call")] {
        world.send(key, &bare);
        world.expect_error(key, "bad_message", "p");
    }
    assert!(world.got(native).is_empty());
}

#[test]
fn what_the_server_itself_takes_has_no_attachments() {
    let mut world = World::new(Limits::default());
    let from = world.binary("from");
    for (kind, channel) in [
        ("request", "system"),
        ("notification", "system"),
        ("subscribe", "news"),
        ("unsubscribe", "news"),
        ("subscribe", "system"),
    ] {
        let (body, _) = image(&message("app", kind, channel, "m", &cat()), 10);
        world.send_body(from, &body);
        world.expect_error(from, "bad_message", "m");
    }
    let (body, _) = image(&message("app", "response", "system", "m", &cat()), 10);
    world.send_body(from, &body);
    assert!(world.got(from).is_empty());
}

#[test]
fn who_asked_for_attachments_alone_has_nothing_of_call() {
    let mut world = World::new(Limits::default());
    let worker = world.extended_worker("worker");
    let only = world.with("only", &["binary"]);
    for meta in [json!({"ttl": 5}), json!({"stream": 1}), json!({"idempotent": true})] {
        world.call(only, "q", &meta);
        world.expect_error(only, "bad_message", "q");
        let (body, _) = ask("q", &meta, 10);
        world.send_body(only, &body);
        world.expect_error(only, "bad_message", "q");
    }
    // Its cancels are heartbeats.
    world.request(only, "q", &json!(1));
    world.cancel(only, "q");
    assert!(world.got(only).is_empty());
    assert_eq!(world.broker.core.requests.len(), 1);
    world.take(worker);
    // As a worker it gets of a `meta` what every extension has.
    world.hang_up(worker);
    world.take(only);
    world.serve(only, "app", "work");
    let asks = world.extended("asks");
    let meta = json!({"ttl": 500, "headers": {"a": "b"}});
    world.call(asks, "q", &meta);
    assert_eq!(world.got_one(only).json["meta"], json!({"headers": {"a": "b"}}));
    world.call(asks, "q", &json!({"ttl": 500}));
    assert_eq!(world.got_one(only).json.get("meta"), None);
}

#[test]
fn a_request_that_was_kept_goes_to_any_worker() {
    for kind in ["binary", "only binary", "call", "plain"] {
        let mut world = World::new(Limits::default());
        let busy = world.limited("busy", 1);
        let asks = world.binary("asks");
        world.request(asks, "first", &json!(1));
        let first = world.got_one(busy);
        let meta = json!({"ttl": 1_500, "headers": {"a": "b"}});
        let (body, data) = ask("q", &meta, 10_000);
        world.send_body(asks, &body);
        assert_eq!(world.broker.core.requests.kept(), 1);
        world.pass(Duration::from_millis(500));
        let worker = match kind {
            "binary" => world.binary("worker"),
            "only binary" => world.with("worker", &["binary"]),
            "call" => world.extended("worker"),
            _ => world.connected("app", "worker"),
        };
        world.serve_with(worker, &json!(1));
        let got = world.got(worker).pop().unwrap();
        match kind {
            "binary" => assert_eq!(got.json["meta"]["ttl"], 1_000),
            "only binary" => assert_eq!(got.json["meta"].get("ttl"), None),
            "call" => assert_eq!(got.json["meta"], json!({"ttl": 1_000, "headers": {"a": "b"}})),
            _ => assert_eq!(got.json.get("meta"), None),
        }
        if kind.contains("binary") {
            assert_eq!((got.data.clone(), got.payload()), (vec![data], &cat()));
        } else {
            assert_eq!(*got.payload(), in_base64(&data));
        }
        let mut answer = message("app", "response", "work", "r", &json!("done"));
        answer["reply_to"] = got.json["message_id"].clone();
        world.send(worker, &answer);
        assert_eq!(*world.got_one(asks).payload(), json!("done"));
        world.answer(busy, &first.json, &json!(1));
        world.assert_empty(&[busy, worker, asks]);
    }
}

#[test]
fn an_idempotent_request_goes_to_another_worker_of_either_kind() {
    for (first, second) in [("binary", "plain"), ("plain", "binary"), ("call", "only binary")] {
        let mut world = World::new(Limits::default());
        let connect = |world: &mut World, id: &str, kind: &str| {
            let key = match kind {
                "binary" => world.binary(id),
                "only binary" => world.with(id, &["binary"]),
                "call" => world.extended(id),
                _ => world.connected("app", id),
            };
            world.serve(key, "app", "work");
            key
        };
        let one = connect(&mut world, "one", first);
        let asks = world.binary("asks");
        let (body, data) = ask("q", &json!({"idempotent": true}), 5_000);
        world.send_body(asks, &body);
        let check = |got: &Got, kind: &str| {
            if kind.contains("binary") {
                assert_eq!(got.data, std::slice::from_ref(&data));
                assert_eq!(got.json["meta"].get("idempotent"), None);
            } else {
                assert_eq!(*got.payload(), in_base64(&data));
                assert_eq!(got.json.get("meta"), None);
            }
        };
        check(&world.got_one(one), first);
        let other = connect(&mut world, "other", second);
        world.hang_up(one);
        let got = world.got_one(other);
        check(&got, second);
        assert_eq!(world.broker.core.counters.retried, 1);
        world.answer(other, &got.json, &json!("done"));
        assert_eq!(*world.got_one(asks).payload(), json!("done"));
        world.assert_empty(&[other, asks]);
    }
}

#[test]
fn an_attachment_of_no_bytes_behind_json_of_just_64_is_no_json() {
    // The body ends with the closing brace then, as one of JSON alone does.
    let mut world = World::new(Limits::default());
    let from = world.binary("from");
    let plain = world.connected("app", "plain");
    world.subscribe(plain, "app", "news");
    for more in 0..64 {
        let mut publication = message("app", "publish", "news", "p", &json!({"a": null}));
        publication["message_id"] = json!("m".repeat(1 + more));
        let body = body(&publication, &[("/a", json!(null), json!(null), Vec::new())]);
        world.send_body(from, &body);
        let expected = json!({"$base64": "", "dtype": null, "shape": null});
        assert_eq!(world.got_one(plain).payload()["a"], expected);
    }
}
