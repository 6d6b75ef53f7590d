//! Things that a process arranges for its clients while its server runs.

use ipc_framework::{Config, Context, Json, Message, MessageType};
use serde_json::json;

use crate::support::{install_echo, serve};

#[test]
fn a_connection_is_subscribed_from_inside() {
    let server = serve(Config::default(), |_| {});
    let mut listener = server.connected("app", "listener");
    let mut speaker = server.connected("app", "speaker");
    let change = |subscribe: bool| {
        let change = move |context: &mut Context<'_>| {
            let listener = context.get_connection("app", "listener").unwrap();
            let changed = if subscribe {
                context.subscribe(listener, "news")
            } else {
                context.unsubscribe(listener, "news")
            };
            let listening = context.subscribers("app", "news");
            assert_eq!(listening.contains(&listener), subscribe);
            assert!(listening.iter().all(|key| context.connection_id(*key) == Some("listener")));
            changed
        };
        server.handle.with(change).unwrap()
    };
    assert!(change(true));
    assert!(change(true), "a second time changes nothing");
    speaker.send("publish", "news", json!(1));
    assert_eq!(listener.receive()["payload"], 1);
    assert!(change(false));
    assert!(!change(false));
    speaker.send("publish", "news", json!(2));
    speaker.fence();
    listener.fence();
    // A connection that closes loses such subscriptions as well.
    assert!(change(true));
    drop(listener);
    server.wait_until("the listener's end", |stats| stats.total_connections == 1);
    let left = server.handle.with(|context| context.subscribers("app", "news").len()).unwrap();
    assert_eq!(left, 0);
    // The connection that named the channel first keeps it, and leaves nothing behind.
    drop(speaker);
    server.wait_until("the speaker's end", |stats| stats.total_connections == 0);
    assert!(!server.handle.with(|context| context.has_channel("app", "news")).unwrap());
}

#[test]
fn channels_come_and_go_while_the_server_runs() {
    let server = serve(Config::default(), install_echo);
    let created = server.handle.with(|context| {
        context.create_application("new", Some("A New One"));
        context.create_channel("new", "first");
        (context.list_applications()["new"].name.clone(), context.has_channel("new", "first"))
    });
    assert_eq!(created.unwrap(), ("A New One".to_owned(), true));

    let mut peer = server.connected("app", "me").subscribed("echo");
    assert_eq!(peer.request("echo", json!(1)), 1);
    let removed = server.handle.with(|context| {
        let removed = context.remove_channel("app", "echo");
        let note = Message::new(MessageType::Publish, "app", "echo", Json::null());
        assert_eq!(context.publish_message(&note).unwrap(), 0, "nobody listens any more");
        (removed, context.has_channel("app", "echo"), context.remove_channel("app", "never"))
    });
    assert_eq!(removed.unwrap(), (true, false, false));
    peer.expect_refusal("request", "echo", json!(2), "no_handler");
    peer.fence();
}

#[test]
fn a_handler_may_remove_its_own_channel() {
    let server = serve(Config::default(), |server| {
        server.application("app", "App").channel("once").on_request(|mut request| {
            request.context().remove_channel("app", "once");
            request.reply(&"for the last time")
        });
    });
    let mut peer = server.connected("app", "me");
    assert_eq!(peer.request("once", json!(null)), "for the last time");
    peer.expect_refusal("request", "once", json!(null), "no_handler");
}

#[test]
fn a_connection_is_closed_from_inside_after_what_was_sent() {
    let server = serve(Config::default(), |server| {
        server.fallback().on_request(|mut request| {
            let from = request.from();
            let farewell = request.create_response(Json::parse("\"farewell\"").unwrap());
            request.context().send_to_connection(from, &farewell)?;
            assert!(request.context().close_connection(from));
            assert!(!request.context().close_connection(from), "it is on its way out");
            Ok(request.answered())
        });
    });
    let mut peer = server.connected("app", "me");
    let mut other = server.connected("app", "other");
    assert_eq!(peer.request("any", json!(null)), "farewell");
    peer.expect_end();
    other.fence();
}

#[test]
fn a_message_goes_to_the_subscribers_of_another_channel() {
    let server = serve(Config::default(), |_| {});
    let mut peer = server.connected("app", "me").subscribed("lobby");
    let reached = server.handle.with(|context| {
        let note = Message::new(MessageType::Notification, "app", "status", Json::null());
        context.publish_to("app", "lobby", &note).unwrap()
    });
    assert_eq!(reached.unwrap(), 1);
    assert_eq!(peer.receive()["channel_id"], "status");
}
