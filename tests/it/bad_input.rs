//! Hostile input: each gets its error, and everybody else's messages go on.

use std::io::Write;
use std::time::Duration;

use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, code, frame, serve, serve_echo};

/// Requests, publications and subscriptions of somebody who does nothing wrong.
struct Bystanders {
    publisher: Peer,
    subscriber: Peer,
    count: u64,
}

impl Bystanders {
    fn of(server: &TestServer) -> Self {
        let mut subscriber = server.connected("app", "bystander-subscriber");
        subscriber.subscribe("calm");
        let publisher = server.connected("app", "bystander-publisher");
        Self { publisher, subscriber, count: 0 }
    }

    fn go_on(&mut self) {
        self.count += 1;
        self.publisher.send("publish", "calm", json!(self.count));
        assert_eq!(self.subscriber.receive()["payload"], self.count);
        assert_eq!(self.publisher.request("echo", json!(self.count)), self.count);
    }
}

#[test]
fn what_is_no_message_is_refused_and_the_connection_stays() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    let mut peer = server.connected("app", "clumsy");
    let good = peer.message("request", "echo", &json!(1)).to_string();
    let brackets = "[".repeat(100_000);
    let trailing = good.replace("\"payload\":1", "\"payload\":[1,]");
    let twice = format!("{good}{good}");
    let not_a_number = good.replace("\"payload\":1", "\"payload\":NaN");
    let bad_frames: [&[u8]; 10] = [
        b"",
        b"   ",
        b"\xff\xfe{}",
        b"hello",
        b"[]",
        b"\"text\"",
        brackets.as_bytes(),
        trailing.as_bytes(),
        twice.as_bytes(),
        not_a_number.as_bytes(),
    ];
    for body in bad_frames {
        peer.send_body(body);
        let answer = peer.receive();
        assert_eq!(code(&answer), "bad_frame", "{answer}");
        assert_eq!(answer["reply_to"], Value::Null);
        assert_eq!(peer.request("echo", json!("still here")), "still here");
        bystanders.go_on();
    }
}

