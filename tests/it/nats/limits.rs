//! Servers with different limits for a frame.

use ipc_framework::{Config, Limits, NatsOptions, Server};
use serde_json::{Value, json};

use super::nats_server::NatsServer;
use super::until_served;
use crate::support::{HANG, Peer, TestServer, eventually, install_later, serve};

const SMALL: usize = 65_536;

fn config(frame_bytes_max: usize) -> Config {
    Config::default().port(0).limits(Limits::default().frame_bytes_max(frame_bytes_max))
}

/// Starts a server that answers on a channel with a text of as many characters as it is asked for, or as the
/// text has that it is asked with.
fn answering(
    nats: &NatsServer,
    channel: &str,
    frame_bytes_max: usize,
    set_up: impl FnOnce(&mut Server),
) -> TestServer {
    serve(config(frame_bytes_max), |server| {
        set_up(server);
        server.application("app", "The App").channel(channel).on_request(|request| {
            let asked: Value = request.payload()?;
            match asked.as_u64() {
                Some(length) => request.reply(&"x".repeat(length as usize)),
                None => request.reply(&asked.as_str().map_or(0, str::len)),
            }
        });
        server.join_nats(&NatsOptions::new([nats.url()])).expect("sound options");
    })
}

fn expect_too_large(answer: &Value) {
    assert_eq!(answer["code"], "frame_too_large", "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("65536"), "{answer}");
}

#[test]
fn what_is_over_the_limit_of_the_other_server_is_told_and_harms_nothing_else() {
    let nats = NatsServer::start();
    let here = answering(&nats, "here", 16 << 20, |_| ());
    let mut later = None;
    let there = answering(&nats, "there", SMALL, |server| later = Some(install_later(server)));
    let later = later.expect("it is set up");
    let [mut asks, mut back] = [here.connected("app", "a"), there.connected("app", "b")];
    until_served(&mut asks, "there", &json!(0));
    until_served(&mut back, "here", &json!(0));
    let slow = asks.send("request", "later", json!("slow"));
    let responder = later.recv_timeout(HANG).expect("the request");
    let large = json!("x".repeat(SMALL));
    expect_too_large(&asks.request("there", large.clone()));
    expect_too_large(&back.request("here", json!(SMALL)));
    assert_eq!(asks.request("there", json!("small")), 5);
    assert_eq!(back.request("here", json!(3)), "xxx");
    // What was in flight meanwhile is answered.
    responder.reply(&"done").expect("the server runs");
    asks.expect_answer(&slow, "done");
    // A reload is told at once, in both directions.
    there.handle.reload(&config(4 * SMALL)).unwrap();
    eventually("the raised limit", || {
        let answer = asks.request("there", large.clone());
        (answer == SMALL).then_some(())
    });
    assert_eq!(back.request("here", json!(SMALL)), large);
    there.handle.reload(&config(SMALL)).unwrap();
    let too_large = |asks: &mut Peer, channel: &str, payload: &Value| {
        eventually("the lowered limit", || {
            let answer = asks.request(channel, payload.clone());
            (answer["code"] == "frame_too_large").then_some(answer)
        })
    };
    expect_too_large(&too_large(&mut asks, "there", &large));
    expect_too_large(&too_large(&mut back, "here", &json!(SMALL)));
    for server in [&here, &there] {
        let nats = server.stats().nats.expect("it has joined");
        assert_eq!((nats.broken_tunnels, nats.refused), (0, 0), "{nats:?}");
    }
}
