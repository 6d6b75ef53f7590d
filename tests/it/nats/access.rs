//! Tokens and lists of channels hold at each server, whatever the other one allows.

use ipc_framework::{Access, Config, NatsOptions, Token};
use serde_json::json;

use super::nats_server::NatsServer;
use super::{joined_with, next_heard, refused, until_heard, until_served, within_a_moment};
use crate::support::{Peer, TestServer, code, serve};

/// Starts a server whose applications have these tokens.
fn guarded(nats: &NatsServer, tokens: &[(&str, &str)]) -> TestServer {
    let mut access = Access::default();
    for (application, token) in tokens {
        access.applications.insert((*application).to_owned(), Token::new(*token));
    }
    serve(Config::default().access(access), |server| {
        server.join_nats(&NatsOptions::new([nats.url()])).unwrap();
    })
}

/// Connects with a token.
fn known(server: &TestServer, app: &str, id: &str, token: &str) -> Peer {
    let mut peer = server.peer().called(app, id);
    let answer = peer.introduce(Some(token)).unwrap();
    assert_eq!(answer["payload"]["status"], "connected", "{answer}");
    peer
}

fn answering(mut worker: Peer) {
    std::thread::spawn(move || {
        while let Ok(task) = worker.try_receive() {
            worker.answer(&task, "done");
        }
    });
}

#[test]
fn a_token_of_one_application_opens_no_other_one_at_either_server() {
    let nats = NatsServer::start();
    let tokens = [("shop", "of the shop"), ("bank", "of the bank")];
    let (here, there) = (guarded(&nats, &tokens), guarded(&nats, &tokens));
    answering(known(&there, "bank", "worker", "of the bank").serving("pay"));
    answering(known(&there, "shop", "worker", "of the shop").serving("buy"));
    let mut vault = known(&there, "bank", "vault", "of the bank").subscribed("news");
    let mut banker = known(&here, "bank", "banker", "of the bank");
    let mut buyer = known(&here, "shop", "buyer", "of the shop");
    // The links need no token, and both applications are joined.
    assert_eq!(until_served(&mut banker, "pay", &json!(1)), "done");
    assert_eq!(until_served(&mut buyer, "buy", &json!(1)), "done");
    until_heard(&mut banker, "news", &vault);

    for server in [&here, &there] {
        for token in [Some("of the shop"), Some(""), None] {
            let mut thief = server.peer().called("bank", "thief");
            assert_eq!(code(&thief.introduce(token).unwrap()), "auth_failed");
        }
        // Nor is a link's name a way in.
        let mut thief = server.peer().called("bank", "$link/bus");
        assert_ne!(thief.introduce(None).unwrap()["payload"]["status"], "connected");
    }
    assert_eq!(refused(&mut buyer, "pay"), "no_handler");
    buyer.send("publish", "news", json!("of the shop"));
    buyer.send("notification", "pay", json!("of the shop"));
    // The application in a message is that of its connection, or the message is refused.
    let mut forged = buyer.message("publish", "news", &json!("forged"));
    forged["app_id"] = json!("bank");
    buyer.send_message(&forged);
    let mut forged = buyer.message("request", "pay", &json!("forged"));
    forged["app_id"] = json!("bank");
    let id = forged["message_id"].as_str().unwrap().to_owned();
    buyer.send_message(&forged);
    loop {
        let answer = buyer.receive();
        assert_ne!(answer["payload"], "done", "{answer}");
        if answer["reply_to"] == id.as_str() {
            break;
        }
    }
    banker.send("publish", "news", json!("of the bank"));
    assert_eq!(next_heard(&mut vault), "of the bank");
    // What another server's clients may see of the shop is of the shop.
    let list = buyer.request("system", json!({"action": "list_services"}));
    assert!(!list.to_string().contains("pay"), "{list}");
}

/// Each server has a list of its own, and what one of them keeps for itself stays there.
#[test]
fn what_one_server_does_not_share_is_not_shared_whatever_the_other_one_does() {
    let nats = NatsServer::start();
    let of = |channels: &[&str]| {
        let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
        joined_with(&NatsOptions::new([nats.url()]).channels(channels), |_| ())
    };
    let (open, closed) = (of(&[">"]), of(&["public.>"]));
    for (here, there, private) in [(&open, &closed, "private-1"), (&closed, &open, "private-2")] {
        for channel in [private, "public.work"] {
            answering(there.connected("app", channel).serving(channel));
        }
        let subscriber = there.connected("app", "hears").subscribed(private);
        let mut subscriber = subscriber.subscribed("public.news");
        let pattern = json!({"connection_id": "all", "ack": true, "pattern": true});
        let mut all = there.peer().called("app", "all").asking_for(&["topic"]);
        all.send("subscribe", ">", pattern);
        assert_eq!(all.receive_extended()["payload"]["status"], "subscribed");
        let mut asks = here.connected("app", "asks");
        assert_eq!(until_served(&mut asks, "public.work", &json!(1)), "done");
        until_heard(&mut asks, "public.news", &subscriber);
        asks.send("publish", private, json!("private"));
        assert_eq!(refused(&mut asks, private), "no_handler");
        asks.send("publish", "public.news", json!("end"));
        assert_eq!(next_heard(&mut subscriber), "end");
        loop {
            let heard = all.receive_extended();
            assert_ne!(heard["payload"], "private", "{heard}");
            if heard["payload"] == "end" {
                break;
            }
        }
    }
    // The one that shares all has announced it, and the other one does not ask there.
    let mut only = open.connected("app", "only").serving("private.of open");
    let mut only_closed = closed.connected("app", "only").serving("private.of closed");
    for (asks, channel) in [(&closed, "private.of open"), (&open, "private.of closed")] {
        let mut asks = asks.connected("app", "asks for it");
        // What was served later is known by now.
        let mark = format!("public.mark {channel}");
        let of_channel = if channel.ends_with("open") { &open } else { &closed };
        answering(of_channel.connected("app", &mark).serving(&mark));
        assert_eq!(until_served(&mut asks, &mark, &json!(1)), "done");
        assert_eq!(refused(&mut asks, channel), "no_handler");
    }
    for worker in [&mut only, &mut only_closed] {
        assert!(within_a_moment(worker).is_none());
    }
}
