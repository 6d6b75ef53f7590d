//! Input that no server should get. Other connections must not notice it.

mod fields;
mod frames;
mod handshake;
mod pressure;
mod requests;
mod stream;

use std::io::Write;

use serde_json::json;

use crate::support::{Peer, TestServer, serve_echo};

/// A publisher, a subscriber and a requester that must not notice anything.
pub(crate) struct Bystanders {
    publisher: Peer,
    subscriber: Peer,
    requester: Peer,
    round: u64,
}

impl Bystanders {
    /// Starts a server with an echo, and connects the bystanders.
    pub(crate) fn of_echo() -> (TestServer, Self) {
        let server = serve_echo();
        let bystanders = Self::of(&server);
        (server, bystanders)
    }

    /// Connects them to the application `app`, whose channel `echo` they use.
    pub(crate) fn of(server: &TestServer) -> Self {
        let publisher = server.connected("app", "publisher");
        let subscriber = server.connected("app", "subscriber").subscribed("calm");
        let requester = server.connected("app", "requester");
        Self { publisher, subscriber, requester, round: 0 }
    }

    /// Checks that each gets its own messages, in order, and nothing else.
    pub(crate) fn go_on(&mut self) {
        self.round += 1;
        let round = json!(self.round);
        self.publisher.send("publish", "calm", round.clone());
        self.publisher.fence();
        assert_eq!(self.subscriber.receive()["payload"], round);
        self.subscriber.fence();
        assert_eq!(self.requester.request("echo", round.clone()), round);
    }

    /// Writes `bytes` again and again until the server closes the peer, while these go on. Returns
    /// the most that the server held in its buffers meanwhile.
    fn peak_of_a_flood(&mut self, server: &TestServer, peer: &Peer, bytes: Vec<u8>) -> usize {
        let mut stream = peer.stream.try_clone().unwrap();
        let flood = std::thread::spawn(move || while stream.write_all(&bytes).is_ok() {});
        let mut peak_bytes = 0;
        while !flood.is_finished() {
            peak_bytes = peak_bytes.max(server.stats().buffered_bytes);
            self.go_on();
        }
        flood.join().unwrap();
        peak_bytes
    }
}
