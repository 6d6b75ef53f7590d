//! Input that no server should get. Other connections must not notice it.

mod fields;
mod frames;
mod handshake;
mod histories;
mod patterns;
mod pressure;
mod requests;
mod stream;

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{Peer, TestServer, serve_echo};

/// A publisher, a subscriber and a requester that must not notice anything.
pub(crate) struct Bystanders {
    publisher: Peer,
    subscriber: Peer,
    requester: Peer,
    round: u64,
}

/// Connects a peer of the application `app` with the extension `topic`.
fn topical(server: &TestServer, id: &str) -> Peer {
    server.peer().called("app", id).asking_for(&["topic"])
}

impl Peer {
    /// Subscribes or unsubscribes, and returns the answer's payload.
    fn ask(&mut self, message_type: &str, channel: &str, mut payload: Value) -> Value {
        payload["ack"] = json!(true);
        let id = self.send(message_type, channel, payload);
        let answer = self.receive_extended();
        assert_eq!(answer["reply_to"], id.as_str(), "{answer}");
        answer["payload"].clone()
    }

    /// Publishes with this `meta`, and returns the message.
    fn publish_with(&mut self, channel: &str, payload: &Value, meta: Value) -> Value {
        let mut publication = self.message("publish", channel, payload);
        publication["meta"] = meta;
        self.send_message(&publication);
        publication
    }

    /// Publishes, waits until that is done, and returns its place.
    fn publish_acknowledged(&mut self, channel: &str, payload: &Value) -> Value {
        let publication = self.publish_with(channel, payload, json!({"ack": true}));
        let answer = self.receive_extended();
        assert_eq!(answer["reply_to"], publication["message_id"], "{answer}");
        assert_eq!(answer["payload"]["status"], "published", "{answer}");
        answer["payload"].clone()
    }
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
