//! Bytes and tensors between Rust clients and this server: its handlers, its workers, and peers that take
//! plain JSON alone.

use std::borrow::Cow;

use ipc_framework::client::{ClientOptions, Endpoint, Pool};
use ipc_framework::proto::{Bf16, Dtype, Element, F16, dtype_of};
use ipc_framework::{Blob, Config, Json, Message, MessageType, Owned, Server, Tensor};
use serde_json::{Value, json};

use super::many_threads::wait;
use super::scripted::patient;
use crate::support::{HANG, TestServer, serve};

fn options(server: &TestServer) -> ClientOptions {
    patient("app", Endpoint::tcp("127.0.0.1", server.address.port()))
}

fn serve_handlers() -> TestServer {
    serve(Config::default(), |server: &mut Server| {
        let mut app = server.application("app", "");
        app.channel("sum").on_request(|request| {
            let json = request.json();
            let tensor: Tensor<'_, f32> = json.decode_borrowed()?;
            let sum: f32 = tensor.data().iter().sum();
            request.reply(&Tensor::new([], vec![sum])?)
        });
        app.channel("list").on_request(|request| {
            let listed: Vec<_> = request
                .attachments()
                .iter()
                .map(|it| (it.pointer.into_owned(), it.dtype.map(Dtype::name), it.data.len()))
                .collect();
            request.reply(&listed)
        });
        app.channel("echo").on_request(|request| {
            let json = request.json();
            request.reply_json(&json)
        });
        app.channel("later").on_request(|request| {
            let json = request.json().into_owned();
            let (reply, responder) = request.defer()?;
            std::thread::spawn(move || responder.reply_json(json));
            Ok(reply)
        });
        app.channel("parts").on_request(|request| {
            let (reply, mut parts) = request.stream()?;
            std::thread::spawn(move || {
                for number in 0..3_u8 {
                    parts.send(&(number, Blob::new(vec![number; 100])))?;
                }
                parts.end();
                Ok::<_, ipc_framework::PartError>(())
            });
            Ok(reply)
        });
        app.channel("fails").on_request(|_request| {
            let details = Blob::new(vec![1, 2]);
            Err(ipc_framework::HandlerError::app("bad", "no").details(&details))
        });
        app.channel("tell").on_notification(|mut note| {
            let Owned(blob): Owned<Blob<'static>> = note.payload()?;
            note.publish("news", &("handler", &blob))?;
            let payload = Json::from_serialize(&("message", &blob))?;
            let message = Message::new(MessageType::Publish, "app", "news", payload);
            note.context().publish_message(&message)?;
            let to = note.from();
            note.context().send_to_connection(to, &message)?;
            note.context().broadcast_to_application("app", &message)?;
            Ok(())
        });
        app.channel("news");
    })
}

