#[cfg(feature = "net")]
use std::sync::Arc;

use super::envelope::Envelope;
use super::json::Json;
use super::message_type::MessageType;
use super::position::Position;
use super::publication::Publication;

/// A message that owns its parts.
///
/// ```
/// use ipc_framework::{Json, Message, MessageType};
///
/// let question = Message::new(MessageType::Request, "math", "square", Json::parse("3").unwrap());
/// let answer = question.create_response(Json::parse("9").unwrap());
/// assert_eq!(answer.message_type, MessageType::Response);
/// assert_eq!(answer.reply_to.as_deref(), Some(""));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Unique per message. If it is empty, the sender fills in a fresh id.
    pub message_id: String,
    /// The application.
    pub app_id: String,
    /// The channel inside the application.
    pub channel_id: String,
    /// The kind of message.
    pub message_type: MessageType,
    /// Any JSON value.
    pub payload: Json<'static>,
    /// Seconds since the Unix epoch. If it is zero, the sender fills in its time.
    pub timestamp: f64,
    /// The `message_id` that a response answers.
    pub reply_to: Option<String>,
    /// The server's words about a publication, for those that a client received with any. Nobody sends
    /// them back.
    pub publication: Option<Box<Publication>>,
}

impl Message {
    /// A message without id and time, which are filled in when it is sent.
    pub fn new(
        message_type: MessageType,
        app_id: impl Into<String>,
        channel_id: impl Into<String>,
        payload: Json<'static>,
    ) -> Self {
        Self {
            message_id: String::new(),
            app_id: app_id.into(),
            channel_id: channel_id.into(),
            message_type,
            payload,
            timestamp: 0.0,
            reply_to: None,
            publication: None,
        }
    }

    /// Returns the place of a received publication in its channel's history, if that has one.
    pub fn position(&self) -> Option<&Position> {
        self.publication.as_ref()?.position.as_ref()
    }

    /// Returns whether a received publication was to be kept as the last value of its channel.
    pub fn is_retained(&self) -> bool {
        self.publication.as_ref().is_some_and(|publication| publication.is_retained)
    }

    /// The bytes of the payload, attachments included.
    #[cfg(feature = "net")]
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload.bytes()
    }

    /// The answer to this message.
    pub fn create_response(&self, payload: Json<'static>) -> Self {
        Self {
            reply_to: Some(self.message_id.clone()),
            ..Self::new(
                MessageType::Response,
                self.app_id.clone(),
                self.channel_id.clone(),
                payload,
            )
        }
    }
}

impl From<&Envelope<'_>> for Message {
    fn from(envelope: &Envelope<'_>) -> Self {
        Self::of(envelope, envelope.payload().into_owned())
    }
}

impl Message {
    /// The message whose frame lies in this memory, with which it shares its attachments.
    #[cfg(feature = "net")]
    pub(crate) fn sharing(envelope: &Envelope<'_>, memory: &Arc<Vec<u8>>) -> Self {
        Self::of(envelope, envelope.payload().sharing(memory))
    }

    fn of(envelope: &Envelope<'_>, payload: Json<'static>) -> Self {
        Self {
            message_id: envelope.message_id().decode().into_owned(),
            app_id: envelope.app_id().decode().into_owned(),
            channel_id: envelope.channel_id().decode().into_owned(),
            message_type: envelope.message_type(),
            payload,
            timestamp: envelope.timestamp(),
            reply_to: envelope.reply_to().map(|id| id.decode().into_owned()),
            publication: None,
        }
    }
}
