//! The setup of the broker by the embedding API, before the loop runs.

use std::sync::Arc;

use super::broker::Broker;
use super::embed::handlers::{ChannelHandlers, ConnectionHook, Filter};
use super::embed::responder::Remote;
use super::flow::channels;
use super::state::keys::ChannelKey;

impl Broker {
    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.handlers.remote
    }

    /// Ends the mailbox: threads that wait for an answer learn that there will be none.
    pub(crate) fn close_mailbox(&mut self) {
        self.mailbox.close();
    }

    pub(crate) fn set_address(&mut self, host: &str, port: u16) {
        host.clone_into(&mut self.core.server.host);
        self.core.server.port = port;
    }

    /// Sets the clock that is read while handlers run.
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

    pub(crate) fn pin_application(&mut self, id: &str, name: Option<&str>) {
        channels::pin_application(&mut self.core, id, name);
    }

    /// Creates a channel or finds it, and keeps it for the life of the server.
    pub(crate) fn pin_channel(&mut self, app_id: &str, channel_id: &str) -> Option<ChannelKey> {
        let application = self.core.router.application(app_id)?;
        channels::pin_channel(&mut self.core, application, channel_id)
    }

    pub(crate) fn with_fallback(&mut self, set: impl FnOnce(&mut ChannelHandlers)) {
        set(&mut self.handlers.fallback);
    }

    pub(crate) fn set_filter(&mut self, filter: Filter) {
        self.handlers.filter = Some(filter);
    }

    pub(crate) fn with_handlers(
        &mut self,
        channel: ChannelKey,
        set: impl FnOnce(&mut ChannelHandlers),
    ) {
        self.handlers.forget_removed(&mut self.core);
        let Some(found) = self.core.router.channels.get_mut(channel) else { return };
        found.has_handler = true;
        set(self.handlers.entry(channel));
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
