//! Who listens to which channel.

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
    /// Whether the server is to send the channel's publications.
    pub(crate) is_subscribed: bool,
}

impl Route {
    /// Whoever reads its messages sees their end. Not to be called with the state locked, for a
    /// reader's waker and what a handler owns may do what they like.
    pub(crate) fn close(self) {
        for (_, sink) in self.listeners {
            if let Sink::Inbox(inbox) = sink {
                inbox.close();
            }
        }
    }
}
