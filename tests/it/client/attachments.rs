//! Bytes and tensors beside JSON, between a client and a server that writes each byte by itself.

use ipc_framework::client::{Client, Connection, Error, Event, RequestOptions};
use ipc_framework::proto::{Dtype, NewAttachment};
use ipc_framework::{Blob, Json, MessageType, Owned, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::many_threads::wait;
use super::scripted::{Scripted, Side, admit, picked};
use crate::support::HANG;

type Answer<'a> = (Tensor<'a, u32>, Option<u8>);

/// The members of a welcome with these extensions.
pub(crate) fn welcome(extensions: &[&str]) -> Value {
    json!({
        "extensions": extensions,
        "limits": {"max_frame_bytes": 1_000_000, "request_timeout_ms": 30_000},
    })
}

pub(super) fn connect(extensions: &'static [&'static str]) -> (Scripted, Client, Side) {
    let script = Scripted::new();
    let options = script.options();
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = script.accept_as(&welcome(extensions));
    (script, connecting.join().unwrap(), side)
}

pub(super) fn connect_alone(extensions: &[&str]) -> (Connection, Side) {
    let script = Scripted::new();
    let options = script.options().connection;
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let side = script.accept_as(&welcome(extensions));
    (connecting.join().unwrap(), side)
}

pub(crate) const BOTH: &[&str] = &["call", "binary"];

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    bytes
}

/// Writes a body by the words of the protocol.
pub(super) fn body(message: &Value, attachments: &[&[u8]]) -> Vec<u8> {
    let text = message.to_string();
    let mut body = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(text.as_bytes());
    body = padded(body);
    for attachment in attachments {
        body.extend_from_slice(attachment);
        body = padded(body);
    }
    body
}

/// Takes a body apart by the words of the protocol: the message, and the bytes of its attachments.
pub(crate) fn split(body: &[u8]) -> (Value, Vec<Vec<u8>>) {
    let json_bytes = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
    let message: Value = serde_json::from_slice(&body[4..4 + json_bytes]).unwrap();
    let mut at = (4 + json_bytes).next_multiple_of(64);
    assert!(body[4 + json_bytes..at].iter().all(|byte| *byte == 0));
    let mut data = Vec::new();
    for entry in message["meta"]["bin"].as_array().unwrap() {
        let bytes = usize::try_from(entry[1].as_u64().unwrap()).unwrap();
        data.push(body[at..at + bytes].to_vec());
        let end = (at + bytes).next_multiple_of(64);
        assert!(body[at + bytes..end].iter().all(|byte| *byte == 0));
        at = end;
    }
    assert_eq!(at, body.len());
    (message, data)
}

pub(super) fn receive(side: &mut Side) -> (Value, Vec<Vec<u8>>) {
    split(&side.try_receive_body().unwrap())
}

#[expect(clippy::needless_pass_by_value, reason = "they are made for it alone")]
pub(super) fn message(message_type: &str, channel_id: &str, payload: Value, meta: Value) -> Value {
    json!({
        "message_id": "from the server", "app_id": "app", "channel_id": channel_id,
        "message_type": message_type, "payload": payload, "timestamp": 1.5, "reply_to": null,
        "meta": meta,
    })
}

pub(super) fn answer(request: &Value, payload: Value, meta: Value) -> Value {
    let mut answer = message("response", request["channel_id"].as_str().unwrap(), payload, meta);
    answer["reply_to"] = request["message_id"].clone();
    answer
}

#[derive(Serialize, Deserialize)]
struct Question {
    name: String,
    image: Owned<Blob<'static>>,
    weights: Vec<Owned<Tensor<'static, f64>>>,
}

fn question() -> Question {
    Question {
        name: "cat".to_owned(),
        image: Owned(Blob::new(vec![7; 65])),
        weights: vec![Owned(Tensor::flat(vec![-0.0, f64::from_bits(1)]))],
    }
}

