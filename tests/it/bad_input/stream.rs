//! A stream means the same however its bytes are cut, and payloads are not changed.

use std::io::Write;

use ipc_framework::Config;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Bystanders;
use crate::support::{Peer, TestServer, frame, install_echo, serve, serve_echo};

#[test]
fn what_comes_before_a_fault_is_done_before_the_fault_is_reported() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    let mut bytes = Vec::new();
    let mut ids = Vec::new();
    for round in 0..300 {
        let request = peer.message("request", "echo", &json!(round));
        ids.push(request["message_id"].clone());
        bytes.extend(frame(request.to_string().as_bytes()));
        let publication = peer.message("publish", "calm", &json!(round));
        bytes.extend(frame(publication.to_string().as_bytes()));
    }
    bytes.extend([0xff; 4]);
    bytes.extend(frame(peer.message("publish", "calm", &json!("too late")).to_string().as_bytes()));
    peer.stream.write_all(&bytes).unwrap();
    for (round, id) in ids.iter().enumerate() {
        let answer = peer.receive();
        assert_eq!((&answer["payload"], &answer["reply_to"]), (&json!(round), id));
        assert_eq!(bystanders.subscriber.receive()["payload"], round);
    }
    peer.expect_closed("frame_too_large");
    bystanders.go_on();
}

#[test]
fn the_handshake_and_a_fault_in_one_write() {
    let server = serve_echo();
    let mut peer = server.peer().called("app", "peer");
    let connect = json!({"action": "connect", "connection_id": "peer"});
    let connect = peer.message("request", "system", &connect).to_string();
    let request = peer.message("request", "echo", &json!(1)).to_string();
    let bytes =
        [frame(b"?"), frame(connect.as_bytes()), frame(request.as_bytes()), vec![0xff; 4]].concat();
    peer.stream.write_all(&bytes).unwrap();
    peer.expect_error("bad_frame", "system", Value::Null);
    assert_eq!(peer.receive()["payload"]["status"], "connected");
    assert_eq!(peer.receive()["payload"], 1);
    peer.expect_closed("frame_too_large");
}

#[test]
fn a_thousand_good_frames_with_bad_ones_between_them_in_one_write() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut peer = server.connected("app", "peer");
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for round in 0..1_000 {
        let good = peer.message("request", "echo", &json!({"round": round}));
        bytes.extend(frame(good.to_string().as_bytes()));
        expected.push((json!({"round": round}), good["message_id"].clone()));
        let mut bad = peer.message("request", "nowhere", &json!(round));
        let mut reply_to = bad["message_id"].clone();
        let code = ["bad_frame", "bad_frame", "bad_message", "no_handler", "forbidden"][round % 5];
        match round % 5 {
            0 => (bad, reply_to) = (Value::Null, Value::Null),
            1 => reply_to = Value::Null,
            2 => bad["timestamp"] = json!("now"),
            3 => {}
            _ => bad["app_id"] = json!("other"),
        }
        let mut body = bad.to_string().into_bytes();
        if round % 5 == 1 {
            body.truncate(round % 60);
        }
        bytes.extend(frame(&body));
        expected.push((json!(code), reply_to));
    }
    peer.stream.write_all(&bytes).unwrap();
    for (said, reply_to) in expected {
        let answer = peer.receive();
        assert_eq!(answer["reply_to"], reply_to, "{answer}");
        let payload = &answer["payload"];
        assert_eq!(payload.get("code").unwrap_or(payload), &said, "{answer}");
    }
    peer.fence();
    bystanders.go_on();
}

/// A conversation with every kind of message, from the connect to a fault that closes.
fn conversation() -> Vec<u8> {
    let mut speaker = Speaker { bytes: Vec::new(), said: 0 };
    speaker.say("request", "system", json!({"action": "connect", "connection_id": "peer"}), None);
    speaker.say("subscribe", "talk", json!({"connection_id": "peer", "ack": true}), None);
    speaker.say("publish", "talk", json!({"text": "grüße 😀", "list": [1, 2.5, null]}), None);
    speaker.bytes.extend(frame(b""));
    speaker.say("request", "echo", json!("once"), None);
    speaker.bytes.extend(frame(b"{\"message_id\":\"m\"}"));
    speaker.say("response", "echo", json!("nobody asked"), Some("nothing"));
    speaker.say("notification", "nobody", json!(null), None);
    speaker.say("request", "nowhere", json!(1), None);
    speaker.say("unsubscribe", "talk", json!({"connection_id": "peer", "ack": true}), None);
    speaker.say("publish", "talk", json!("unheard"), None);
    speaker.say("request", "system", json!({"action": "ping"}), None);
    speaker.bytes.extend([0xff; 4]);
    speaker.bytes
}

struct Speaker {
    bytes: Vec<u8>,
    said: u32,
}

impl Speaker {
    fn say(
        &mut self,
        message_type: &str,
        channel_id: &str,
        payload: Value,
        reply_to: Option<&str>,
    ) {
        self.said += 1;
        let mut message = json!({
            "message_id": format!("m-{}", self.said), "app_id": "app", "channel_id": channel_id,
            "message_type": message_type, "timestamp": 2.5, "reply_to": reply_to,
        });
        message["payload"] = payload;
        self.bytes.extend(frame(message.to_string().as_bytes()));
    }
}

/// Returns the server's messages, without the fields that differ from run to run.
fn answers<'a>(server: &TestServer, writes: impl Iterator<Item = &'a [u8]>) -> Vec<Value> {
    let mut peer = server.peer();
    for write in writes {
        peer.stream.write_all(write).unwrap();
    }
    let mut answers = Vec::new();
    loop {
        let mut answer = peer.receive();
        if answer["message_type"] == "response" {
            answer["message_id"] = Value::Null;
            answer["timestamp"] = Value::Null;
        }
        let is_last = answer["payload"]["code"] == "frame_too_large";
        answers.push(answer);
        if is_last {
            peer.expect_end();
            return answers;
        }
    }
}

