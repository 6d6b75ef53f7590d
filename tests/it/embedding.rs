//! The server as the Rust program sees it that embeds it.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ipc_framework::proto::ID_BYTES_MAX;
use ipc_framework::{
    Config, Handle, HandleError, Json, Limits, Message, MessageType, RequestResult, Responder,
    Server,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{HANG, Peer, TestServer, code, frame, install_echo, serve, serve_echo};

fn bind() -> Server {
    Server::bind(Config { port: 0, ..Config::default() }).expect("a free port")
}

/// The channel `later`, whose requests are handed to the test.
fn serve_later(limits: Limits) -> (TestServer, Receiver<Responder>) {
    let (sender, responders) = channel();
    let server = serve(Config { limits, ..Config::default() }, |server| {
        install_echo(server);
        server.application("app", "The App").channel("later").on_request(move |request| {
            let (reply, responder) = request.defer()?;
            sender.send(responder)?;
            Ok(reply)
        });
    });
    (server, responders)
}

fn error_text(message: &Value) -> &str {
    message["payload"]["error"].as_str().unwrap_or_default()
}

#[test]
fn every_type_has_its_handler_and_sees_a_typed_payload() {
    #[derive(Deserialize)]
    struct Sum {
        a: i64,
        b: i64,
    }
    let (sender, seen) = channel();
    let also = sender.clone();
    let server = serve(Config::default(), move |server| {
        let mut app = server.application("app", "The App");
        app.channel("sum")
            .on_request(|request| {
                let sum: Sum = request.payload()?;
                request.reply(&(sum.a + sum.b))
            })
            .on_notification(move |note| Ok(sender.send(("note", note.payload::<String>()?))?))
            .on_response(move |response| Ok(also.send(("response", response.payload()?))?));
    });
    let mut peer = server.connected("app", "peer");
    assert_eq!(peer.request("sum", json!({"a": 40, "b": 2})), 42);
    peer.send("notification", "sum", json!("first"));
    peer.send("response", "sum", json!("second"));
    peer.fence();
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen, [("note", "first".to_owned()), ("response", "second".to_owned())]);
}

#[test]
fn a_later_handler_replaces_an_earlier_one_of_its_type() {
    let server = serve(Config::default(), |server| {
        install_echo(server);
        let mut app = server.application("app", "Renamed");
        app.channel("echo").on_notification(|_| Ok(()));
        app.channel("echo").on_request(|request| request.reply("the later one"));
    });
    let mut peer = server.connected("app", "peer");
    assert_eq!(peer.request("echo", json!(1)), "the later one");
}

#[test]
fn raw_json_goes_both_ways_as_it_came() {
    let server = serve_echo();
    let mut peer = server.connected("app", "peer");
    let payload = r#"{"n":123456789012345678901234567890 , "k":1,"k":2,"half":"\ud800","e":1e400}"#;
    let body = peer.message("request", "echo", json!("here")).to_string();
    peer.send_body(body.replace("\"here\"", payload).as_bytes());
    let answer = String::from_utf8(peer.try_receive_body().unwrap()).unwrap();
    assert!(answer.contains(payload), "{answer}");
}

#[test]
fn a_failing_handler_is_answered_and_the_server_lives_on() {
    let server = serve(Config::default(), |server| {
        install_echo(server);
        let mut app = server.application("app", "The App");
        app.channel("typed").on_request(|request| {
            let number: i64 = request.payload()?;
            request.reply(&number)
        });
        app.channel("text").on_request(|_| Err("not on a Sunday".into()));
        app.channel("parse").on_request(|request| {
            let number: u8 = request.payload::<String>()?.parse()?;
            request.reply(&number)
        });
        app.channel("panic").on_request(|request| -> RequestResult<'_> {
            panic!("a secret: {}", request.json());
        });
    });
    let mut peer = server.connected("app", "peer");
    for (channel, payload, told) in [
        ("typed", json!("no number"), "expected shape"),
        ("text", json!(null), "not on a Sunday"),
        ("parse", json!("256"), "too large"),
        ("panic", json!("hidden"), "panicked"),
    ] {
        let id = peer.send("request", channel, payload);
        let answer = peer.receive();
        assert_eq!(code(&answer), "handler_failed");
        assert_eq!((&answer["reply_to"], &answer["channel_id"]), (&json!(id), &json!(channel)));
        assert!(error_text(&answer).contains(told), "{answer}");
        assert!(!error_text(&answer).contains("secret"), "what a panic said stays inside");
    }
    assert_eq!(peer.request("echo", json!(1)), 1);
    let counters = server.handle.stats().unwrap().counters;
    assert_eq!(counters.handler_panics, 1);
    assert_eq!(counters.errors["handler_failed"], 4);
}

