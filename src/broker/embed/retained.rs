//! Last values that the process itself publishes.

use serde::Serialize;

use super::context::{Context, SendError, no_room, read_attached, too_large};
use super::handle::{Handle, HandleError, note_unsent};
use crate::broker::flow::attachments::{Receiver, Rewrite};
use crate::broker::flow::forms::Publication;
use crate::broker::flow::topic::{keeping, publishing};
use crate::broker::state::core::Core;
use crate::broker::state::encoder::head_of;
use crate::proto::{Extensions, Head, Json, Message, MessageType, Meta, escaped};

/// Methods for what is kept of publications.
///
/// ```
/// # use ipc_framework::{Config, HistoryRule, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default().port(0);
/// config.limits.histories = vec![HistoryRule::new("shop", "prices.*")];
/// let mut server = Server::bind(config)?;
/// // Whoever subscribes later and asks for it gets this first.
/// server.context().publish_retained("shop", "state", &"open")?;
/// server.context().publish("shop", "prices.tea", &9.5)?;
/// let (_epoch, offset) = server.context().position("shop", "prices.tea").expect("it has a history");
/// assert_eq!(offset, 1);
/// # Ok(())
/// # }
/// ```
impl Context<'_> {
    /// Does what [`Context::publish`] does, and keeps the value for subscribers that come later and ask
    /// for it, in place of the one before. `null` is delivered, and forgets that. Application and
    /// channel need not exist.
    ///
    /// # Errors
    /// The same as [`Context::publish`], and [`SendError::NoRoom`] if no more values may be kept, or no
    /// more channels. Then nothing was delivered either.
    pub fn publish_retained<T: Serialize + ?Sized>(
        &mut self,
        app_id: &str,
        channel_id: &str,
        payload: &T,
    ) -> Result<usize, SendError> {
        let payload = Json::from_serialize(payload).map_err(SendError::NotJson)?;
        publish_value(self.core, app_id, channel_id, &payload)
    }

    /// Does the same with a message, even if that names another channel.
    ///
    /// # Errors
    /// The same as [`Context::publish_retained`].
    pub fn publish_retained_to(
        &mut self,
        app_id: &str,
        channel_id: &str,
        message: &Message,
    ) -> Result<usize, SendError> {
        let core = &mut *self.core;
        let stamp = core.encoder.stamp(core.turn.now.unix);
        let head = head_of(message, &stamp);
        publish(core, app_id, channel_id, head.borrowed(), &message.payload)
    }

    /// Returns the place of the newest publication in the history of a channel: the epoch, and the
    /// offset, which is 0 before the first one. `None` if the channel has no history, or does not exist.
    pub fn position(&self, app_id: &str, channel_id: &str) -> Option<(String, u64)> {
        let channel = self.find_channel(app_id, channel_id)?;
        let (epoch, offset) = keeping::newest_place(self.core, channel)?;
        Some((epoch.as_str().to_owned(), offset))
    }
}

impl Handle {
    /// Does what [`Context::publish_retained`] does, in the loop's next turn, without waiting for that.
    ///
    /// # Errors
    /// The same as [`Handle::publish`]. A value for which there is no room is only logged.
    pub fn publish_retained<T: Serialize + ?Sized>(
        &self,
        app_id: &str,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), HandleError> {
        let payload = Json::from_serialize(payload).map_err(HandleError::NotJson)?;
        let (app_id, channel_id) = (app_id.to_owned(), channel_id.to_owned());
        self.command(payload.bytes(), move |context| {
            note_unsent(publish_value(context.core, &app_id, &channel_id, &payload).err());
        })
    }

    /// Does what [`Context::publish_retained_to`] does, in the loop's next turn, without waiting for that.
    ///
    /// # Errors
    /// The same as [`Handle::publish_retained`].
    pub fn publish_retained_to(
        &self,
        app_id: &str,
        channel_id: &str,
        message: Message,
    ) -> Result<(), HandleError> {
        let (app_id, channel_id) = (app_id.to_owned(), channel_id.to_owned());
        self.command(message.payload.bytes(), move |context| {
            note_unsent(context.publish_retained_to(&app_id, &channel_id, &message).err());
        })
    }
}

fn publish_value(
    core: &mut Core,
    app_id: &str,
    channel_id: &str,
    payload: &Json<'_>,
) -> Result<usize, SendError> {
    let stamp = core.encoder.stamp(core.turn.now.unix);
    let head = Head {
        message_id: stamp.id(),
        app_id: &escaped(app_id),
        channel_id: &escaped(channel_id),
        message_type: MessageType::Publish,
        timestamp: stamp.time(),
        reply_to: None,
        meta: None,
    };
    publish(core, app_id, channel_id, head, payload)
}

fn publish(
    core: &mut Core,
    app_id: &str,
    channel_id: &str,
    head: Head<'_>,
    payload: &Json<'_>,
) -> Result<usize, SendError> {
    let to = Receiver::of_all(core);
    let to = Receiver { extensions: to.extensions.or(Extensions::TOPIC), ..to };
    let meta = Meta { retain: true, ..Meta::default() };
    let frame = Rewrite::own(head, meta, payload).frame(to, &mut core.pool);
    let frame = frame.map_err(|why| too_large(why, to))?.to_kept(&mut core.pool);
    let (envelope, body) = read_attached(&frame)?;
    let meta = Meta::parse_known(envelope.meta_str().unwrap_or("{}")).map_err(SendError::Faulty)?;
    let publication = Publication {
        envelope: &envelope,
        body,
        meta: Some(&meta),
        position: None,
        is_of_link: false,
    };
    let channel = keeping::claim_own(core, app_id, channel_id, Some(&meta)).map_err(no_room)?;
    let Some(channel) = channel else { return Ok(0) };
    let checked = keeping::check(core, channel, &publication);
    let reached = checked.map_err(no_room).map(|()| {
        keeping::prepare(core, channel);
        publishing::publish(core, channel, &publication)
    });
    keeping::settle(core, channel);
    reached
}