#[test]
fn fields_that_are_missing_doubled_unknown_or_of_the_wrong_type_are_refused() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    let mut peer = server.connected("app", "clumsy");
    let fields = ["message_id", "app_id", "channel_id", "message_type", "payload", "timestamp"];
    let mut bodies = Vec::new();
    for field in fields {
        let mut missing = peer.message("request", "echo", &json!(1));
        missing.as_object_mut().unwrap().remove(field);
        bodies.push(missing.to_string());
        let whole = peer.message("request", "echo", &json!(1));
        let again = format!("\"{field}\":{},", whole[field]);
        bodies.push(whole.to_string().replacen('{', &format!("{{{again}"), 1));
        if field != "payload" {
            let mut wrong = whole.clone();
            wrong[field] = json!([1]);
            bodies.push(wrong.to_string());
        }
    }
    let good = peer.message("request", "echo", &json!(1)).to_string();
    bodies.push(good.replacen('{', r#"{"\u0061pp_id":"app","#, 1));
    bodies.push(good.replacen('{', r#"{"priority":1,"#, 1));
    bodies.push(good.replace("\"request\"", "\"shout\""));
    bodies.push(good.replace("\"reply_to\":null", "\"reply_to\":7"));
    bodies.push(good.replace("\"echo\"", "\"\""));
    bodies.push(good.replace("\"echo\"", r#""\ud800""#));
    bodies.push(good.replace("\"echo\"", &format!("\"{}\"", "c".repeat(257))));
    bodies.push(peer.message("subscribe", "calm", &json!(null)).to_string());
    bodies.push(peer.message("request", "system", &json!(null)).to_string());
    for body in bodies {
        peer.send_body(body.as_bytes());
        let answer = peer.receive();
        assert_eq!(code(&answer), "bad_message", "{body}\n{answer}");
        bystanders.go_on();
    }
    peer.fence();
}

#[test]
fn what_came_before_a_fault_is_answered_before_it() {
    let server = serve_echo();
    let mut peer = server.connected("app", "mixed");
    let mut bytes = Vec::new();
    for at in 0..300 {
        let request = peer.message("request", "echo", &json!(at)).to_string();
        bytes.extend(frame(request.as_bytes()));
        bytes.extend(frame(b"no"));
    }
    bytes.extend([0xff; 4]);
    peer.stream.write_all(&bytes).unwrap();
    for at in 0..300 {
        assert_eq!(peer.receive()["payload"], at);
        assert_eq!(code(&peer.receive()), "bad_frame");
    }
    assert_eq!(code(&peer.receive()), "frame_too_large");
    peer.expect_end();
}

#[test]
fn who_does_not_introduce_itself_is_told_and_closed() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);

    let mut http = server.peer();
    http.stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(code(&http.receive()), "frame_too_large");
    http.expect_end();
    bystanders.go_on();

    let mut large = server.peer();
    large.send_body(&vec![b' '; (16 << 10) + 1]);
    assert_eq!(code(&large.receive()), "frame_too_large");
    large.expect_end();
    bystanders.go_on();

    // Not usable yet, but the connection may try again.
    let mut nameless = server.peer();
    "app".clone_into(&mut nameless.app_id);
    for id in [json!(null), json!(""), json!(7), json!("i".repeat(257))] {
        nameless.send("request", "system", json!({"action": "connect", "connection_id": id}));
        assert_eq!(code(&nameless.receive()), "bad_message");
    }
    nameless.connect("app", "named at last");
    nameless.fence();
    bystanders.go_on();
}

#[test]
fn a_handshake_ends_in_time_however_its_bytes_trickle() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = serve(Config { limits, ..Config::default() }, |_| {});
    let mut silent = server.peer();
    let mut trickling = server.peer();
    let connect = frame(
        br#"{"message_id":"","app_id":"app","channel_id":"system","message_type":"request","payl"#,
    );
    // Until the server's close makes the write fail; a server that never closes gets all of
    // it many times over.
    let closed = connect.repeat(1_000).iter().any(|byte| {
        std::thread::sleep(Duration::from_millis(5));
        trickling.stream.write_all(&[*byte]).is_err()
    });
    assert!(closed);
    assert!(silent.try_receive().is_err(), "nothing is owed to who says nothing");
}

#[test]
fn nothing_grows_for_a_stranger_who_does_not_read() {
    let server = serve_echo();
    let mut stranger = server.peer();
    let flood = frame(b"no").repeat(10_000);
    stranger.stream.set_nonblocking(true).unwrap();
    // Whatever the kernel takes; the rest of the flood does not matter.
    let _ = stranger.stream.write_all(&flood);
    let mut bystanders = Bystanders::of(&server);
    for _ in 0..50 {
        bystanders.go_on();
        let held = server.handle.stats().unwrap().buffered_bytes;
        assert!(held < 512 << 10, "{held} bytes for one stranger");
    }
}

#[test]
fn half_a_frame_and_a_reset_hurt_nobody() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    for cut in [1, 4, 5, 60] {
        let mut peer = server.connected("app", "cut");
        let request = peer.message("request", "echo", &json!("never whole")).to_string();
        peer.stream.write_all(&frame(request.as_bytes())[..cut]).unwrap();
        socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        bystanders.go_on();
    }
}

#[test]
fn nobody_speaks_for_others() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    let mut peer = server.connected("app", "meddler");
    for message_type in ["subscribe", "unsubscribe"] {
        peer.send(message_type, "calm", json!({"connection_id": "bystander-subscriber"}));
        assert_eq!(code(&peer.receive()), "forbidden");
    }
    for message_type in ["request", "publish", "subscribe", "notification"] {
        let mut message = peer.message(message_type, "echo", &json!({}));
        message["app_id"] = json!("another");
        peer.send_message(&message);
        assert_eq!(code(&peer.receive()), "forbidden");
    }
    peer.send("request", "system", json!({"action": "serve", "channel": "system"}));
    assert_eq!(code(&peer.receive()), "forbidden");
    // Responses nobody asked for, whatever they claim, are not answered at all.
    for reply_to in [json!(null), json!("x"), json!("00000000-0000-4000-8000-000000000000")] {
        let mut message = peer.message("response", "calm", &json!("spoof"));
        message["reply_to"] = reply_to;
        peer.send_message(&message);
    }
    peer.fence();
    bystanders.go_on();
    let shown = peer.request("system", json!({"action": "list_applications"})).to_string();
    assert!(!shown.contains("bystander"), "ids are nobody else's business: {shown}");
}

#[test]
fn sixty_thousand_channels_are_too_many_and_leave_no_trace() {
    let server = serve_echo();
    let mut bystanders = Bystanders::of(&server);
    let before = server.handle.stats().unwrap().total_channels;
    let mut greedy = server.connected("app", "greedy");
    let mut reader = greedy.reader();
    let writer = std::thread::spawn(move || {
        for at in 0..60_000 {
            greedy.send("publish", &format!("channel-{at}"), json!(null));
        }
        greedy.send("request", "echo", json!("done"));
        greedy
    });
    let mut refused = 0;
    loop {
        let answer = reader.receive();
        if answer["payload"] == "done" {
            break;
        }
        assert_eq!(code(&answer), "limit_exceeded");
        refused += 1;
    }
    assert_eq!(refused, 60_000 - Limits::default().channels_per_connection_max);
    bystanders.go_on();
    drop((writer.join().unwrap(), reader));
    while server.handle.stats().unwrap().total_channels > before {
        std::thread::yield_now();
    }
}