#[test]
fn a_failing_delivery_is_counted_and_only_a_notification_is_told() {
    let server = serve(Config::default(), |server| {
        let mut app = server.application("app", "The App");
        app.channel("fail")
            .on_notification(|_| Err("no".into()))
            .on_response(|_| panic!("a response handler that panics"));
    });
    let mut peer = server.connected("app", "peer");
    let id = peer.send("notification", "fail", json!(1));
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));
    peer.send("response", "fail", json!(1));
    peer.fence();
    let counters = server.handle.stats().unwrap().counters;
    assert_eq!((counters.handler_failures, counters.handler_panics), (2, 1));
}

#[test]
fn what_is_no_json_or_too_large_fails_its_handler() {
    let limits = Limits { frame_bytes_max: 4096, ..Limits::default() };
    let server = serve(Config { limits, ..Config::default() }, |server| {
        let mut app = server.application("app", "The App");
        app.channel("keys").on_request(|request| request.reply(&HashMap::from([((1, 2), 3)])));
        app.channel("nan").on_request(|request| request.reply(&[f64::NAN, f64::INFINITY]));
        app.channel("text").on_request(|request| {
            let json = Json::parse("NaN")?;
            request.reply_json(&json)
        });
        app.channel("large").on_request(|request| request.reply(&"x".repeat(5000)));
        app.channel("large_json").on_request(|request| {
            let json = Json::from_serialize(&"x".repeat(5000))?;
            request.reply_json(&json)
        });
    });
    let mut peer = server.connected("app", "peer");
    for channel in ["keys", "text", "large", "large_json"] {
        let id = peer.send("request", channel, json!(null));
        let answer = peer.receive();
        assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));
    }
    // serde_json has no other word for it; what matters is that the frame is JSON.
    assert_eq!(peer.request("nan", json!(null)), json!([null, null]));
    peer.fence();
}

#[test]
fn an_answer_may_fill_a_frame_to_its_limit() {
    const BODY_BYTES_MAX: usize = 4096;
    let limits = Limits { frame_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
    let server = serve(Config { limits, ..Config::default() }, |server| {
        server.application("app", "The App").channel("fill").on_request(|request| {
            let length: usize = request.payload()?;
            request.reply(&"x".repeat(length))
        });
    });
    let mut peer = server.connected("app", "peer");
    let mut ask = |length: usize| {
        peer.send("request", "fill", json!(length));
        peer.try_receive_body().unwrap()
    };
    // All but the payload has one length, as long as the requests' ids have.
    let fits = BODY_BYTES_MAX - ask(0).len();
    assert_eq!(ask(fits).len(), BODY_BYTES_MAX, "the limit is one of bodies");
    let refused = String::from_utf8(ask(fits + 1)).unwrap();
    assert!(refused.contains("handler_failed"), "{refused}");
}

#[test]
fn answers_of_handlers_come_in_the_order_of_the_requests() {
    const REQUESTS: usize = 500;
    let server = serve(Config::default(), |server| {
        server.application("app", "The App").channel("mixed").on_request(|request| {
            match request.payload::<usize>()? {
                number if number % 3 == 0 => Err("by three".into()),
                number if number % 7 == 0 => panic!("by seven"),
                number => request.reply(&number),
            }
        });
    });
    let mut peer = server.connected("app", "peer");
    let messages: Vec<Value> =
        (0..REQUESTS).map(|n| peer.message("request", "mixed", json!(n))).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|m| frame(m.to_string().as_bytes())).collect();
    std::io::Write::write_all(&mut peer.stream, &bytes).unwrap();
    for (number, message) in messages.iter().enumerate() {
        let answer = peer.receive();
        assert_eq!(answer["reply_to"], message["message_id"]);
        if number % 3 == 0 || number % 7 == 0 {
            assert_eq!(code(&answer), "handler_failed");
        } else {
            assert_eq!(answer["payload"], number);
        }
    }
}

