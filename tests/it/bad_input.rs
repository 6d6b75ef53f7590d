//! What no server should be sent, while others go on as if it had not been.

mod fields;
mod frames;
mod handshake;
mod pressure;
mod requests;
mod stream;

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
    /// A server with an echo, and those who live there.
    pub(crate) fn of_echo() -> (TestServer, Self) {
        let server = serve_echo();
        let bystanders = Self::of(&server);
        (server, bystanders)
    }

    /// They live in the application `app` and need its `echo`.
    pub(crate) fn of(server: &TestServer) -> Self {
        let publisher = server.connected("app", "publisher");
        let subscriber = server.connected("app", "subscriber").subscribed("calm");
        let requester = server.connected("app", "requester");
        Self { publisher, subscriber, requester, round: 0 }
    }

    /// They get what is theirs, in order, and nothing else.
    pub(crate) fn go_on(&mut self) {
        self.round += 1;
        let round = json!(self.round);
        self.publisher.send("publish", "calm", round.clone());
        self.publisher.fence();
        assert_eq!(self.subscriber.receive()["payload"], round);
        self.subscriber.fence();
        assert_eq!(self.requester.request("echo", round.clone()), round);
    }
}
