//! The listeners of a channel.

use std::sync::{Arc, Mutex};

use super::inbox::Inbox;
use crate::proto::Message;

pub(crate) type Handler = Arc<Mutex<dyn FnMut(Message) + Send>>;

#[derive(Clone)]
pub(crate) enum Sink {
    Handler(Handler),
    Inbox(Arc<Inbox>),
}

#[derive(Default)]
pub(crate) struct Route {
    pub(crate) listeners: Vec<(u64, Sink)>,
    /// Set if the server is to send the channel's publications.
    pub(crate) is_subscribed: bool,
}

impl Route {
    /// Ends the messages of its readers. Must not be called with the state locked, because a
    /// reader's waker and what a handler owns may do anything.
    pub(crate) fn close(self) {
        for (_, sink) in self.listeners {
            if let Sink::Inbox(inbox) = sink {
                inbox.close();
            }
        }
    }
}
