//! Several servers over NATS, each with real NATS servers.

mod access;
mod calls;
mod cuts;
mod deaths;
mod example;
mod foreign;
mod identities;
mod limits;
mod moving;
mod nats_server;
mod proxy;
mod publications;
mod requests;
mod secured;
mod settings;
mod stranger;
mod topology;
mod trouble;
mod watched;

use std::time::Duration;

use ipc_framework::{Config, NatsOptions, Server};
use serde_json::{Value, json};

use self::nats_server::NatsServer;
use crate::support::{HANG, Peer, TestServer, code, eventually, serve};

/// Starts a server that joins others by this NATS server.
fn joined(nats: &NatsServer) -> TestServer {
    joined_with(&NatsOptions::new([nats.url()]), |_| ())
}

/// Starts a server that joins others with these options.
fn joined_with(options: &NatsOptions, set_up: impl FnOnce(&mut Server)) -> TestServer {
    serve(Config::default(), |server| {
        set_up(server);
        server.join_nats(options).expect("sound options");
    })
}

/// What is published until a subscriber of another server hears it. The subscription has to get there first.
const TRIAL: &str = "can you hear me";

/// Publishes until `subscriber` has heard it, and so hears all that comes after it.
fn until_heard(publishes: &mut Peer, channel: &str, subscriber: &Peer) {
    eventually("a publication on the other server", || {
        publishes.send("publish", channel, json!(TRIAL));
        within_a_moment(subscriber)
    });
}

/// Publishes an end until `subscriber` has heard it, since one may be lost where connections to NATS come and go.
/// Returns what it heard before, without trials.
fn heard_until_end(publishes: &mut Peer, channel: &str, subscriber: &Peer) -> Vec<Value> {
    let mut heard = Vec::new();
    eventually("the end", || {
        publishes.send("publish", channel, json!("end"));
        while let Some(next) = within_a_moment(subscriber) {
            assert_eq!(next["message_type"], "publish", "{next}");
            match next["payload"].as_str() {
                Some("end") => return Some(()),
                Some(TRIAL) => {}
                _ => heard.push(next["payload"].clone()),
            }
        }
        None
    });
    heard
}

/// Returns the payload of the next publication that is no trial.
fn next_heard(subscriber: &mut Peer) -> Value {
    loop {
        let heard = subscriber.receive();
        assert_eq!(heard["message_type"], "publish", "{heard}");
        if heard["payload"] != TRIAL {
            return heard["payload"].clone();
        }
    }
}

/// Asks until somebody serves the channel, and returns the first answer.
fn until_served(asks: &mut Peer, channel: &str, payload: &Value) -> Value {
    eventually("a worker on the other server", || {
        let answer = asks.request(channel, payload.clone());
        (answer["code"] != "no_handler").then_some(answer)
    })
}

/// Asks until a worker has the task, which it does not answer. Returns the request's id.
fn until_taken(asks: &mut Peer, channel: &str, worker: &Peer) -> String {
    let mut asked = None;
    eventually("a task at the other server's worker", || {
        let id = asked.get_or_insert_with(|| asks.send("request", channel, json!(1))).clone();
        // Either the worker gets the task, or the requester a refusal.
        if within_a_moment(worker).is_some() {
            return Some(id);
        }
        if let Some(answer) = within_a_moment(asks) {
            assert_eq!(code(&answer), "no_handler", "{answer}");
            asked = None;
        }
        None
    })
}

/// Returns the next frame if one has begun to come.
fn within_a_moment(peer: &Peer) -> Option<Value> {
    let mut reader = peer.reader();
    peer.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let begun = peer.stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    peer.stream.set_read_timeout(Some(HANG)).unwrap();
    begun.then(|| reader.receive())
}

/// Asks, and returns the code of the refusal.
fn refused(asks: &mut Peer, channel: &str) -> String {
    let id = asks.send("request", channel, json!(1));
    let answer = asks.receive();
    assert_eq!(answer["reply_to"], id.as_str(), "{answer}");
    code(&answer).to_owned()
}
