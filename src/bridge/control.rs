//! What the bridge says to its own server over its links.

use std::time::Duration;

use serde::Serialize;

use super::standing::Standing;
use crate::proto::system::{Cancel, CancelReason, Connect, SYSTEM, Serve, Subscribe};
use crate::proto::{Encoder, Envelope, ErrorCode, Extensions, Json, Message, MessageType, members};

/// Ids of connections that begin like this are links, and no client may have one.
const LINK: &str = "$link/";

/// What only a link says: it serves a channel on behalf of so many workers, which have so many requests that
/// did not come over this link.
#[derive(Serialize)]
struct ServeFor<'a> {
    action: &'static str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    workers: u32,
    in_flight: u32,
}

/// Writes the frames of links.
#[derive(Debug)]
pub(crate) struct Control {
    encoder: Encoder,
    messages: u64,
}

impl Control {
    /// A writer for the links of the server with this id.
    pub(crate) fn new(id: [u8; 16]) -> Self {
        let random = id.first_chunk().copied().unwrap_or_default();
        Self { encoder: Encoder::new(random, usize::MAX), messages: 0 }
    }

    /// The first frame of a link.
    pub(crate) fn connect(&mut self, application: &str, name: &str) -> Vec<u8> {
        let extensions = Extensions::CALL.or(Extensions::BINARY).or(Extensions::TOPIC);
        let id = format!("{LINK}{name}");
        let connect = Connect::new(&id, None).extensions(extensions);
        self.frame(MessageType::Request, application, SYSTEM, &connect)
    }

    /// Subscribes a bus link to a pattern.
    pub(crate) fn subscribe(&mut self, application: &str, name: &str, pattern: &str) -> Vec<u8> {
        let id = format!("{LINK}{name}");
        let subscribe = Subscribe::new(&id, true).pattern(true);
        self.frame(MessageType::Subscribe, application, pattern, &subscribe)
    }

    /// Makes a server link a worker of a channel, or says anew how busy the workers of the other server are.
    /// What the own server refuses comes back as an error; otherwise nothing does.
    pub(crate) fn serve(
        &mut self,
        application: &str,
        channel: &str,
        standing: &Standing,
    ) -> Vec<u8> {
        let serve = ServeFor {
            action: "serve",
            channel,
            concurrency: standing.concurrency(),
            workers: standing.workers,
            in_flight: standing.in_flight,
        };
        self.frame(MessageType::Notification, application, SYSTEM, &serve)
    }

    /// Ends that.
    pub(crate) fn stop_serving(&mut self, application: &str, channel: &str) -> Vec<u8> {
        self.frame(MessageType::Notification, application, SYSTEM, &Serve::stop(channel))
    }

    /// The answer to the message `asked`, on the channel and in the application of this one, that a frame is
    /// too large.
    pub(crate) fn too_large(&mut self, of: &Envelope<'_>, asked: &str, text: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Failed<'a> {
            status: &'static str,
            code: &'static str,
            error: &'a str,
        }
        let code = ErrorCode::FrameTooLarge.as_str();
        let failed = Failed { status: "error", code, error: text };
        let (application, channel) = (of.app_id().decode(), of.channel_id().decode());
        let asked = Some(asked.to_owned());
        self.framed(MessageType::Response, (&application, &channel), &failed, asked)
    }

    /// Ends a request on behalf of its requester.
    pub(crate) fn cancel(&mut self, application: &str, id: &str, why: CancelReason) -> Vec<u8> {
        let cancel = Cancel::new(id).reason(why);
        self.frame(MessageType::Notification, application, SYSTEM, &cancel)
    }

    fn frame(
        &mut self,
        message_type: MessageType,
        application: &str,
        channel: &str,
        payload: &impl Serialize,
    ) -> Vec<u8> {
        self.framed(message_type, (application, channel), payload, None)
    }

    fn framed(
        &mut self,
        message_type: MessageType,
        (application, channel): (&str, &str),
        payload: &impl Serialize,
        reply_to: Option<String>,
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        // Strings and booleans always are JSON, and the ids come from a server that has them.
        let payload = Json::from_serialize(payload).unwrap_or_else(|_| Json::null());
        let mut message = Message::new(message_type, application, channel, payload);
        self.messages += 1;
        message.message_id = format!("{LINK}{}", self.messages);
        message.reply_to = reply_to;
        let encoded = self.encoder.encode(&message, Duration::ZERO, &mut frame);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        frame
    }
}

/// Returns whether an error answers what the link itself asked for, so that the link does not do its work.
/// A server that drains takes nothing new, but its links have what is in flight.
pub(crate) fn is_own_failure(envelope: &Envelope<'_>) -> bool {
    let code = members(envelope.payload_str(), ["code"]).and_then(|[code]| code.string());
    let is_end = code.is_some_and(|code| code.matches(ErrorCode::ShuttingDown.as_str()));
    !is_end && envelope.reply_to().is_some_and(|id| id.decode().starts_with(LINK))
}

/// Returns whether the payload of a response is an error.
pub(crate) fn is_error(payload: &str) -> bool {
    let status = members(payload, ["status"]).and_then(|[status]| status.string());
    status.is_some_and(|status| status.matches("error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_introduces_itself_and_asks_for_what_it_needs() {
        let mut control = Control::new([1; 16]);
        for (frame, channel, payload) in [
            (
                control.connect("shop", "bus"),
                "system",
                r#"{"action":"connect","connection_id":"$link/bus","extensions":["call","binary","topic"]}"#,
            ),
            (
                control.subscribe("shop", "bus", "a.>"),
                "a.>",
                r#"{"connection_id":"$link/bus","ack":true,"pattern":true}"#,
            ),
            (
                control.serve("shop", "sum", &Standing::default()),
                "system",
                r#"{"action":"serve","channel":"sum","workers":1,"in_flight":0}"#,
            ),
            (
                control.serve("shop", "sum", &Standing { workers: 4, in_flight: 2, room: Some(3) }),
                "system",
                r#"{"action":"serve","channel":"sum","concurrency":7,"workers":4,"in_flight":2}"#,
            ),
            (
                control.stop_serving("shop", "sum"),
                "system",
                r#"{"action":"stop_serving","channel":"sum"}"#,
            ),
        ] {
            let envelope = Envelope::parse(&frame[4..]).unwrap();
            assert!(envelope.app_id().matches("shop") && envelope.channel_id().matches(channel));
            assert_eq!(envelope.payload_str(), payload);
        }
    }
}