#[test]
fn a_request_can_be_left_unanswered_or_answered_by_a_message() {
    let server = serve(Config::default(), |server| {
        install_echo(server);
        let mut app = server.application("app", "The App");
        app.channel("silent").on_request(|request| Ok(request.leave_unanswered()));
        app.channel("by_hand").on_request(|mut request| {
            let response = request.create_response(Json::parse(r#"{"by":"hand"}"#)?);
            let from = request.from();
            if !request.context().send_to_connection(from, &response) {
                return Err("the requester is gone".into());
            }
            Ok(request.leave_unanswered())
        });
    });
    let mut peer = server.connected("app", "peer");
    peer.send("request", "silent", json!(1));
    peer.fence();
    assert_eq!(peer.request("by_hand", json!(1)), json!({"by": "hand"}));
    peer.fence();
}

#[test]
fn a_deferred_answer_comes_from_another_thread_and_holds_nobody_up() {
    let (server, responders) = serve_later(Limits::default());
    let mut peer = server.connected("app", "peer");
    let first = peer.send("request", "later", json!(1));
    let second = peer.send("request", "later", json!(2));
    assert_eq!(peer.request("echo", json!("meanwhile")), "meanwhile");
    assert_eq!(server.handle.stats().unwrap().pending_requests, 2);
    let one = responders.recv_timeout(HANG).unwrap();
    let two = responders.recv_timeout(HANG).unwrap();
    let other = thread::spawn(move || two.reply(&json!({"n": 2})));
    let answer = peer.receive();
    assert_eq!((&answer["reply_to"], &answer["payload"]), (&json!(second), &json!({"n": 2})));
    other.join().unwrap().unwrap();
    one.reply_json(Json::parse(" 1.50 ").unwrap());
    let answer = peer.receive();
    assert_eq!((&answer["reply_to"], &answer["payload"]), (&json!(first), &json!(1.5)));
    assert_eq!(server.handle.stats().unwrap().pending_requests, 0);
}

#[test]
fn a_deferred_request_is_answered_once_whatever_becomes_of_it() {
    let (server, responders) = serve_later(Limits::default());
    let mut peer = server.connected("app", "peer");
    let next = || responders.recv_timeout(HANG).unwrap();

    let id = peer.send("request", "later", json!(1));
    drop(next());
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));

    let id = peer.send("request", "later", json!(2));
    next().fail("the disk is full");
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));
    assert!(error_text(&answer).contains("the disk is full"), "{answer}");

    let id = peer.send("request", "later", json!(3));
    next().reply(&HashMap::from([((1, 2), 3)])).expect_err("no JSON has such keys");
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));

    // Its requester goes away first.
    peer.send("request", "later", json!(4));
    let responder = next();
    drop(peer);
    server.wait_until(|stats| stats.total_connections == 0);
    responder.reply(&1).unwrap();
    let stats = server.wait_until(|stats| stats.pending_requests == 0);
    assert_eq!(stats.counters.answers_undeliverable, 1);
}

#[test]
fn a_deferred_answer_over_the_frame_limit_fails_too() {
    let (server, responders) =
        serve_later(Limits { frame_bytes_max: 4096, ..Limits::default() });
    let mut peer = server.connected("app", "peer");
    let id = peer.send("request", "later", json!(1));
    responders.recv_timeout(HANG).unwrap().reply(&"x".repeat(5000)).unwrap();
    let answer = peer.receive();
    assert_eq!(answer["reply_to"], id.as_str());
    assert_eq!(answer["payload"]["code"], "handler_failed", "no frame is over the limit");
}

