//! The embedding API as a Rust program uses it.

use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ipc_framework::{Config, HandleError, Json, Limits, Message, MessageType, Server};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{HANG, Peer, code, serve};

#[derive(Debug, Deserialize, Serialize)]
struct Order {
    item: String,
    count: u32,
}

#[test]
fn handlers_answer_by_value_raw_json_error_and_panic() {
    let server = serve(Config::default(), |server| {
        let mut app = server.application("shop", "The Shop");
        app.channel("typed").on_request(|request| {
            let order: Order = request.payload()?;
            request.reply(&Order { count: order.count * 2, ..order })
        });
        app.channel("raw")
            .on_request(|request| request.reply_json(&Json::parse("[1, 1e400]").expect("valid")));
        app.channel("panic").on_request(|_request| panic!("secret of the server"));
        app.channel("nan").on_request(|request| request.reply(&f64::NAN));
        app.channel("huge").on_request(|request| request.reply(&"x".repeat(17 << 20)));
        app.channel("silent").on_request(|request| Ok(request.leave_unanswered()));
        app.channel("direct").on_request(|mut request| {
            let answer = request.create_response(Json::parse("\"direct\"").expect("valid"));
            let from = request.from();
            assert!(request.context().send_to_connection(from, &answer));
            Ok(request.leave_unanswered())
        });
    });
    let mut peer = server.connected("shop", "customer");
    let doubled = peer.request("typed", json!({"item": "tea", "count": 2}));
    assert_eq!(doubled, json!({"item": "tea", "count": 4}));
    let refused = peer.request("typed", json!({"item": "tea"}));
    assert_eq!(refused["code"], "handler_failed");
    assert!(refused["error"].as_str().unwrap().contains("count"), "{refused}");
    let hidden = peer.request("panic", json!(null));
    assert_eq!(hidden["code"], "handler_failed");
    assert!(!hidden.to_string().contains("secret"), "{hidden}");
    assert_eq!(peer.request("nan", json!(null)), Value::Null);
    assert_eq!(peer.request("huge", json!(null))["code"], "handler_failed");
    peer.send("request", "silent", json!(null));
    assert_eq!(peer.request("direct", json!(null)), "direct");
    assert_eq!(server.handle.stats().unwrap().counters.handler_panics, 1);
}

#[test]
fn an_answer_may_come_later_from_any_thread() {
    let limits = Limits { request_timeout: Duration::from_millis(200), ..Limits::default() };
    let (hand_over, responders) = mpsc::channel();
    let server = serve(Config { limits, ..Config::default() }, move |server| {
        server.application("app", "").channel("later").on_request(move |request| {
            let (reply, responder) = request.defer()?;
            hand_over.send(responder)?;
            Ok(reply)
        });
    });
    let mut peer = server.connected("app", "patient");
    let ask = |peer: &mut Peer| {
        let id = peer.send("request", "later", json!(null));
        (id, responders.recv_timeout(HANG).unwrap())
    };
    let (first, one) = ask(&mut peer);
    let (second, two) = ask(&mut peer);
    two.reply(&"two").unwrap();
    one.reply(&"one").unwrap();
    for (id, payload) in [(second, "two"), (first, "one")] {
        let answer = peer.receive();
        assert_eq!(
            (answer["reply_to"].as_str(), answer["payload"].as_str()),
            (Some(&*id), Some(payload))
        );
    }
    drop(ask(&mut peer).1);
    assert_eq!(code(&peer.receive()), "handler_failed");
    ask(&mut peer).1.fail("no stock");
    assert!(peer.receive()["payload"]["error"].as_str().unwrap().contains("no stock"));
    let (_, late) = ask(&mut peer);
    assert_eq!(code(&peer.receive()), "timeout");
    late.reply(&"too late").unwrap();
    peer.fence();
}

#[test]
fn handlers_and_other_threads_publish_and_broadcast() {
    let server = serve(Config::default(), |server| {
        let mut app = server.application("app", "");
        app.channel("relay").on_notification(|mut note| {
            let payload: Value = note.payload()?;
            note.publish("out", &payload)?;
            Ok(())
        });
        app.channel("answers").on_response(|mut response| {
            let from = response.from();
            let told = Message::new(
                MessageType::Notification,
                "app",
                "told",
                response.json().into_owned(),
            );
            response.context().send_to_connection(from, &told);
            Ok(())
        });
        app.channel("broken").on_notification(|_note| Err("cannot".into()));
    });
    let mut listener = server.connected("app", "listener");
    listener.subscribe("out");
    let mut other = server.connected("elsewhere", "other");
    let mut speaker = server.connected("app", "speaker");
    speaker.send("notification", "relay", json!({"n": 1}));
    assert_eq!(listener.receive()["payload"], json!({"n": 1}));
    speaker.send("response", "answers", json!("unasked"));
    assert_eq!(speaker.receive()["payload"], "unasked");
    speaker.send("notification", "broken", json!(null));
    assert_eq!(code(&speaker.receive()), "handler_failed");

    server.handle.publish("app", "out", &[1, 2]).unwrap();
    assert_eq!(listener.receive()["payload"], json!([1, 2]));
    let all = Message::new(MessageType::Notification, "app", "all", Json::parse("true").unwrap());
    server.handle.broadcast_to_application(all.clone()).unwrap();
    for peer in [&mut listener, &mut speaker] {
        assert_eq!(peer.receive()["channel_id"], "all");
    }
    let key = server.handle.with(|context| context.get_connection("app", "speaker")).unwrap();
    server.handle.send_to_connection(key.expect("connected"), all).unwrap();
    assert_eq!(speaker.receive()["payload"], true);
    other.fence();
}

