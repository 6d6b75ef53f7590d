//! A client that knows two joined servers moves from the one to the other, and stays reachable for the clients of
//! a third one.

use ipc_framework::client::{Endpoint, Event, SubscribeOptions};
use serde_json::json;

use super::nats_server::NatsServer;
use super::{TRIAL, joined};
use crate::cli::{Running, serve};
use crate::client::many_threads::value;
use crate::client::scripted::{patient, picked};
use crate::scratch::Scratch;
use crate::support::{HANG, eventually, reserved_port};

fn joined_at(port: u16, nats: &NatsServer, settings: &str) -> Running {
    let port = port.to_string();
    Running::start(serve(&["--port", &port, "--nats", &nats.url(), "--config", settings]))
}

#[test]
fn a_client_moves_between_joined_servers_with_all_that_it_has() {
    let nats = NatsServer::start();
    let ports = [reserved_port(), reserved_port()];
    let scratch = Scratch::new("nats-moving");
    let settings = "[[history]]\napp = \"app\"\nchannel = \"kept\"\nmessages = 100\n";
    let settings = scratch.file("ipc.toml", 0o600, settings);
    let mut servers = ports.map(|port| joined_at(port, &nats, &settings));
    let third = joined(&nats);
    let mut asks = third.connected("app", "asks");
    let mut options = patient("app", Endpoint::tcp("127.0.0.1", ports[0]));
    options.connection.alternatives = vec![Endpoint::tcp("127.0.0.1", ports[1])];
    let client = options.connect().unwrap();
    let (moves, gaps) = (
        picked(&client, |event| match event {
            Event::Connected { endpoint, .. } => Some(endpoint.clone()),
            _ => None,
        }),
        picked(&client, |event| matches!(event, Event::Gap { .. }).then_some(())),
    );
    let news = client.subscribe("news").unwrap();
    let kept = client.subscribe_with("kept", &SubscribeOptions::default().last(1)).unwrap();
    client.serve("mine", 1, |request| Ok(value(request))).unwrap();
    for round in 0..3_usize {
        eventually("an answer of the client", || {
            let answer = asks.request("mine", json!(round));
            match answer.get("code") {
                None => {
                    assert_eq!(answer, round);
                    Some(())
                }
                Some(code) => {
                    assert!(["no_handler", "worker_lost"].contains(&code.as_str().unwrap()));
                    None
                }
            }
        });
        for (channel, subscription) in [("news", &news), ("kept", &kept)] {
            eventually("a publication for the client", || {
                asks.send("publish", channel, json!(TRIAL));
                subscription.next_timeout(std::time::Duration::from_millis(10))
            });
            asks.send("publish", channel, json!(round));
            while value(&subscription.next_timeout(HANG).unwrap()) != round {}
        }
        if round == 2 {
            break;
        }
        // The first time it dies, the second time it drains.
        let at = round % 2;
        let next = (round + 1) % 2;
        servers[at].signal(["KILL", "TERM"][round]);
        assert_eq!(moves.recv_timeout(HANG).unwrap(), Endpoint::tcp("127.0.0.1", ports[next]));
        // What the one has kept is not what the other one has.
        gaps.recv_timeout(HANG).unwrap();
        servers[at] = joined_at(ports[at], &nats, &settings);
    }
    client.close().unwrap();
}
