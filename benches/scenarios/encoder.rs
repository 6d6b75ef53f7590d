//! Messages in the server's own name.

use ipc_framework::{Json, Message, MessageType};

use super::memory::Memory;
use super::messages::{framed, small};
use super::{Scenario, Work};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("encoder/message_to_nobody", Work::Frames(1), || {
            let mut memory = Memory::new();
            let payload = Json::parse(r#"{"n":1,"text":"hello"}"#).expect("it is JSON");
            let message = Message::new(MessageType::Notification, "app", "news", payload);
            // The application has no connections, so that the message is encoded and not sent.
            move || {
                let reached = memory.broker.context().broadcast_to_application("none", &message);
                assert_eq!(reached.unwrap(), 0);
            }
        }),
        Scenario::new("encoder/error_answer", Work::Frames(2), || {
            let mut memory = Memory::new();
            let peer = memory.connected("peer");
            let request = framed(&small("request", "nobody"));
            move || assert_ne!(memory.turn(peer, &request), 0, "nobody serves the channel")
        }),
    ]
}
