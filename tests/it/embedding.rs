//! The embedding API as a Rust program uses it.

use std::sync::mpsc;
use std::time::Duration;

use ipc_framework::{Config, HandleError, Json, Limits, Message, MessageType, Responder, Server};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{HANG, Peer, TestServer, code, install_later, serve};

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
        app.channel("huge").on_request(|request| request.reply(&"x".repeat(17 << 20)));
        app.channel("silent").on_request(|request| Ok(request.leave_unanswered()));
        app.channel("direct").on_request(|mut request| {
            let answer = request.create_response(Json::parse("\"direct\"").expect("valid"));
            let from = request.from();
            assert!(request.context().send_to_connection(from, &answer).unwrap());
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
    assert_eq!(peer.request("huge", json!(null))["code"], "handler_failed");
    peer.send("request", "silent", json!(null));
    assert_eq!(peer.request("direct", json!(null)), "direct");
    assert_eq!(server.handle.stats().unwrap().counters.handler_panics, 1);
}

#[test]
fn an_answer_may_come_later_from_any_thread() {
    let (server, responders) = serve_later(Limits::default());
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
        peer.expect_answer(&id, payload);
    }
    drop(ask(&mut peer).1);
    assert_eq!(code(&peer.receive()), "handler_failed");
    ask(&mut peer).1.fail("no stock");
    assert!(peer.receive()["payload"]["error"].as_str().unwrap().contains("no stock"));

    let request_timeout = Duration::from_millis(200);
    let (server, responders) = serve_later(Limits::default().request_timeout(request_timeout));
    let mut peer = server.connected("app", "impatient");
    peer.send("request", "later", json!(null));
    assert_eq!(code(&peer.receive()), "timeout");
    responders.recv_timeout(HANG).unwrap().reply(&"too late").unwrap();
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
            response.context().send_to_connection(from, &told)?;
            Ok(())
        });
        app.channel("broken").on_notification(|_note| Err("cannot".into()));
    });
    let mut listener = server.connected("app", "listener").subscribed("out");
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
fn the_published_names_are_there() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
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
    assert_eq!(server.broadcast_to_application("app", &message).unwrap(), 0);
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
    // Nothing runs this server's loop, so posted messages stay in the mailbox.
    let server = Server::bind(Config::default().port(0)).unwrap();
    let handle = server.handle();
    let megabyte = "x".repeat(1 << 20);
    let full = (0..100).find_map(|_| handle.publish("app", "c", &megabyte).err());
    assert!(matches!(full, Some(HandleError::Full)), "{full:?}");
}

#[test]
#[should_panic(expected = "1 to 256 bytes")]
fn an_unusable_id_is_the_callers_bug() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    server.application("", "nameless");
}

/// Serves the channel `later`, which hands its requests to the test.
fn serve_later(limits: Limits) -> (TestServer, mpsc::Receiver<Responder>) {
    let mut responders = None;
    let server = serve(Config::default().limits(limits), |server| {
        crate::support::install_echo(server);
        responders = Some(install_later(server));
    });
    (server, responders.unwrap())
}