#[test]
fn a_conversation_in_single_bytes_or_cut_anywhere_is_the_same_conversation() {
    let (server, mut bystanders) = Bystanders::of_echo();
    let bytes = conversation();
    let whole = answers(&server, std::iter::once(bytes.as_slice()));
    assert_eq!(whole.len(), 10, "{whole:#?}");
    assert_eq!(answers(&server, bytes.chunks(1)), whole);
    for size in [2, 3, 5, 7, 64, 199] {
        assert_eq!(answers(&server, bytes.chunks(size)), whole, "in pieces of {size}");
    }
    for at in (1..bytes.len()).step_by(7) {
        let (head, tail) = bytes.split_at(at);
        assert_eq!(answers(&server, [head, tail].into_iter()), whole, "cut at {at}");
    }
    bystanders.go_on();
    server.wait_until("empty buffers", |stats| stats.buffered_bytes == 0);
}

/// Payloads that RFC 8259 allows and that parsers often change.
fn odd_payloads() -> Vec<String> {
    let mut payloads = [
        "1e400",
        "-0",
        "-0.0",
        "1.10",
        "1E+2",
        "0.1000000000000000055511151231257827021181583404541015625",
        "9007199254740993",
        "\"\\ud800\"",
        "{\"\\udfff\":\"\\ud83d\"}",
        "{\"a\":1,\"a\":2,\"\\u0061\":3}",
        "{ \"b\" :\t[ 1 ,\n2 ]\r\n , \"a\":{ } }",
        "\"\\/\\u00fc\\u0000\u{7f}\u{2028}\"",
        "{\"message_id\":\"not mine\",\"reply_to\":[]}",
        "\"\"",
        "null",
    ]
    .map(str::to_owned)
    .to_vec();
    payloads.push("7".repeat(300));
    // Nested as deeply as allowed.
    payloads.push("[".repeat(127) + &"]".repeat(127));
    payloads.push(format!("[-{}.{}e-{}]", "7".repeat(300), "3".repeat(300), "9".repeat(30)));
    // Longer than the frames that are copied.
    payloads.push(format!("[{}1e400]", "\"\\ud800\", ".repeat(1_000)));
    payloads
}

#[derive(serde::Deserialize)]
struct Raw<'a> {
    message_id: String,
    reply_to: Option<String>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn raw(body: &[u8]) -> Raw<'_> {
    serde_json::from_slice(body).expect("a message")
}

fn message(message_type: &str, channel_id: &str, payload: &str, reply_to: &str) -> String {
    format!(
        " {{\"timestamp\" : 1.50e0, \"reply_to\":{reply_to},\n\"payload\":\t{payload} ,\
         \"message_type\":\"{message_type}\", \"channel_id\":\"{channel_id}\",\
         \"app_id\":\"\\u0061pp\",\"message_id\":\"\\u006d-\\\"1\\\"\"}} "
    )
}

fn next_body(peer: &mut Peer) -> Vec<u8> {
    peer.try_receive_body().expect("a frame")
}

#[test]
fn a_payload_is_relayed_byte_for_byte() {
    let server = serve_echo();
    let mut subscriber = server.connected("app", "subscriber");
    let mut worker = server.connected("app", "worker");
    let mut peer = server.connected("app", "peer");
    subscriber.subscribe("talk");
    worker.serve("work");
    for payload in odd_payloads() {
        println!("{payload}");
        // A publication is relayed as the publisher's own frame.
        let publication = message("publish", "talk", &payload, "null");
        peer.send_body(publication.as_bytes());
        assert_eq!(next_body(&mut subscriber), publication.as_bytes());
        // A handler inside the server answers.
        peer.send_body(message("request", "echo", &payload, "null").as_bytes());
        let body = next_body(&mut peer);
        let answer = raw(&body);
        assert_eq!(answer.payload.get(), payload);
        assert_eq!(answer.reply_to.as_deref(), Some("m-\"1\""));
        // A worker gets the request and answers it.
        peer.send_body(message("request", "work", &payload, "null").as_bytes());
        let body = next_body(&mut worker);
        let task = raw(&body);
        assert_eq!((task.payload.get(), &task.reply_to), (payload.as_str(), &None));
        assert_ne!(task.message_id, "m-\"1\"");
        let reply_to = format!("\"{}\"", task.message_id);
        worker.send_body(message("response", "work", &payload, &reply_to).as_bytes());
        let body = next_body(&mut peer);
        let answer = raw(&body);
        assert_eq!(answer.payload.get(), payload);
        assert_eq!(answer.reply_to.as_deref(), Some("m-\"1\""));
        // A worker gets a notification.
        peer.send_body(message("notification", "work", &payload, "null").as_bytes());
        let body = next_body(&mut worker);
        let note = raw(&body);
        assert_eq!((note.payload.get(), note.message_id.as_str()), (payload.as_str(), "m-\"1\""));
    }
    worker.fence();
    subscriber.fence();
    peer.fence();
}

#[test]
fn a_handler_is_shown_the_payload_as_it_came() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = serve(Config::default(), |server| {
        install_echo(server);
        server.application("app", "The App").channel("look").on_notification(move |note| {
            sender.send(note.json().as_str().to_owned())?;
            Ok(())
        });
    });
    let mut peer = server.connected("app", "peer");
    for payload in odd_payloads() {
        peer.send_body(message("notification", "look", &payload, "null").as_bytes());
        peer.fence();
        assert_eq!(receiver.try_recv().unwrap(), payload);
    }
}
