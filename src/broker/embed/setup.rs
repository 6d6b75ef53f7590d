//! Sets up applications, channels and their handlers, before the server runs and while it does.

use std::fmt;

use super::changes::{self, Change};
use super::context::Context;
use super::request::{Delivery, Request, RequestResult, Verdict};
#[cfg(any(test, feature = "nats"))]
use crate::broker::flow::loads;
use crate::broker::flow::{applications, channels, interest};
use crate::broker::state::core::Core;
use crate::broker::state::events::ConnectionInfo;
use crate::broker::state::interest::{Interest, Listener};
use crate::broker::state::keys::{ApplicationKey, ChannelKey};
#[cfg(any(test, feature = "nats"))]
use crate::broker::state::load::ChannelLoad;
use crate::handler_error::HandlerError;

/// An application, whose channels can be set up.
///
/// ```
/// # use ipc_framework::{Access, Limits};
/// # use ipc_framework::broker::{Broker, Now};
/// let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
/// let mut app = broker.application("shop", "The Shop");
/// app.channel("price").on_request(|request| request.reply(&9.5));
/// app.channel("log").on_notification(|note| {
///     println!("{}", note.json());
///     Ok(())
/// });
/// ```
pub struct Application<'a> {
    core: &'a mut Core,
    key: ApplicationKey,
    id: String,
}

impl<'a> Application<'a> {
    pub(crate) fn pin(core: &'a mut Core, id: &str, name: Option<&str>) -> Self {
        let key = applications::pin(core, id, name);
        Self { core, key, id: id.to_owned() }
    }

    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Creates a channel, or finds the one with this id. It exists until the server ends, or until
    /// [`Context::remove_channel`].
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn channel(&mut self, id: &str) -> Channel<'_> {
        let key = channels::pin_channel(self.core, self.key, id);
        // The application was pinned when `self` was created.
        let key = key.unwrap_or_else(|| unreachable!("a pinned application has channels"));
        Channel { core: self.core, key: Some(key) }
    }

    /// Returns the context of the server.
    #[cfg(feature = "net")]
    pub(crate) fn context(&mut self) -> Context<'_> {
        Context::new(self.core)
    }
}

impl fmt::Debug for Application<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A channel whose handlers can be set, or the fallback of all channels that have none of their own.
/// A later handler replaces an earlier one of the same type.
///
/// Handlers run on the thread that drives the server, and nothing else runs meanwhile. Pass work that
/// takes long to another thread by [`Request::defer`]. A handler that is set while another one runs
/// gets the next message.
///
/// ```
/// # use ipc_framework::{Access, Limits};
/// # use ipc_framework::broker::{Broker, Now};
/// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
/// broker
///     .application("shop", "The Shop")
///     .channel("price")
///     .on_request(|request| request.reply(&9.5))
///     .on_notification(|_note| Ok(()));
/// ```
pub struct Channel<'a> {
    core: &'a mut Core,
    /// `None` for the fallback.
    key: Option<ChannelKey>,
}

impl<'a> Channel<'a> {
    pub(crate) fn fallback(core: &'a mut Core) -> Self {
        Self { core, key: None }
    }

