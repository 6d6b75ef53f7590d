//! The way to answer a request after the loop has gone on: once, or in parts.

use ipc_framework::{HandlerError, Json, PartSender, Responder};

pub(super) enum Reply {
    Once(Responder),
    /// The requester takes a stream.
    Parts(PartSender),
}

impl Reply {
    /// Answers with one value, which is the only part of a stream.
    pub(super) fn reply(self, payload: Json<'static>) {
        match self {
            Self::Once(responder) => responder.reply_json(payload),
            Self::Parts(sender) => sender.reply_json(payload),
        }
    }

    pub(super) fn refuse(self, error: HandlerError) {
        match self {
            Self::Once(responder) => responder.refuse(&error),
            Self::Parts(sender) => sender.fail(error),
        }
    }

    /// Calls a function when nobody waits for the answer any more, at once if that is so already.
    pub(super) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        match self {
            Self::Once(responder) => responder.on_cancel(hook),
            Self::Parts(sender) => sender.on_cancel(hook),
        }
    }
}
