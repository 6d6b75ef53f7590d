//! Handlers for any channel, and the filter for publications and subscriptions.

use std::sync::mpsc;

use ipc_framework::{Config, Json, MessageType, Verdict};
use serde_json::json;

use crate::support::{HANG, serve};

#[test]
fn the_fallback_serves_what_nobody_else_does() {
    let server = serve(Config::default(), |server| {
        server.application("app", "App").channel("own").on_request(|request| {
            if request.payload()? { request.reply(&"own") } else { Ok(request.pass_on()) }
        });
        server.fallback().on_request(|request| {
            let channel = request.message().channel_id().decode();
            match &*channel {
                "own" | "any" => request.reply(&format!("fallback for {channel}")),
                _ => Ok(request.pass_on()),
            }
        });
    });
    let mut peer = server.connected("app", "me");
    assert_eq!(peer.request("own", json!(true)), "own");
    assert_eq!(peer.request("own", json!(false)), "fallback for own");
    assert_eq!(peer.request("any", json!(null)), "fallback for any");
    let mut elsewhere = server.connected("another app", "me");
    assert_eq!(elsewhere.request("any", json!(null)), "fallback for any");
    // Requests that it passes on go to the workers. Without workers they are refused.
    peer.expect_refusal("request", "work", json!(1), "no_handler");
    let mut worker = server.connected("app", "worker").serving("work");
    let id = peer.send("request", "work", json!(2));
    let request = worker.receive();
    assert_eq!(request["payload"], 2);
    worker.answer(&request, json!(3));
    peer.expect_answer(&id, 3);
    // A request that was passed on is counted only where it was answered.
    assert_eq!(server.stats().counters.handler_failures, 0);
}

#[test]
fn the_fallback_takes_notifications_and_responses() {
    let (told, heard) = mpsc::channel();
    let server = serve(Config::default(), move |server| {
        let responses = told.clone();
        let mut fallback = server.fallback();
        fallback.on_notification(move |note| {
            if note.message().channel_id().matches("work") {
                return note.pass_on();
            }
            told.send(note.json().as_str().to_owned())?;
            Ok(())
        });
        fallback.on_response(move |response| {
            responses.send(response.json().as_str().to_owned())?;
            Ok(())
        });
    });
    let mut worker = server.connected("app", "worker").serving("work");
    let mut peer = server.connected("app", "me");
    peer.send("notification", "work", json!("for the worker"));
    assert_eq!(worker.receive()["payload"], "for the worker");
    peer.send("notification", "any", json!("note"));
    assert_eq!(heard.recv_timeout(HANG).unwrap(), "\"note\"");
    peer.send("response", "any", json!("late"));
    assert_eq!(heard.recv_timeout(HANG).unwrap(), "\"late\"");
    assert_eq!(server.stats().counters.notifications_unhandled, 0);
}

#[test]
fn an_answer_of_ones_own_making_settles_a_request() {
    let server = serve(Config::default(), |server| {
        server.fallback().on_request(|mut request| {
            let mut answer = request.create_response(Json::parse("7").unwrap());
            "my own id".clone_into(&mut answer.message_id);
            let from = request.from();
            request.context().send_to_connection(from, &answer)?;
            Ok(request.answered())
        });
    });
    let mut peer = server.connected("app", "me");
    let id = peer.send("request", "any", json!(null));
    let answer = peer.receive();
    assert_eq!((&answer["message_id"], &answer["reply_to"]), (&json!("my own id"), &json!(id)));
    peer.fence();
    let latencies = server.handle.with(|context| context.list_latencies("app")).unwrap();
    let request = latencies["any"].request.as_ref().expect("it was measured");
    assert_eq!(request.count, 1);
}

#[test]
fn the_filter_decides_about_publications_and_subscriptions() {
    let server = serve(Config::default(), |server| {
        server.filter(|delivery| {
            let message = *delivery.message();
            let publishes = message.message_type() == MessageType::Publish;
            match message.channel_id().raw() {
                "readonly" if publishes => Err("only the server publishes here".into()),
                "secret" if !publishes => Err("nobody listens here".into()),
                "muted" if publishes => Ok(Verdict::Drop),
                "shouted" if publishes => {
                    let text: String = delivery.payload()?;
                    delivery.notify("shouted", &text.to_uppercase())?;
                    Ok(Verdict::Drop)
                }
                "broken" => panic!("a bug in the filter"),
                _ => Ok(Verdict::CarryOut),
            }
        });
    });
    let mut peer = server.connected("app", "me");
    for channel in ["readonly", "muted", "shouted", "open"] {
        peer.subscribe(channel);
    }
    peer.expect_refusal("subscribe", "secret", json!({"connection_id": "me"}), "forbidden");
    peer.expect_refusal("publish", "readonly", json!(1), "forbidden");
    peer.expect_refusal("publish", "broken", json!(1), "handler_failed");
    peer.send("publish", "muted", json!("unheard"));
    peer.send("publish", "shouted", json!("quiet"));
    let loud = peer.receive();
    assert_eq!(
        (&loud["payload"], &loud["message_type"]),
        (&json!("QUIET"), &json!("notification"))
    );
    peer.send("publish", "open", json!("as it is"));
    assert_eq!(peer.receive()["payload"], "as it is");
    peer.fence();
}