#[test]
fn hooks_tell_who_comes_and_goes() {
    let (told, events) = mpsc::channel();
    let (came, went) = (told.clone(), told);
    let server = serve(Config::default(), move |server| {
        server.on_connect(move |info, context| {
            assert_eq!(context.connections_of(info.app_id).len(), 1);
            came.send(format!("+{}/{}", info.app_id, info.connection_id)).unwrap();
        });
        server.on_disconnect(move |info, _| {
            went.send(format!("-{}/{}", info.app_id, info.connection_id)).unwrap();
            panic!("a hook's bug hurts nobody");
        });
    });
    let peer = server.connected("app", "me");
    assert_eq!(events.recv_timeout(HANG).unwrap(), "+app/me");
    drop(peer);
    assert_eq!(events.recv_timeout(HANG).unwrap(), "-app/me");
    server.connected("app", "me").fence();
}

#[test]
fn the_published_names_are_there() {
    let mut server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    let mut app = server.create_application("app", Some("Its Name"));
    app.create_channel("one");
    app.create_channel("two");
    assert!(app.get_channel("one").is_some());
    assert!(app.get_channel("three").is_none());
    assert_eq!(app.list_channels(), ["one", "two"]);
    assert!(server.get_application("app").is_some());
    assert!(server.get_application("other").is_none());
    assert_eq!(server.list_applications()["app"].name, "Its Name");
    assert_eq!(server.list_channels("app")["one"].subscribers, 0);
    assert_eq!(server.get_stats().max_connections, 10_000);
    assert_eq!(server.get_connection("app", "nobody"), None);
    let message = Message::new(MessageType::Publish, "app", "one", Json::null());
    assert_eq!(server.broadcast_to_application("app", &message), 0);
}

#[test]
fn a_handle_says_why_it_cannot() {
    let (told, errors) = mpsc::channel();
    let server = serve(Config::default(), |server| {
        let handle = server.handle();
        server.application("app", "").channel("ask").on_request(move |request| {
            told.send(handle.stats().unwrap_err())?;
            request.reply(&0)
        });
    });
    server.connected("app", "me").request("ask", json!(null));
    assert!(matches!(errors.recv_timeout(HANG).unwrap(), HandleError::OnLoopThread));
    let handle = server.handle.clone();
    server.stop();
    assert!(matches!(handle.stats(), Err(HandleError::Stopped)));
    assert!(matches!(handle.publish("app", "c", &1), Err(HandleError::Stopped)));
}

#[test]
fn a_handle_refuses_more_than_the_loop_can_take() {
    // Nobody runs this server's loop, so what is posted stays.
    let server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    let handle = server.handle();
    let megabyte = "x".repeat(1 << 20);
    let full = (0..100).find_map(|_| handle.publish("app", "c", &megabyte).err());
    assert!(matches!(full, Some(HandleError::Full)), "{full:?}");
}

#[test]
fn a_host_loop_of_ones_own_drives_it() {
    let mut server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    crate::support::install_echo(&mut server);
    let ipc_framework::Address::Tcp(address) = server.addresses()[0].clone() else {
        panic!("TCP comes first");
    };
    let handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut peer = Peer::new(address);
        peer.connect("app", "guest");
        for at in 0..100 {
            assert_eq!(peer.request("echo", json!(at)), at);
        }
        handle.stop();
    });
    let mut host = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let descriptor = server.as_raw_fd();
    host.registry()
        .register(&mut mio::unix::SourceFd(&descriptor), mio::Token(0), mio::Interest::READABLE)
        .unwrap();
    loop {
        let deadline = server.next_deadline();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        host.poll(&mut events, timeout).unwrap();
        if !server.poll_once(Some(Duration::ZERO)).unwrap() {
            break;
        }
    }
    client.join().unwrap();
}

#[test]
#[should_panic(expected = "1 to 256 bytes")]
fn an_unusable_id_is_the_callers_bug() {
    let mut server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    server.application("", "nameless");
}