#[test]
fn an_answer_after_the_timeout_does_nothing() {
    let (server, responders) = serve_later(Limits {
        request_timeout: Duration::from_millis(20),
        ..Limits::default()
    });
    let mut peer = server.connected("app", "peer");
    let id = peer.send("request", "later", json!(1));
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("timeout", &json!(id)));
    responders.recv_timeout(HANG).unwrap().reply(&"too late").unwrap();
    // What one thread asks for happens in order: the late answer is dealt with.
    assert_eq!(server.handle.stats().unwrap().pending_requests, 0);
    peer.fence();
}

#[test]
fn deferred_requests_are_bounded_and_one_that_fails_is_answered_once() {
    let (server, responders) =
        serve_later(Limits { pending_per_connection_max: 1, ..Limits::default() });
    let mut peer = server.connected("app", "peer");
    let first = peer.send("request", "later", json!(1));
    let second = peer.send("request", "later", json!(2));
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("limit_exceeded", &json!(second)));
    peer.fence();
    drop(responders); // whoever would answer is gone: sending the next to it fails
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(first)));
    let third = peer.send("request", "later", json!(3));
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(third)));
    server.handle.stats().unwrap();
    peer.fence();
}

/// Says the same in four ways, all to be seen by `alice` of `app`, who subscribed to `news`.
fn tell(handle: &Handle) {
    let message = |text: &str| {
        let payload = Json::from_serialize(text).unwrap();
        Message::new(MessageType::Notification, "app", "news", payload)
    };
    let alice = handle.with(|context| context.get_connection("app", "alice")).unwrap().unwrap();
    handle.publish("app", "news", "one").unwrap();
    handle.broadcast_to_application(message("two")).unwrap();
    handle.send_to_connection(alice, message("three")).unwrap();
    let mut four = message("four");
    (four.message_id, four.timestamp) = ("given".to_owned(), 12.5);
    assert_eq!(handle.with(move |context| context.publish_message(&four)).unwrap(), 1);
}

fn expect_told(alice: &mut Peer) {
    for (kind, text) in [("publish", "one"), ("notification", "two"), ("notification", "three")] {
        let message = alice.receive();
        assert_eq!((&message["message_type"], &message["payload"]), (&json!(kind), &json!(text)));
        assert_eq!(message["app_id"], "app");
        assert_eq!((&message["channel_id"], &message["reply_to"]), (&json!("news"), &json!(null)));
        assert_eq!(message["message_id"].as_str().map(str::len), Some(36), "a fresh UUID");
        assert!(message["timestamp"].as_f64().unwrap() > 1e9, "the time of sending: {message}");
    }
    let message = alice.receive();
    assert_eq!(message["payload"], "four");
    assert_eq!((&message["message_id"], &message["timestamp"]), (&json!("given"), &json!(12.5)));
}

#[test]
fn another_thread_speaks_through_a_handle() {
    let server = serve_echo();
    let mut alice = server.connected("app", "alice");
    let mut bob = server.connected("app", "bob");
    let mut stranger = server.connected("other", "alice");
    alice.subscribe("news");
    let handle = server.handle.clone();
    thread::spawn(move || tell(&handle)).join().unwrap();
    expect_told(&mut alice);
    assert_eq!(bob.receive()["payload"], "two", "a broadcast needs no subscription");
    bob.fence();
    stranger.fence();
    alice.fence();
}

#[test]
fn a_handler_speaks_through_its_context() {
    let server = serve(Config::default(), |server| {
        server.application("other", "Another").channel("news");
        server.application("app", "The App").channel("tell").on_request(|mut request| {
            let message = |payload: &str| {
                let payload = Json::from_serialize(payload).unwrap();
                Message::new(MessageType::Notification, "app", "news", payload)
            };
            let mut reached = vec![request.publish("news", "one")?];
            let context = request.context();
            reached.push(context.broadcast_to_application("app", &message("two")));
            let alice = context.get_connection("app", "alice").ok_or("alice is gone")?;
            reached.push(usize::from(context.send_to_connection(alice, &message("three"))));
            let mut four = message("four");
            (four.message_id, four.timestamp) = ("given".to_owned(), 12.5);
            reached.push(context.publish_message(&four));
            reached.push(context.publish("other", "news", "five")?);
            reached.push(context.publish("nobody", "news", "six")?);
            request.reply(&reached)
        });
    });
    let mut alice = server.connected("app", "alice");
    let mut bob = server.connected("app", "bob");
    let mut stranger = server.connected("other", "stranger");
    alice.subscribe("news");
    stranger.subscribe("news");
    bob.send("request", "tell", json!(null));
    expect_told(&mut alice);
    assert_eq!(bob.receive()["payload"], "two");
    assert_eq!(bob.receive()["payload"], json!([1, 2, 1, 1, 1, 0]));
    assert_eq!(stranger.receive()["payload"], "five");
    alice.fence();
    stranger.fence();
}

