use std::fmt;

use serde::{Deserialize, Serialize};

use super::json_str::JsonStr;

/// The type of a message: the reaction that it asks for.
///
/// ```
/// use ipc_framework::MessageType;
///
/// assert_eq!(MessageType::Publish.as_str(), "publish");
/// assert_eq!(MessageType::ALL.len(), 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// The channel's request handler is called, and may answer.
    Request,
    /// Answers a request.
    Response,
    /// The channel's notification handler is called; nothing is answered.
    Notification,
    /// The connection becomes a subscriber of the channel.
    Subscribe,
    /// The connection is no longer a subscriber of the channel.
    Unsubscribe,
    /// Goes to every subscriber of the channel.
    Publish,
}

impl MessageType {
    /// Every type, in the order of the protocol's table.
    pub const ALL: [Self; 6] = [
        Self::Request,
        Self::Response,
        Self::Notification,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Publish,
    ];

    /// The type as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Notification => "notification",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Publish => "publish",
        }
    }

    /// The type that the text of the field names, if it names one.
    #[inline]
    pub(super) fn from_wire(text: JsonStr<'_>) -> Option<Self> {
        if text.is_escaped() {
            return Self::ALL.into_iter().find(|message_type| text.matches(message_type.as_str()));
        }
        Some(match text.raw().as_bytes() {
            b"request" => Self::Request,
            b"response" => Self::Response,
            b"notification" => Self::Notification,
            b"subscribe" => Self::Subscribe,
            b"unsubscribe" => Self::Unsubscribe,
            b"publish" => Self::Publish,
            _ => return None,
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