#[test]
fn handlers_of_the_server_read_and_answer_with_attachments() {
    let server = serve_handlers();
    let client = options(&server).connect().unwrap();
    assert!(client.has_binary());
    let numbers = Tensor::new([2, 2], vec![1.0_f32, 2.0, 3.0, -0.5]).unwrap();
    let sum: Owned<Tensor<'static, f32>> = client.request_as("sum", &numbers).unwrap();
    assert_eq!((sum.shape(), sum.data()), (&[][..], &[5.5_f32][..]));
    let listed = client.request("list", &json!([1])).unwrap();
    assert_eq!(listed.payload.as_str(), "[]");
    let question = ("a", Blob::new(vec![7; 3]), [Tensor::flat(vec![1_i64])]);
    let listed = client.request("list", &question).unwrap();
    assert_eq!(listed.payload.as_str(), r#"[["/1",null,3],["/2/0","i64",8]]"#);
    let sent = Json::from_serialize(&question).unwrap();
    for channel in ["echo", "later"] {
        assert_eq!(client.request(channel, &sent).unwrap().payload, sent, "{channel}");
    }
    for (number, part) in (0..3_u8).zip(client.request_stream("parts", &0).unwrap()) {
        let part = part.unwrap();
        let (got, blob): (u8, Blob<'_>) = part.payload.decode_borrowed().unwrap();
        assert_eq!((got, &*blob), (number, &vec![number; 100][..]));
    }
    let all: Vec<(u8, Owned<Blob<'static>>)> = client.request_as("parts", &0).unwrap();
    assert_eq!(
        all.iter().map(|(number, blob)| (*number, blob.len())).collect::<Vec<_>>(),
        [(0, 100), (1, 100), (2, 100)]
    );
    let error = client.request("fails", &0).unwrap_err();
    let details = json!({"$base64": "AQI=", "dtype": null, "shape": null});
    assert_eq!(error.details().unwrap().decode::<Value>().unwrap(), details);

    let mut plain = server.connected("app", "plain").subscribed("news");
    let news = client.subscribe("news").unwrap();
    client.flush().unwrap();
    client.notify("tell", &Blob::new(vec![0xff])).unwrap();
    for origin in ["handler", "message"] {
        let next = news.next_timeout(HANG).unwrap();
        let (from, blob): (String, Blob<'_>) = next.payload.decode_borrowed().unwrap();
        assert_eq!((&*from, &*blob), (origin, &[0xff][..]));
        let base64 = json!({"$base64": "/w==", "dtype": null, "shape": null});
        assert_eq!(plain.receive()["payload"], json!([origin, base64]));
    }
    // Sent to the sender, and then to everybody.
    for _ in 0..2 {
        assert_eq!(news.next_timeout(HANG).unwrap().payload.attachments().len(), 1);
    }
    assert_eq!(plain.receive()["payload"][1]["$base64"], "/w==");
    let handle = server.handle.clone();
    handle.publish("app", "news", &[Blob::new(vec![3; 70])]).unwrap();
    let next = news.next_timeout(HANG).unwrap();
    assert_eq!(next.payload.attachments().get("/0").unwrap().data, [3; 70]);
    assert_eq!(plain.receive()["payload"][0]["$base64"].as_str().unwrap().len(), 96);
    // A peer of JSON alone asks a handler: what it reads stays as it was sent.
    let base64 = json!({"$base64": "AACAPw==", "dtype": "f32", "shape": [1]});
    assert_eq!(plain.request("echo", base64.clone()), base64);
    assert_eq!(plain.request("sum", base64)["dtype"], "f32");
    client.close().unwrap();
}

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Named<'a, T: Element> {
    t: Tensor<'a, T>,
}

fn both_ways<T: Element + std::fmt::Debug>(client: &ipc_framework::client::Client, bytes: &[u8]) {
    let elements = [bytes, bytes].concat();
    let size = dtype_of::<T>().item_bytes();
    let shape = [2, (bytes.len() / size) as u64, 1];
    for (shape, data) in [(&shape[..], &*elements), (&[0, 5], &[]), (&[], &bytes[..size])] {
        let one = ipc_framework::proto::NewAttachment {
            pointer: "/t",
            dtype: Some(dtype_of::<T>()),
            shape,
            data,
        };
        let json = Json::parse(r#"{"t":null}"#).unwrap().with_attachments(&[one]).unwrap();
        let answer = client.request("echo", &json).unwrap();
        let back = answer.payload.attachments().get("/t").unwrap();
        assert_eq!((back.dtype, back.data), (one.dtype, data));
        assert!(back.shape.iter().eq(shape.iter().copied()));
        let Named { t }: Named<'_, T> = answer.payload.decode_borrowed().unwrap();
        assert_eq!(t.data().len() * size, data.len());
        let again = Json::from_serialize(&t).unwrap();
        assert_eq!(again.attachments().get("").unwrap().data, data);
    }
}

#[test]
fn exact_bits_go_through_a_worker_and_back() {
    let server = serve(Config::default(), |_| {});
    let worker = options(&server).connect().unwrap();
    worker.serve("echo", 1, |request| Ok(request.payload.clone())).unwrap();
    let client = options(&server).connect().unwrap();
    // NaNs with payloads, negative zeros, subnormal numbers, and the largest integers.
    both_ways::<bool>(&client, &[0, 1]);
    both_ways::<u8>(&client, &[0, 255]);
    both_ways::<i8>(&client, &[128, 127]);
    both_ways::<u16>(&client, &[0xff, 0xff]);
    both_ways::<i16>(&client, &[0, 0x80]);
    both_ways::<u32>(&client, &[0xff; 4]);
    both_ways::<i32>(&client, &[0, 0, 0, 0x80]);
    both_ways::<u64>(&client, &[0xff; 8]);
    both_ways::<i64>(&client, &[0, 0, 0, 0, 0, 0, 0, 0x80]);
    both_ways::<F16>(&client, &[1, 0x7c, 0, 0x80]);
    both_ways::<Bf16>(&client, &[1, 0xff, 1, 0]);
    both_ways::<f32>(&client, &[1, 0, 0xa0, 0xff, 0, 0, 0, 0x80, 1, 0, 0, 0]);
    let double = [7, 0, 0, 0, 0, 0, 0xf4, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0];
    both_ways::<f64>(&client, &double);
    both_ways::<[f32; 2]>(&client, &[1, 0, 0xa0, 0x7f, 0, 0, 0, 0x80]);
    both_ways::<[f64; 2]>(&client, &double[..16]);

    let image: Vec<f32> = (0..224 * 224 * 3_u32).map(|at| at as f32).collect();
    let image = Tensor::new([224, 224, 3], image).unwrap();
    let answer = client.request("echo", &image).unwrap();
    let back: Tensor<'_, f32> = answer.payload.decode_borrowed().unwrap();
    assert!(back == image);
    assert!(matches!(back.into_parts().1, Cow::Borrowed(_)), "a copy of 602,112 bytes");
    worker.close().unwrap();
    client.close().unwrap();
}

#[test]
fn peers_of_json_alone_get_base64_and_a_function_turns_it_back() {
    let server = serve(Config::default(), |_| {});
    let worker = options(&server).connect().unwrap();
    worker.serve("make", 1, |_| Ok(("made", Tensor::flat(vec![1_u16, 2])))).unwrap();
    worker.serve_stream("both", 1, |_, parts| Ok(parts.send(&Blob::new(vec![9]))?)).unwrap();
    let mut plain = server.connected("app", "plain");
    let base64 = json!({"$base64": "AQACAA==", "dtype": "u16", "shape": [2]});
    let made = plain.request("make", json!(null));
    assert_eq!(made, json!(["made", base64]));
    let turned = Json::parse(made.to_string()).unwrap().from_base64();
    let client = options(&server).connect().unwrap();
    assert_eq!(client.request("make", &()).unwrap().payload, turned);
    let nine = json!([{"$base64": "CQ==", "dtype": null, "shape": null}]);
    assert_eq!(plain.request("both", json!(null)), nine);
    // A type that asks for bytes or a tensor reads both.
    let tensor: Owned<Tensor<'static, u16>> =
        Json::parse(base64.to_string()).unwrap().decode().unwrap();
    assert_eq!(tensor.data(), [1, 2]);
    // The key of a payload is its author's on the way between two that have the extension.
    worker.serve("echo", 1, |request| Ok(request.payload.clone())).unwrap();
    let answer = client.request("echo", &base64).unwrap();
    assert!(answer.payload.attachments().is_empty());
    assert_eq!(answer.payload.decode::<Value>().unwrap(), base64);

    let pool = Pool::connect(&options(&server), 2).unwrap();
    let made = pool.request("make", &()).unwrap();
    assert_eq!(made.payload, turned);
    pool.publish("nobody", &Blob::new(vec![1])).unwrap();
    let mut connection = options(&server).connection.connect().unwrap();
    let made = connection.request("make", &()).unwrap();
    assert_eq!(made.payload, turned);
    let parts: Vec<_> =
        connection.request_stream("both", &()).unwrap().map(|part| part.unwrap()).collect();
    assert_eq!(*parts[0].payload.decode_borrowed::<Blob<'_>>().unwrap(), [9]);
    let future = client.request_future("make", &Blob::new(vec![])).unwrap();
    assert_eq!(wait(future).unwrap().payload, turned);
    pool.close().unwrap();
    connection.close().unwrap();
    worker.close().unwrap();
    client.close().unwrap();
}