#[test]
fn a_requester_that_leaves_takes_nothing_with_it() {
    let server = serve_echo();
    let mut worker = server.connected("app", "worker");
    worker.serve("work");
    let mut leaving = server.connected("app", "leaving");
    leaving.send("request", "work", json!("unanswered"));
    let task = worker.receive();
    drop(leaving);
    let mut answer = worker.message("response", "work", &json!("for nobody"));
    answer["reply_to"] = task["message_id"].clone();
    worker.send_message(&answer);
    worker.fence();
    assert_eq!(server.handle.stats().unwrap().pending_requests, 0);
}

#[test]
fn two_requesters_may_use_the_same_message_id() {
    let server = serve_echo();
    let mut worker = server.connected("app", "worker");
    worker.serve("work");
    let mut peers: Vec<Peer> =
        ["a", "b"].map(|id| server.connected("app", id)).into_iter().collect();
    let mut tasks = Vec::new();
    for peer in &mut peers {
        let mut request = peer.message("request", "work", &json!(peer.connection_id));
        request["message_id"] = json!("the same");
        peer.send_message(&request);
        tasks.push(worker.receive());
    }
    for task in tasks.iter().rev() {
        let mut answer = worker.message("response", "work", &task["payload"]);
        answer["reply_to"] = task["message_id"].clone();
        worker.send_message(&answer);
    }
    for peer in &mut peers {
        let answer = peer.receive();
        assert_eq!(answer["reply_to"], "the same");
        assert_eq!(answer["payload"], peer.connection_id.as_str());
    }
}

#[test]
fn a_payload_is_relayed_byte_for_byte() {
    let server = serve_echo();
    let mut peer = server.connected("app", "odd");
    peer.subscribe("odd");
    let payload = format!(
        r#"{{"big":{}, "wide" :1e400,"half":"\ud800","k":1,"k":2,"sp":[ 1 ,	2 ]}}"#,
        "9".repeat(300)
    );
    let body = format!(
        r#"{{"payload":{payload},"message_id":"m","app_id":"app","channel_id":"odd",
        "message_type":"publish","timestamp":1}}"#
    );
    let channel_of_request = body.replace("\"odd\"", "\"echo\"").replace("publish", "request");
    peer.send_body(body.as_bytes());
    assert_eq!(raw(&mut peer), body.as_bytes(), "a publication is relayed as it came");
    peer.send_body(channel_of_request.as_bytes());
    let answer = String::from_utf8(raw(&mut peer)).unwrap();
    assert!(answer.contains(&payload), "{answer}");
}

/// The bytes of the next frame.
fn raw(peer: &mut Peer) -> Vec<u8> {
    use std::io::Read;
    let mut header = [0; 4];
    peer.stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    peer.stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn a_slow_subscriber_is_closed_and_the_others_lose_nothing() {
    const MESSAGES: u64 = 4_000;
    let limits = Limits {
        queue_high_water_bytes: 64 << 10,
        slow_consumer_grace: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = serve(Config { limits, ..Config::default() }, |_| {});
    let mut slow = server.connected("app", "slow");
    slow.subscribe("feed");
    let mut healthy = server.connected("app", "healthy");
    healthy.subscribe("feed");
    let mut publisher = server.connected("app", "publisher");
    let text = "x".repeat(4_000);
    let writer = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            publisher.send("publish", "feed", json!({"at": at, "text": text}));
        }
        publisher.fence();
    });
    for at in 0..MESSAGES {
        assert_eq!(healthy.receive()["payload"]["at"], at, "nothing is lost or out of order");
    }
    writer.join().expect("the publisher was held back, not failed");
    let counters = server.handle.stats().unwrap().counters;
    assert_eq!(counters.slow_consumers, 1);
    assert!(counters.publishers_held > 0);
}

#[test]
fn answers_nobody_reads_are_bounded() {
    let server = serve_echo();
    let mut deaf = server.connected("app", "deaf");
    let request =
        frame(deaf.message("request", "echo", &json!("x".repeat(8_000))).to_string().as_bytes());
    deaf.stream.set_nonblocking(true).unwrap();
    let mut bystanders = Bystanders::of(&server);
    let mut sent = 0;
    for _ in 0..200 {
        for _ in 0..20 {
            // Whatever the kernel takes; what is left of a request comes next.
            sent += deaf.stream.write(&request[sent % request.len()..]).unwrap_or(0);
        }
        bystanders.go_on();
        let held = server.handle.stats().unwrap().buffered_bytes;
        assert!(held < 4 << 20, "{held} bytes for one connection");
    }
}