fn expect_question(message: &Value, data: &[Vec<u8>], meta: Value) {
    assert_eq!(message["payload"], json!({"name": "cat", "image": null, "weights": [null]}));
    let mut expected = meta;
    expected["bin"] = json!([["/image", 65, null, null], ["/weights/0", 16, "f64", [2]]]);
    assert_eq!(message["meta"], expected);
    let weights = [0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(data, [vec![7; 65], weights.to_vec()]);
}

#[test]
fn every_way_to_send_lays_the_bytes_out_as_the_protocol_says() {
    let (_script, client, mut side) = connect(BOTH);
    assert!(client.has_binary());
    let future = client.request_future("work", &question()).unwrap();
    let (request, data) = receive(&mut side);
    expect_question(&request, &data, json!({}));
    let numbers: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
    let meta = json!({"bin": [["/0", 160_000, "u32", [40_000]]], "newer": 1});
    side.send_body(&body(&answer(&request, json!([null, null]), meta), &[&numbers]));
    let answered = wait(future).unwrap();
    let (read, _none): Answer<'_> = answered.payload.decode_borrowed().unwrap();
    assert!((0..40_000).eq(read.data().iter().copied()));
    let (_shape, data) = read.into_parts();
    assert!(matches!(data, std::borrow::Cow::Borrowed(_)), "a copy of what is aligned");

    let headers = RequestOptions::default().header("a", "b");
    let _future = client.request_future_with("work", &question(), &headers).unwrap();
    let (request, data) = receive(&mut side);
    expect_question(&request, &data, json!({"headers": {"a": "b"}}));
    client.publish("work", &question()).unwrap();
    let (publication, data) = receive(&mut side);
    assert_eq!(publication["message_type"], "publish");
    expect_question(&publication, &data, json!({}));
    // A text with attachments, and a message that was received: both as they are.
    let one = NewAttachment {
        pointer: "/a",
        dtype: Some(Dtype::C64),
        shape: &[1, 1],
        data: b"\0\0\x80\x3f\0\0\x80\xbf",
    };
    let text = Json::parse(r#"{"a": null}"#).unwrap().with_attachments(&[one]).unwrap();
    client.notify("work", &text).unwrap();
    let (notification, data) = receive(&mut side);
    assert_eq!(notification["meta"]["bin"], json!([["/a", 8, "c64", [1, 1]]]));
    assert_eq!(data, [one.data]);
    client
        .send_message(&ipc_framework::Message { message_type: MessageType::Publish, ..answered })
        .unwrap();
    let (relayed, data) = receive(&mut side);
    assert_eq!((&relayed["payload"], &data), (&json!([null, null]), &vec![numbers]));
    // JSON alone is sent as ever: `receive` accepts the seven keys alone.
    client.publish("work", &1).unwrap();
    assert_eq!(side.receive()["payload"], 1);

    let (mut connection, mut side) = connect_alone(BOTH);
    connection.publish("work", &question()).unwrap();
    let (publication, data) = receive(&mut side);
    expect_question(&publication, &data, json!({}));
    side.send_body(&body(
        &message("request", "work", json!(null), json!({"bin": [["", 3, null, null]]})),
        &[b"abc"],
    ));
    let request = connection.receive(Some(HANG)).unwrap().unwrap();
    assert_eq!(&*request.payload.decode_borrowed::<Blob<'_>>().unwrap(), b"abc");
    connection.respond(&request, &request.payload).unwrap();
    let (response, data) = receive(&mut side);
    assert_eq!(
        (response["reply_to"].as_str(), data),
        (Some("from the server"), vec![b"abc".to_vec()])
    );
}

#[test]
fn workers_and_streams_carry_attachments_both_ways() {
    let (_script, client, mut side) = connect(BOTH);
    let worker = client.clone();
    admit(&mut side, move || {
        worker.serve("double", 1, |request| {
            let tensor: Tensor<'_, f32> = request.payload.decode_borrowed()?;
            let doubled: Vec<f32> = tensor.data().iter().map(|x| x * 2.0).collect();
            Ok(Tensor::new(tensor.shape(), doubled)?)
        })
    })
    .unwrap();
    let meta = json!({"bin": [["", 8, "f32", [2, 1]]]});
    let sent = [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0];
    side.send_body(&body(&message("request", "double", json!(null), meta.clone()), &[&sent]));
    let (doubled, data) = receive(&mut side);
    assert_eq!((&doubled["payload"], &doubled["meta"]), (&json!(null), &meta));
    assert_eq!(data, [[0, 0, 0, 0x40, 0, 0, 0x80, 0xc0]]);

    let worker = client.clone();
    admit(&mut side, move || {
        worker.serve_stream("parts", 1, |_request, parts| {
            parts.send(&Blob::new(vec![1]))?;
            parts.send(&"text")?;
            parts.send(&[Blob::new(vec![2]), Blob::new(vec![3; 70])])?;
            Ok(())
        })
    })
    .unwrap();
    // Collected for a requester that takes no parts.
    side.send_message(&{
        let mut request = message("request", "parts", json!(null), json!(null));
        request.as_object_mut().unwrap().remove("meta");
        request
    });
    let (all, data) = receive(&mut side);
    assert_eq!(all["payload"], json!([null, "text", [null, null]]));
    let bin = json!([["/0", 1, null, null], ["/2/0", 1, null, null], ["/2/1", 70, null, null]]);
    assert_eq!(all["meta"]["bin"], bin);
    assert_eq!(data, [vec![1], vec![2], vec![3; 70]]);
    // And as parts.
    side.send_message(&message("request", "parts", json!(null), json!({"stream": 8})));
    let (first, data) = receive(&mut side);
    let meta = json!({"seq": 0, "bin": [["", 1, null, null]]});
    assert_eq!((&first["meta"], data), (&meta, vec![vec![1]]));
    assert_eq!(side.receive_extended()["meta"], json!({"seq": 1}));
    assert_eq!(receive(&mut side).1, [vec![2], vec![3; 70]]);
    assert_eq!(side.receive_extended()["meta"], json!({"seq": 3, "end": true}));

    // A stream that this client reads.
    let mut stream = client.request_stream("frames", &0).unwrap();
    let request = side.receive_extended();
    for seq in 0..2 {
        let meta = json!({"seq": seq, "bin": [["", 1, null, null]]});
        side.send_body(&body(&answer(&request, json!(null), meta), &[&[seq]]));
    }
    for seq in 0..2 {
        let part = stream.next().unwrap().unwrap();
        assert_eq!(*part.payload.decode_borrowed::<Blob<'_>>().unwrap(), [seq]);
    }
    // A faulty part ends the stream, and its request is cancelled.
    let meta = json!({"seq": 2, "bin": [["/a", 1, null, null]]});
    side.send_body(&body(&answer(&request, json!(null), meta), &[&[2]]));
    let error = stream.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("pointer"), "{error}");
    let cancel = json!({"action": "cancel", "message_id": request["message_id"]});
    assert_eq!(side.receive()["payload"], cancel);
}

#[test]
fn publications_keep_the_memory_in_which_they_came() {
    let (_script, client, mut side) = connect(BOTH);
    let news = client.subscribe("news").unwrap();
    assert_eq!(side.receive()["message_type"], "subscribe");
    for bytes in [0, 1, 63, 64, 65, 1_000, 200_000] {
        let data = vec![b'x'; bytes];
        let meta = json!({"bin": [["/d", bytes, null, null]]});
        side.send_body(&body(&message("publish", "news", json!({"d": null}), meta), &[&data]));
        let next = news.next_timeout(HANG).unwrap();
        let copies = [next.payload.clone(), next.payload.clone().into_owned()];
        let places = copies.iter().map(|copy| copy.attachments().get("/d").unwrap().data.as_ptr());
        assert!(
            places.into_iter().all(|place| {
                place == next.payload.attachments().get("/d").unwrap().data.as_ptr()
            })
        );
        assert_eq!(next.payload.attachments().get("/d").unwrap().data, data);
    }
}

/// Bodies whose attachments are faulty in every way that still lets their message be read.
fn faulty(whole: &Value) -> Vec<Vec<u8>> {
    let with = |bin: Value, attachments: &[&[u8]]| {
        let mut message = whole.clone();
        message["meta"]["bin"] = bin;
        body(&message, attachments)
    };
    let good = json!([["/a", 3, null, null]]);
    let mut faulty = vec![
        with(json!([["/b", 3, null, null]]), &[b"abc"]),
        with(json!([["/a", 65, null, null]]), &[b"abc"]),
        with(json!([["/a", -1, null, null]]), &[b"abc"]),
        with(json!([["/a", 3, "u16", [2]]]), &[b"abc"]),
        with(json!([["/a", 3, "f8", [3]]]), &[b"abc"]),
        with(json!([["/a", 3, "u8", [4_294_967_296_u64, 4_294_967_296_u64]]]), &[b"abc"]),
        with(json!([["/a", 3, null, null], ["/a", 3, null, null]]), &[b"abc", b"abc"]),
        with(json!([]), &[]),
        with(json!({}), &[b"abc"]),
        with(good.clone(), &[b"abc", b"d"]),
        with(good.clone(), &[]),
    ];
    let mut no_bin = whole.clone();
    no_bin["meta"].as_object_mut().unwrap().remove("bin");
    faulty.push(body(&no_bin, &[b"abc"]));
    let last = with(good.clone(), &[b"abc"]);
    faulty.push([&last[..last.len() - 1], b"\x01"].concat());
    faulty.push(last[..last.len() - 1].to_vec());
    let json_end = 4 + u32::from_be_bytes(last[..4].try_into().unwrap()) as usize;
    let mut dirty = last.clone();
    dirty[json_end] = 1;
    if !json_end.is_multiple_of(64) {
        faulty.push(dirty);
    }
    faulty.push(last[..json_end].to_vec());
    faulty
}

#[test]
fn a_faulty_attachment_is_an_error_of_its_message_and_the_connection_goes_on() {
    let (_script, client, mut side) = connect(BOTH);
    let (mut connection, mut other) = connect_alone(BOTH);
    let refused = picked(&client, |event| match event {
        Event::Refused { channel_id, error, .. } => Some((channel_id.clone(), error.to_string())),
        _ => None,
    });
    let worker = client.clone();
    admit(&mut side, move || worker.serve("work", 1, |_| Ok(1))).unwrap();
    let news = client.subscribe("news").unwrap();
    assert_eq!(side.receive()["message_type"], "subscribe");
    let payload = json!({"a": null});
    let count = faulty(&message("publish", "news", payload.clone(), json!({}))).len();
    assert!(count >= 14);
    for at in 0..count {
        let future = client.request_future("work", &1).unwrap();
        let request = side.receive();
        side.send_body(&faulty(&answer(&request, payload.clone(), json!({})))[at]);
        let error = wait(future).unwrap_err();
        assert!(matches!(error, Error::BadAttachments { .. }), "{at}: {error}");
        side.send_body(&faulty(&message("publish", "news", payload.clone(), json!({})))[at]);
        let (channel_id, error) = refused.recv_timeout(HANG).unwrap();
        assert_eq!(channel_id, "news");
        assert!(error.contains("attachments are not usable"), "{error}");
        side.send_body(&faulty(&message("request", "work", payload.clone(), json!({})))[at]);
        assert_eq!(side.receive()["payload"]["code"], "handler_failed");
        assert_eq!(refused.recv_timeout(HANG).unwrap().0, "work");

        other.send_body(&faulty(&message("publish", "news", payload.clone(), json!({})))[at]);
        let error = connection.receive(Some(HANG)).unwrap_err();
        assert!(matches!(error, Error::BadAttachments { .. }), "{at}: {error}");
        other.send("publish", "news", json!(at));
        let after = connection.receive(Some(HANG)).unwrap().unwrap();
        assert_eq!(after.payload.decode::<usize>().unwrap(), at);
    }
    assert!(client.is_connected());
    assert_eq!(client.connection_info().connections, 1);
    side.send("publish", "news", json!("after"));
    assert_eq!(news.next_timeout(HANG).unwrap().payload.as_str(), "\"after\"");
}

#[test]
fn without_the_extension_nothing_is_sent_and_the_connection_goes_on() {
    let unsupported = |error: Error| assert_eq!(error.code(), Some("unsupported"), "{error}");
    for extensions in [&[][..], &["call"]] {
        let extensions: &'static [&'static str] = extensions;
        let (_script, client, mut side) = connect(extensions);
        assert!(!client.has_binary());
        unsupported(client.request("work", &question()).unwrap_err());
        unsupported(client.request_future("work", &question()).map(drop).unwrap_err());
        unsupported(client.publish("work", &question()).unwrap_err());
        unsupported(client.notify("work", &Blob::default()).unwrap_err());
        client.publish("work", &1).unwrap();
        assert_eq!(side.receive()["payload"], 1);
        let (mut connection, mut side) = connect_alone(extensions);
        unsupported(connection.request("work", &question()).unwrap_err());
        unsupported(connection.publish("work", &question()).unwrap_err());
        connection.publish("work", &1).unwrap();
        assert_eq!(side.receive()["payload"], 1);
        // What is no JSON is not the protocol of a server that did not grant it.
        side.send_body(&body(&message("publish", "c", json!(null), json!({})), &[b"x"]));
        let error = connection.receive(Some(HANG)).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[test]
fn what_waited_for_a_server_without_the_extension_is_refused() {
    let (script, client, side) = connect(BOTH);
    let refused = picked(&client, |event| match event {
        Event::Refused { channel_id, error, .. } => {
            Some((channel_id.clone(), error.code().map(str::to_owned)))
        }
        _ => None,
    });
    drop(side);
    crate::support::until("the loss", || client.is_connected(), |is| !is);
    let future = client.request_future("work", &question()).unwrap();
    client.publish("news", &question()).unwrap();
    client.publish("news", &1).unwrap();
    let mut side = script.accept();
    assert_eq!(wait(future).unwrap_err().code(), Some("unsupported"));
    let (channel_id, code) = refused.recv_timeout(HANG).unwrap();
    assert_eq!((&*channel_id, code.as_deref()), ("news", Some("unsupported")));
    assert_eq!(side.receive()["payload"], 1);
    assert_eq!(client.waiting_bytes(), 0);
}

#[test]
fn what_was_sent_while_no_server_was_there_waits_whatever_the_last_one_took() {
    for (last, next) in [(&[][..], BOTH), (&["call"], BOTH), (&[], &["call"]), (&[], &[])] {
        let (script, client, side) = connect(last);
        let refused = picked(&client, |event| match event {
            Event::Refused { error, .. } => Some(error.code().map(str::to_owned)),
            _ => None,
        });
        drop(side);
        crate::support::until("the loss", || client.is_connected(), |is| !is);
        let future = client.request_future("work", &question()).unwrap();
        client.publish("news", &question()).unwrap();
        client.publish("news", &1).unwrap();
        let mut side = script.accept_as(&welcome(next));
        if next == BOTH {
            let (request, data) = receive(&mut side);
            expect_question(&request, &data, json!({}));
            let (publication, data) = receive(&mut side);
            assert_eq!(publication["message_type"], "publish");
            expect_question(&publication, &data, json!({}));
            side.answer(&request, json!(2));
            assert_eq!(wait(future).unwrap().payload.as_str(), "2");
        } else {
            assert_eq!(wait(future).unwrap_err().code(), Some("unsupported"));
            assert_eq!(refused.recv_timeout(HANG).unwrap().as_deref(), Some("unsupported"));
        }
        assert_eq!(side.receive()["payload"], 1);
    }
}

#[test]
fn a_message_over_the_limit_is_refused_with_what_to_do() {
    let script = Scripted::new();
    let mut options = script.options();
    options.connection.frame_bytes_max = 100_000;
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let mut side = script.accept_as(&welcome(BOTH));
    let client = connecting.join().unwrap();
    let error = client.publish("work", &Blob::new(vec![0; 100_000])).unwrap_err();
    assert!(matches!(error, Error::TooLarge { body_bytes_max: 100_000, .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("--max-frame-bytes") && told.contains("in parts"), "{told}");
    client.publish("work", &Blob::new(vec![0; 99_000])).unwrap();
    assert_eq!(receive(&mut side).1, [vec![0; 99_000]]);
}

#[test]
fn a_batch_and_a_queue_keep_messages_with_attachments_whole() {
    let (_script, client, mut side) = connect(BOTH);
    client.set_batching(true);
    for number in 0..5_u8 {
        client.publish("news", &Blob::new(vec![number; 100])).unwrap();
    }
    client.set_batching(false);
    for number in 0..5_u8 {
        assert_eq!(receive(&mut side).1, [vec![number; 100]]);
    }
    // More than the kernel takes at once.
    let large = vec![9; 900_000];
    let sender = client.clone();
    let sending = std::thread::spawn(move || {
        for _ in 0..20 {
            sender.publish("news", &Blob::new(large.clone())).unwrap();
        }
    });
    for _ in 0..20 {
        let (_message, data) = receive(&mut side);
        assert!(data[0].len() == 900_000 && data[0].iter().all(|byte| *byte == 9));
    }
    sending.join().unwrap();
}