#[test]
fn an_answer_may_fill_a_frame_to_its_limit() {
    const BODY_BYTES_MAX: usize = 4096;
    let limits = Limits::default().frame_bytes_max(BODY_BYTES_MAX);
    let server = serve(Config::default().limits(limits), |server| {
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
    // Except for the payload the answer has a fixed length, because the ids of the requests do.
    let fits = BODY_BYTES_MAX - ask(0).len();
    assert_eq!(ask(fits).len(), BODY_BYTES_MAX, "the limit is one of bodies");
    let refused = String::from_utf8(ask(fits + 1)).unwrap();
    assert!(refused.contains("handler_failed"), "{refused}");
}

#[test]
fn a_deferred_answer_over_the_frame_limit_fails_too() {
    let (server, responders) = serve_later(Limits::default().frame_bytes_max(4096));
    let mut peer = server.connected("app", "peer");
    let id = peer.send("request", "later", json!(1));
    responders.recv_timeout(HANG).unwrap().reply(&"x".repeat(5000)).unwrap();
    let answer = peer.receive();
    assert_eq!(answer["reply_to"], id.as_str());
    assert_eq!(answer["payload"]["code"], "handler_failed", "no frame is over the limit");
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
        (0..REQUESTS).map(|n| peer.message("request", "mixed", &json!(n))).collect();
    peer.send_all(&messages);
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
fn a_deferred_request_is_answered_once_whatever_becomes_of_it() {
    let (server, responders) = serve_later(Limits::default());
    let mut peer = server.connected("app", "peer");
    let next = || responders.recv_timeout(HANG).unwrap();

    let id = peer.send("request", "later", json!(1));
    drop(next());
    peer.expect_error("handler_failed", "later", &*id);

    let id = peer.send("request", "later", json!(2));
    next().fail("the disk is full");
    let answer = peer.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("handler_failed", &json!(id)));
    assert!(answer["payload"]["error"].as_str().unwrap().contains("the disk is full"), "{answer}");

    let id = peer.send("request", "later", json!(3));
    next()
        .reply(&std::collections::HashMap::from([((1, 2), 3)]))
        .expect_err("no JSON has such keys");
    peer.expect_error("handler_failed", "later", &*id);

    // The requester disconnects first.
    peer.send("request", "later", json!(4));
    let responder = next();
    drop(peer);
    server.wait_until("its leave", |stats| stats.total_connections == 0);
    responder.reply(&1).unwrap();
    let stats = server.wait_until("its leave", |stats| stats.pending_requests == 0);
    assert_eq!(stats.counters.answers_undeliverable, 1);
}

#[test]
fn deferred_requests_are_bounded_and_one_that_fails_is_answered_once() {
    let (server, responders) = serve_later(Limits::default().pending_per_connection_max(1));
    let mut peer = server.connected("app", "peer");
    let first = peer.send("request", "later", json!(1));
    let second = peer.send("request", "later", json!(2));
    peer.expect_error("limit_exceeded", "later", &*second);
    peer.fence();
    drop(responders); // whoever would answer is gone: sending the next to it fails
    peer.expect_error("handler_failed", "later", &*first);
    let third = peer.send("request", "later", json!(3));
    peer.expect_error("handler_failed", "later", &*third);
    server.handle.stats().unwrap();
    peer.fence();
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
            reached.push(context.broadcast_to_application("app", &message("two")).unwrap());
            let alice = context.get_connection("app", "alice").ok_or("alice is gone")?;
            reached
                .push(usize::from(context.send_to_connection(alice, &message("three")).unwrap()));
            let mut four = message("four");
            (four.message_id, four.timestamp) = ("given".to_owned(), 12.5);
            reached.push(context.publish_message(&four).unwrap());
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
    for text in ["one", "two", "three"] {
        let message = alice.receive();
        assert_eq!((&message["payload"], &message["channel_id"]), (&json!(text), &json!("news")));
        assert_eq!(message["message_id"].as_str().map(str::len), Some(36), "a fresh UUID");
        assert!(message["timestamp"].as_f64().unwrap() > 1e9, "the time of sending: {message}");
    }
    let message = alice.receive();
    assert_eq!(message["payload"], "four");
    assert_eq!((&message["message_id"], &message["timestamp"]), (&json!("given"), &json!(12.5)));
    assert_eq!(bob.receive()["payload"], "two");
    assert_eq!(bob.receive()["payload"], json!([1, 2, 1, 1, 1, 0]));
    assert_eq!(stranger.receive()["payload"], "five");
    alice.fence();
    stranger.fence();
}

#[test]
fn a_message_to_a_connection_that_is_gone_goes_nowhere() {
    let server = crate::support::serve_echo();
    let alice = server.connected("app", "alice");
    let find = || server.handle.with(|context| context.get_connection("app", "alice")).unwrap();
    let old = find().unwrap();
    drop(alice);
    server.wait_until("its leave", |stats| stats.total_connections == 0);
    let mut successor = server.connected("app", "alice");
    assert_eq!(find().unwrap().index(), old.index(), "the place is used again");
    let message = Message::new(MessageType::Notification, "app", "c", Json::null());
    let sent = server.handle.with(move |context| context.send_to_connection(old, &message));
    assert!(!sent.unwrap().unwrap());
    successor.fence();
}

#[test]
fn a_question_the_server_does_not_get_to_is_not_left_waiting() {
    // Not every round asks at the critical moment.
    for _ in 0..20 {
        let mut server = Server::bind(Config::default().port(0)).unwrap();
        let handle = server.handle();
        handle.stop();
        // These are more messages than the turns of the drain take out of the mailbox.
        for _ in 0..20_000 {
            handle.publish("app", "news", &0).unwrap();
        }
        let (told, events) = mpsc::channel();
        std::thread::spawn(move || {
            told.send("about to ask").unwrap();
            // The result does not matter here, only that the call returns.
            let _ = handle.with(|_| ());
            let _ = told.send("went on");
        });
        assert_eq!(events.recv_timeout(HANG), Ok("about to ask"));
        server.run().unwrap();
        // An embedder may keep the server after its end, with the messages in its mailbox.
        assert_eq!(events.recv_timeout(HANG), Ok("went on"));
        drop(server);
    }
}

#[test]
fn a_handle_of_a_server_that_never_ran_says_so_too() {
    let server = Server::bind(Config::default().port(0)).unwrap();
    let handle = server.handle();
    drop(server);
    let message = Message::new(MessageType::Notification, "app", "news", Json::null());
    assert!(matches!(handle.publish("app", "news", &1), Err(HandleError::Stopped)));
    assert!(matches!(handle.broadcast_to_application(message), Err(HandleError::Stopped)));
    assert!(matches!(handle.with(|_| ()), Err(HandleError::Stopped)));
    handle.stop();
}

#[test]
fn the_loop_makes_room_for_what_was_refused() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    let handle = server.handle();
    let megabyte = "x".repeat(1 << 20);
    let taken = (0..1000).take_while(|_| handle.publish("app", "c", &megabyte).is_ok()).count();
    assert!((32..=64).contains(&taken), "{taken} MiB");
    assert!(server.poll_once(Some(HANG)).unwrap());
    handle.publish("app", "c", &megabyte).expect("the loop has made room");
}

#[test]
fn a_question_that_panics_harms_nobody() {
    let server = serve(Config::default(), |_| {});
    let refused = server.handle.with(|_| -> u8 { panic!("asked in vain") }).unwrap_err();
    assert!(matches!(refused, HandleError::Stopped), "{refused}");
    let keys = std::collections::HashMap::from([((1, 2), 3)]);
    let refused = server.handle.publish("app", "c", &keys).unwrap_err();
    assert!(matches!(refused, HandleError::NotJson(_)), "{refused}");
    assert_eq!(server.stats().counters.handler_panics, 1);
}

#[test]
fn turns_may_be_taken_on_one_thread_after_another() {
    fn is_sent_and_shared<T: Send + Sync>(_: &T) {}
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    crate::support::install_echo(&mut server);
    is_sent_and_shared(&server.handle());
    assert!(server.poll_once(Some(Duration::ZERO)).unwrap());
    let port = server.addresses()[0].port().unwrap();
    for name in ["one", "two"] {
        let driver = std::thread::spawn(move || {
            let client = std::thread::spawn(move || {
                let mut peer = Peer::new(([127, 0, 0, 1], port).into());
                peer.connect("app", name);
                assert_eq!(peer.request("echo", json!(name)), name);
            });
            while !client.is_finished() {
                assert!(server.poll_once(Some(Duration::from_millis(1))).unwrap());
            }
            client.join().unwrap();
            server
        });
        server = driver.join().unwrap();
    }
    server.handle().stop();
    while server.poll_once(Some(HANG)).unwrap() {}
    assert!(!server.poll_once(None).unwrap(), "it never goes on, and does not wait");
}
