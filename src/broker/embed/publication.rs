//! Publications of other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{self, SendError};
use crate::broker::flow::topic::publishing::Hearers;
use crate::broker::state::core::Core;
use crate::broker::state::encoder::Address;
use crate::broker::state::keys::Key;
use crate::proto::{Json, MessageType, escaped};

/// A payload for the subscribers of a channel.
#[derive(Debug)]
pub(crate) struct Publication {
    to: Destination,
    payload: Json<'static>,
}

#[derive(Debug)]
enum Destination {
    /// Both ids in one text, and the length of the first.
    Named(Box<str>, usize),
    Topic(Arc<Topic>),
}

/// A channel for many publications, which is looked up once. If it is removed, the next publication
/// looks up the channel that has its name by then.
#[derive(Debug)]
pub(super) struct Topic {
    app_id: Box<str>,
    channel_id: Box<str>,
    /// The ids as JSON text without the quotes.
    app_json: Box<str>,
    channel_json: Box<str>,
    /// The key of the channel as it was last looked up, or zero. Only the loop reads and writes it.
    key: AtomicU64,
}

impl Topic {
    pub(super) fn new(app_id: &str, channel_id: &str) -> Arc<Self> {
        Arc::new(Self {
            app_id: app_id.into(),
            channel_id: channel_id.into(),
            app_json: escaped(app_id).into(),
            channel_json: escaped(channel_id).into(),
            key: AtomicU64::new(0),
        })
    }

    pub(super) fn app_id(&self) -> &str {
        &self.app_id
    }

    pub(super) fn channel_id(&self) -> &str {
        &self.channel_id
    }

    fn find(&self, core: &mut Core) -> Result<Option<Hearers<'_>>, SendError> {
        let known = Key::from_bits(self.key.load(Ordering::Relaxed));
        let known = known.filter(|key| core.router.channels.get(*key).is_some());
        if let Some(key) = known {
            return Ok(Some(Hearers::OfChannel(key)));
        }
        let found = context::find(core, &self.app_id, &self.channel_id)?;
        if let Some(Hearers::OfChannel(key)) = found {
            self.key.store(key.to_bits(), Ordering::Relaxed);
        }
        Ok(found)
    }
}

impl Publication {
    #[inline]
    pub(super) fn named(app_id: &str, channel_id: &str, payload: Json<'static>) -> Self {
        let ids = [app_id, channel_id].concat().into();
        Self { to: Destination::Named(ids, app_id.len()), payload }
    }

    pub(super) fn to(topic: Arc<Topic>, payload: Json<'static>) -> Self {
        Self { to: Destination::Topic(topic), payload }
    }

    /// The memory that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let ids_bytes = match &self.to {
            Destination::Named(ids, _) => ids.len(),
            Destination::Topic(_) => 0,
        };
        ids_bytes + self.payload.bytes()
    }

    /// Puts it into the queues of the channel's subscribers. A channel that does not exist has none.
    pub(crate) fn deliver(self, core: &mut Core) -> Result<usize, SendError> {
        let publish = |core: &mut Core, found: Option<_>, app_id: &str, channel_id: &str| {
            let Some(hearers) = found else { return Ok(0) };
            let address = Address { app_id, channel_id };
            context::publish(core, hearers, address, MessageType::Publish, &self.payload)
        };
        match &self.to {
            Destination::Topic(topic) => {
                let found = topic.find(core)?;
                publish(core, found, &topic.app_json, &topic.channel_json)
            }
            Destination::Named(ids, app_id_bytes) => {
                let (app_id, channel_id) = ids.split_at(*app_id_bytes);
                let found = context::find(core, app_id, channel_id)?;
                publish(core, found, &escaped(app_id), &escaped(channel_id))
            }
        }
    }
}
