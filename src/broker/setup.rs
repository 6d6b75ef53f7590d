//! What the embedding API sets up before the loop runs.

use std::sync::Arc;

use super::core::Core;
use super::handlers::{ChannelHandlers, ConnectionHook};
use super::mailbox::Remote;
use super::{Broker, ChannelKey, Now};

impl Broker {
    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.core.remote
    }

    /// The server has ended, and says so to all who wait for it.
    pub(crate) fn close_mailbox(&mut self) {
        self.mailbox.close();
    }

    pub(crate) fn set_address(&mut self, host: &str, port: u16) {
        host.clone_into(&mut self.core.host);
        self.core.port = port;
    }

    /// What the time is while a handler runs.
    pub(crate) fn set_stopwatch(
        &mut self,
        read: impl Fn() -> std::time::Duration + Send + 'static,
    ) {
        self.core.latency.set_stopwatch(read);
    }

    pub(crate) fn count_wakeups(&mut self, wakeups: u64, spins: u64) {
        self.core.counters.wakeups += wakeups;
        self.core.counters.spins += spins;
    }

    pub(crate) fn pin_application(&mut self, id: &str, name: Option<&str>, now: Now) {
        let key = self.core.router.find_or_create_application(id, now.unix);
        if let Some(application) = self.core.router.applications.get_mut(key) {
            application.pinned = true;
            if let Some(name) = name {
                application.name = name.into();
            }
        }
    }

    /// The handlers of a channel, which exists from now on whoever uses it.
    pub(crate) fn pin_channel(
        &mut self,
        app_id: &str,
        channel_id: &str,
        now: Now,
    ) -> Option<ChannelKey> {
        let router = &mut self.core.router;
        let application = router.application(app_id)?;
        let key = match router.channel(application, channel_id) {
            Some(key) => key,
            None => router.create_channel(application, channel_id, now.unix)?,
        };
        router.channels.get_mut(key)?.pinned = true;
        Some(key)
    }

    pub(crate) fn with_handlers(
        &mut self,
        channel: ChannelKey,
        set: impl FnOnce(&mut ChannelHandlers),
    ) {
        let Some(channel) = self.core.router.channels.get_mut(channel) else { return };
        let arena = &mut self.handlers.channels;
        let key = *channel.handlers.get_or_insert_with(|| arena.insert(ChannelHandlers::default()));
        if let Some(handlers) = arena.get_mut(key) {
            set(handlers);
        }
    }

    pub(crate) fn set_hooks(
        &mut self,
        connected: Option<ConnectionHook>,
        disconnected: Option<ConnectionHook>,
    ) {
        if connected.is_some() {
            self.handlers.connected = connected;
        }
        if disconnected.is_some() {
            self.handlers.disconnected = disconnected;
        }
    }
}

/// What [`Handle::stop`](crate::Handle::stop) asks of the loop.
pub(crate) fn begin_drain(core: &mut Core) {
    core.begin_drain();
}
