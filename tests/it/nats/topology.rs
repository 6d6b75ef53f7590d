//! A cluster of NATS servers, and a leaf.

use std::sync::atomic::{AtomicU32, Ordering};

use ipc_framework::NatsOptions;
use serde_json::json;

use super::nats_server::{NatsServer, Version};
use super::{joined, joined_with, next_heard, until_heard, until_served};
use crate::support::{TestServer, reserved_port};

/// Checks that clients of both reach each other.
pub(super) fn reach_each_other(one: &TestServer, other: &TestServer) {
    // Each round has a channel of its own, so that the worker of an earlier one is none of this.
    static ROUND: AtomicU32 = AtomicU32::new(0);
    for (here, there) in [(one, other), (other, one)] {
        let work = format!("work-{}", ROUND.fetch_add(1, Ordering::Relaxed));
        let mut subscriber = there.connected("app", "subscriber").subscribed("news");
        let mut worker = there.connected("app", "worker").serving(&work);
        let answering = std::thread::spawn(move || {
            let task = worker.receive();
            worker.answer(&task, "done");
        });
        let mut publishes = here.connected("app", "publishes");
        until_heard(&mut publishes, "news", &subscriber);
        for number in 0..20 {
            publishes.send("publish", "news", json!(number));
        }
        for number in 0..20 {
            assert_eq!(next_heard(&mut subscriber), json!(number));
        }
        assert_eq!(until_served(&mut publishes, &work, &json!(1)), "done");
        answering.join().unwrap();
    }
}

#[test]
fn servers_at_different_nodes_of_a_cluster_reach_each_other_and_outlive_one() {
    let ports = [reserved_port(), reserved_port(), reserved_port()];
    let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let routes = routes.join(", ");
    let mut nodes = ports.map(|port| {
        let cluster = format!(
            "cluster {{ name: \"test\", listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n"
        );
        NatsServer::start_with(Version::Newest, &cluster)
    });
    let urls = nodes.each_ref().map(NatsServer::url);
    // The first address of each is another one, and all know all.
    let rotated = [[0, 1, 2], [1, 2, 0], [2, 0, 1]];
    let servers = rotated
        .map(|order| joined_with(&NatsOptions::new(order.map(|at| urls[at].clone())), |_| ()));
    reach_each_other(&servers[0], &servers[1]);
    reach_each_other(&servers[1], &servers[2]);
    nodes[0].kill();
    reach_each_other(&servers[0], &servers[1]);
    reach_each_other(&servers[0], &servers[2]);
}

#[test]
fn a_server_at_a_leaf_reaches_one_at_the_hub() {
    let port = reserved_port();
    let hub = NatsServer::start_with(
        Version::Newest,
        &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}\n"),
    );
    let remotes = format!("leafnodes {{ remotes: [ {{ url: \"nats://127.0.0.1:{port}\" }} ] }}\n");
    let leaf = NatsServer::start_with(Version::Debian, &remotes);
    reach_each_other(&joined(&hub), &joined(&leaf));
}