    /// Answers the channel's requests. If the handler returns an error or panics, the request is
    /// answered `handler_failed`, and the server goes on.
    #[doc(alias = "set_handler")]
    pub fn on_request(
        &mut self,
        handler: impl for<'h> FnMut(Request<'h>) -> RequestResult<'h> + Send + 'static,
    ) -> &mut Self {
        self.set(|channel| Change::Request(channel, Box::new(handler)));
        if let Some(key) = self.key {
            if let Some(channel) = self.core.router.channels.get_mut(key) {
                channel.answers = true;
            }
            interest::note_workers(self.core, key);
        }
        self
    }

    /// Takes the channel's notifications.
    #[doc(alias = "set_handler")]
    pub fn on_notification(
        &mut self,
        handler: impl for<'h> FnMut(Delivery<'h>) -> Result<(), HandlerError> + Send + 'static,
    ) -> &mut Self {
        self.set(|channel| Change::Notification(channel, Box::new(handler)))
    }

    /// Takes the channel's responses, except those that answer a request which the server forwarded
    /// to their sender.
    #[doc(alias = "set_handler")]
    pub fn on_response(
        &mut self,
        handler: impl for<'h> FnMut(Delivery<'h>) -> Result<(), HandlerError> + Send + 'static,
    ) -> &mut Self {
        self.set(|channel| Change::Response(channel, Box::new(handler)))
    }

    fn set(&mut self, change: impl FnOnce(Option<ChannelKey>) -> Change) -> &mut Self {
        if let Some(channel) = self.key.and_then(|key| self.core.router.channels.get_mut(key)) {
            channel.has_handler = true;
        }
        changes::ask(self.core, change(self.key));
        self
    }
}

impl fmt::Debug for Channel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Methods that set handlers and hooks. [`Broker`](crate::broker::Broker) and `Server` have methods of
/// the same names, for the time before they run. A handler that is set while another one runs gets
/// the next message.
///
/// ```
/// # use ipc_framework::{Access, Limits};
/// # use ipc_framework::broker::{Broker, Now};
/// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
/// broker.on_connect(|info, context| {
///     // A channel of this connection's own, from its first message on.
///     let own = format!("for {}", info.connection_id);
///     let mut app = context.application(info.app_id, "Our own");
///     app.channel(&own).on_request(|request| request.reply(&"yours"));
/// });
/// ```
impl Context<'_> {
    /// Creates an application, or renames the one with this id. It exists until the server ends.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn application(&mut self, id: &str, name: &str) -> Application<'_> {
        Application::pin(self.core, id, Some(name))
    }

    /// Returns the fallback, whose handlers serve every channel that has none of its own, see
    /// [`Broker::fallback`](crate::broker::Broker::fallback).
    pub fn fallback(&mut self) -> Channel<'_> {
        Channel::fallback(self.core)
    }

    /// Sets the filter, see [`Broker::filter`](crate::broker::Broker::filter).
    pub fn filter(
        &mut self,
        filter: impl FnMut(&mut Delivery<'_>) -> Result<Verdict, HandlerError> + Send + 'static,
    ) {
        self.core.server.filter_generation += 1;
        changes::ask(self.core, Change::Filter(Box::new(filter)));
    }

    /// Sets the hook for connections that complete their handshake, see
    /// [`Broker::on_connect`](crate::broker::Broker::on_connect).
    pub fn on_connect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        changes::ask(self.core, Change::Connected(Box::new(hook)));
    }

    /// Sets the hook for connections that are closed, see
    /// [`Broker::on_disconnect`](crate::broker::Broker::on_disconnect).
    pub fn on_disconnect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        changes::ask(self.core, Change::Disconnected(Box::new(hook)));
    }

    /// Sets the hook for what is wanted and by now is there, see
    /// [`Broker::on_interest`](crate::broker::Broker::on_interest).
    pub fn on_interest(&mut self, hook: impl FnMut(&Interest<'_>) + Send + 'static) {
        interest::install(self.core, Listener::Process, Box::new(hook));
    }

    /// Joins the server with others: sets a hook beside the process's own, and opens a link of each
    /// application that hears the channels that match the patterns, see [`Action::Attach`].
    #[cfg(any(test, feature = "nats", feature = "simulation"))]
    pub(crate) fn join(
        &mut self,
        patterns: impl IntoIterator<Item = String>,
        hook: impl FnMut(&Interest<'_>) + Send + 'static,
    ) {
        interest::install(self.core, Listener::Bridge, Box::new(hook));
        applications::share(self.core, patterns);
    }

    /// Returns how busy the workers of these channels are, for other servers.
    #[cfg(any(test, feature = "nats"))]
    pub(crate) fn loads(&self, names: &[(String, String)]) -> Vec<ChannelLoad> {
        loads::of(self.core, names)
    }
}