#[test]
fn a_message_to_a_connection_that_is_gone_goes_nowhere() {
    let server = serve_echo();
    let alice = server.connected("app", "alice");
    let find = || server.handle.with(|context| context.get_connection("app", "alice")).unwrap();
    let old = find().unwrap();
    drop(alice);
    server.wait_until(|stats| stats.total_connections == 0);
    let mut successor = server.connected("app", "alice");
    assert_eq!(find().unwrap().index(), old.index(), "the place is used again");
    let message = Message::new(MessageType::Notification, "app", "c", Json::null());
    let sent = server.handle.with(move |context| context.send_to_connection(old, &message));
    assert!(!sent.unwrap());
    successor.fence();
}

type Event = (&'static str, String, String, ipc_framework::ConnectionKey);

fn install_hooks(server: &mut Server, sender: Sender<Event>) {
    let also = sender.clone();
    server.on_connect(move |info, context| {
        let (app, id) = (info.app_id.to_owned(), info.connection_id.to_owned());
        assert_ne!(id, "poison", "a hook that panics");
        let welcome = Message::new(MessageType::Notification, &app, "welcome", Json::null());
        assert!(context.send_to_connection(info.key, &welcome));
        sender.send(("came", app, id, info.key)).unwrap();
    });
    server.on_disconnect(move |info, context| {
        let (app, id) = (info.app_id.to_owned(), info.connection_id.to_owned());
        context.publish(&app, "left", &id).unwrap();
        also.send(("went", app, id, info.key)).unwrap();
    });
}

#[test]
fn hooks_see_who_comes_and_who_goes() {
    let (sender, events) = channel();
    let server = serve(Config::default(), move |server| install_hooks(server, sender));
    let mut events = events.into_iter();
    let mut next = || {
        let (what, app, id, key) = events.next().unwrap();
        assert_eq!(app, "app");
        (what, id, key)
    };
    let mut witness = server.connected("app", "witness");
    assert_eq!(witness.receive()["channel_id"], "welcome", "after the answer to connect");
    witness.subscribe("left");
    let mut first = server.connected("app", "twin");
    let mut second = server.connected("app", "twin");
    first.receive();
    assert_eq!(code(&first.receive()), "taken_over");
    first.expect_end();
    assert_eq!(witness.receive()["payload"], "twin");
    let (came_witness, came_first) = (next(), next());
    assert_eq!((came_witness.0, came_first.0), ("came", "came"));
    let mut taken_over = [next(), next()];
    taken_over.sort();
    let [came_second, went_first] = taken_over;
    assert_eq!((came_second.0, went_first.0), ("came", "went"));
    assert_eq!(came_first.2, went_first.2, "it is the older one that went");
    assert_ne!(came_second.2, went_first.2);
    second.receive();
    second.fence();
    drop(second);
    assert_eq!(witness.receive()["payload"], "twin");
    assert_eq!(next(), ("went", "twin".to_owned(), came_second.2));
    // Who never introduced itself neither came nor went.
    drop(server.peer());
    server.wait_until(|stats| stats.counters.accepted == 4);
    witness.fence();
    drop(witness);
    assert_eq!(next(), ("went", "witness".to_owned(), came_witness.2));
}

#[test]
fn a_panicking_hook_harms_nobody() {
    let (sender, events) = channel();
    let server = serve(Config::default(), move |server| install_hooks(server, sender));
    let mut poison = server.connected("app", "poison");
    poison.fence();
    assert_eq!(server.handle.stats().unwrap().counters.handler_panics, 1);
    drop(poison);
    assert_eq!(events.recv_timeout(HANG).unwrap().0, "went", "the other hook still runs");
    let mut peer = server.connected("app", "peer");
    assert_eq!(peer.receive()["channel_id"], "welcome");
}

/// Runs turns on this thread until `client` is done on another.
fn drive<T: Send + 'static>(
    server: &mut Server,
    mut turn: impl FnMut(&mut Server),
    client: impl FnOnce(std::net::SocketAddr) -> T + Send + 'static,
) -> T {
    let port = server.addresses()[0].port().unwrap();
    let client = thread::spawn(move || client(([127, 0, 0, 1], port).into()));
    while !client.is_finished() {
        turn(server);
    }
    client.join().unwrap()
}

