//! The examples do what they say. Each is compiled in here, so that each is run and not only built.

use std::net::{Ipv4Addr, SocketAddr};

use ipc_framework::{Config, Handle, Server};
use serde_json::json;

use crate::support::Peer;

#[path = "../../examples/outer_loop.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod outer_loop;

/// Runs an example's server on a thread of its own while `use_it` talks to it, and then stops it.
fn with_server(
    run: impl FnOnce(Server) + Send + 'static,
    use_it: impl FnOnce(SocketAddr, &Handle),
) {
    let server = Server::bind(Config { port: 0, ..Config::default() }).unwrap();
    let port = server.addresses()[0].port().expect("TCP comes first");
    let handle = server.handle();
    let running = std::thread::spawn(move || run(server));
    use_it((Ipv4Addr::LOCALHOST, port).into(), &handle);
    handle.stop();
    running.join().unwrap();
}

fn connected(address: SocketAddr, app_id: &str) -> Peer {
    let mut peer = Peer::new(address);
    peer.connect(app_id, "peer");
    peer
}

#[test]
fn outer_loop_answers_and_ticks() {
    with_server(
        |server| outer_loop::run(server).unwrap(),
        |address, _| {
            let mut peer = connected(address, "clock");
            assert_eq!(peer.request("ask", json!(null)), 0);
            peer.subscribe("ticks");
            let first = peer.receive()["payload"].as_u64().unwrap();
            assert_eq!(peer.receive()["payload"], first + 1);
        },
    );
}
