//! What each peer should be sent after a call.

use serde_json::{Value, json};

use crate::broker::fuzzing::attached::Form;
use crate::broker::fuzzing::script::PEERS;

/// A message that a peer should be sent.
#[derive(Debug)]
pub(super) enum Expected {
    Payload {
        message_type: &'static str,
        reply_to: Value,
        payload: Value,
    },
    /// An answer of any content that the model does not know.
    Answer {
        reply_to: Value,
    },
    Error {
        codes: Vec<&'static str>,
        reply_to: Value,
    },
    /// A response of a worker, which may be a part of a stream.
    Form {
        reply_to: Value,
        form: Form,
    },
}

impl Expected {
    pub(super) fn answer(reply_to: &str, payload: Value) -> Self {
        Self::Payload { message_type: "response", reply_to: json!(reply_to), payload }
    }

    pub(super) fn error(code: &'static str, reply_to: &str) -> Self {
        let reply_to = if reply_to.is_empty() { Value::Null } else { json!(reply_to) };
        Self::Error { codes: vec![code], reply_to }
    }

    pub(super) fn is(&self, message: &Value) -> bool {
        let is_answer_to = |reply_to: &Value| {
            message["message_type"] == "response" && message["reply_to"] == *reply_to
        };
        match self {
            Self::Payload { message_type, reply_to, payload } => {
                message["message_type"] == *message_type
                    && message["reply_to"] == *reply_to
                    && message["payload"] == *payload
            }
            Self::Answer { reply_to } => is_answer_to(reply_to),
            Self::Form { reply_to, form } => {
                is_answer_to(reply_to) && Form::found(message) == *form
            }
            Self::Error { codes, reply_to } => {
                let code = message["payload"]["code"].as_str();
                is_answer_to(reply_to) && code.is_some_and(|code| codes.contains(&code))
            }
        }
    }
}

/// The messages that each peer should be sent after a call.
#[derive(Default)]
pub(super) struct Expectations(pub(super) [Vec<Expected>; PEERS]);

impl Expectations {
    pub(super) fn add(&mut self, to: usize, expected: Expected) {
        self.0[to].push(expected);
    }
}