fn turn(server: &mut Server) {
    assert!(server.poll_once(Some(Duration::from_millis(1))).unwrap());
}

#[test]
fn the_published_names_list_and_send() {
    let mut server = bind();
    assert!(server.get_application("app").is_none());
    server.create_application("app", None).create_channel("b");
    server.create_application("app", Some("The App")).create_channel("a");
    let mut app = server.get_application("app").unwrap();
    assert_eq!(app.id(), "app");
    assert!(app.get_channel("a").is_some() && app.get_channel("c").is_none());
    assert_eq!(app.list_channels(), ["a", "b"], "looking for a channel makes none");
    app.get_channel("a").unwrap().on_request(|request| request.reply(&1));
    let mut alice = drive(&mut server, turn, |address| {
        let mut alice = Peer::new(address);
        alice.connect("app", "alice");
        alice.subscribe("b");
        alice.request("a", json!(null));
        alice
    });
    let applications = server.list_applications();
    let app = &applications["app"];
    assert_eq!((applications.len(), &*app.name, app.connections), (1, "The App", 1));
    assert_eq!(app.channels, ["a", "b"]);
    assert!(app.last_activity >= app.created_at && app.created_at > 1e9);
    let channels = server.list_channels("app");
    assert!(channels["a"].has_handler && !channels["b"].has_handler);
    assert_eq!((channels["a"].subscribers, channels["b"].subscribers), (0, 1));
    assert!(server.list_channels("nowhere").is_empty());
    assert_eq!(server.context().list_latencies("app")["a"].count, 1);
    assert_eq!(server.context().list_connections()[0].connection_id, "alice");
    let stats = server.get_stats();
    assert_eq!((stats.total_applications, stats.total_connections), (1, 1));
    assert_eq!((&*stats.host, stats.max_connections), ("localhost", 10_000));
    assert_eq!(Some(stats.port), server.addresses()[0].port());
    assert!(stats.running);

    assert_eq!(server.get_connection("app", "bob"), None);
    let key = server.get_connection("app", "alice").unwrap();
    let message = Message::new(MessageType::Notification, "app", "b", Json::null());
    assert!(server.send_to_connection(key, &message));
    assert_eq!(server.broadcast_to_application("app", &message), 1);
    assert_eq!(server.broadcast_to_application("nowhere", &message), 0);
    assert_eq!(server.context().publish("app", "b", &1).unwrap(), 1);
    drive(&mut server, turn, move |_| {
        let types: Vec<Value> = (0..3).map(|_| alice.receive()["message_type"].take()).collect();
        assert_eq!(types, ["notification", "notification", "publish"]);
    });
}

#[test]
fn the_loop_does_not_wait_for_itself() {
    let neighbour = serve_echo();
    let beside = neighbour.handle.clone();
    let server = serve(Config::default(), move |server| {
        let handle = server.handle();
        server.application("app", "The App").channel("ask").on_request(move |request| {
            let refused = handle.with(|_| ()).expect_err("this is the loop's thread");
            assert!(matches!(refused, HandleError::OnLoopThread), "{refused}");
            assert!(matches!(handle.stats(), Err(HandleError::OnLoopThread)));
            handle.publish("app", "news", "soon")?;
            request.reply(&beside.stats()?.running)
        });
    });
    let mut peer = server.connected("app", "peer");
    peer.subscribe("news");
    assert_eq!(peer.request("ask", json!(null)), true, "another server can be asked");
    assert_eq!(peer.receive()["payload"], "soon");
}
