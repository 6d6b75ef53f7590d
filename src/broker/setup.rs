//! The process around the broker: its handlers, its hooks, and the way in for its threads.

use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::broker::Broker;
use super::embed::context::Context;
use super::embed::handle::Handle;
use super::embed::request::{Delivery, Verdict};
use super::embed::setup::{Application, Channel};
use super::flow::reload;
use super::limits::Limits;
use super::state::events::ConnectionInfo;
use super::state::timers::Now;
use crate::address::Address;
use crate::handler_error::HandlerError;

/// Handlers and hooks. [`Context`] has the same methods for while the broker runs.
impl Broker {
    /// Creates an application, or finds the one with this id and gives it the name. It stays for
    /// the life of the broker.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn application(&mut self, id: &str, name: &str) -> Application<'_> {
        Application::pin(&mut self.core, id, Some(name))
    }

    /// Handlers for every channel that has none of its own, also for those that clients bring
    /// into being. They see which one a message is for by its envelope, and may
    /// [pass it on](crate::Request::pass_on) to the workers.
    ///
    /// ```
    /// # use ipc_framework::{Access, Limits};
    /// # use ipc_framework::broker::{Broker, Now};
    /// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
    /// broker.fallback().on_request(|request| match request.message().channel_id().raw() {
    ///     "echo" => {
    ///         let payload = request.json();
    ///         request.reply_json(&payload)
    ///     }
    ///     _ => Ok(request.pass_on()),
    /// });
    /// ```
    pub fn fallback(&mut self) -> Channel<'_> {
        Channel::fallback(&mut self.core)
    }

    /// Asks `filter` about every publication, subscription and unsubscription before it is
    /// carried out. An error of it is told to the sender as `forbidden`, with its text. A later
    /// filter replaces an earlier one.
    ///
    /// ```
    /// # use ipc_framework::{Access, Limits, MessageType, Verdict};
    /// # use ipc_framework::broker::{Broker, Now};
    /// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
    /// broker.filter(|delivery| {
    ///     let message = delivery.message();
    ///     match (message.message_type(), message.channel_id().raw()) {
    ///         (MessageType::Publish, "alerts") => Err("only the server raises alerts".into()),
    ///         _ => Ok(Verdict::CarryOut),
    ///     }
    /// });
    /// ```
    pub fn filter(
        &mut self,
        filter: impl FnMut(&mut Delivery<'_>) -> Result<Verdict, HandlerError> + Send + 'static,
    ) {
        self.context().filter(filter);
    }

    /// Calls `hook` whenever a connection has introduced itself. A later hook replaces an
    /// earlier one.
    pub fn on_connect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.context().on_connect(hook);
    }

    /// Calls `hook` whenever such a connection is gone.
    pub fn on_disconnect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.context().on_disconnect(hook);
    }

    /// A way in for other threads. What they ask for is done by [`Broker::run_mailbox`].
    ///
    /// ```
    /// # use ipc_framework::{Access, Limits};
    /// # use ipc_framework::broker::{Broker, Now};
    /// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
    /// let handle = broker.handle();
    /// let asking = std::thread::spawn(move || handle.stats());
    /// while !asking.is_finished() {
    ///     broker.run_mailbox();
    /// }
    /// assert!(asking.join().unwrap().unwrap().running);
    /// ```
    pub fn handle(&self) -> Handle {
        self.handle_with(Arc::default())
    }

    /// The handle of a broker that listens on these addresses.
    pub(crate) fn handle_with(&self, addresses: Arc<[Address]>) -> Handle {
        Handle::new(self.handlers.remote.clone(), addresses)
    }

    /// Calls `waker` when another thread asks for something, on that thread, once until the next
    /// [`Broker::run_mailbox`]: it interrupts the driver's sleep. The first waker stays.
    pub fn set_waker(&mut self, waker: impl Fn() + Send + Sync + 'static) {
        self.handlers.remote.set_waker(waker);
    }

    /// Ends what other threads may ask for, as dropping the broker does: those that wait for an
    /// answer are told [`HandleError::Stopped`](super::HandleError::Stopped).
    pub fn close_mailbox(&mut self) {
        self.mailbox.close();
    }

    /// Has `read` tell the time while a handler runs, as [`Now::monotonic`], for the latencies of
    /// handlers. Without it they count as nothing.
    pub fn set_stopwatch(&mut self, read: impl Fn() -> Duration + Send + 'static) {
        self.core.latency.set_stopwatch(read);
    }

    /// Replaces limits and access rules, for what begins from now on. Nobody is closed for it: timers
    /// that run, and what is over a limit that was lowered, stay until they end by themselves.
    pub fn reconfigure(&mut self, limits: Limits, access: Access) {
        reload::reconfigure(&mut self.core, limits, access);
    }

    /// Has what is done between two turns happen at this time.
    pub fn set_time(&mut self, now: Now) {
        self.core.turn.now = now;
    }
}

/// The business of the server over it.
#[cfg(feature = "net")]
impl Broker {
    pub(crate) fn create_application(&mut self, id: &str, name: Option<&str>) -> Application<'_> {
        Application::pin(&mut self.core, id, name)
    }

    pub(crate) fn set_address(&mut self, host: &str, port: u16) {
        host.clone_into(&mut self.core.server.host);
        self.core.server.port = port;
    }

    pub(crate) fn count_wakeups(&mut self, wakeups: u64, spins: u64) {
        self.core.counters.wakeups += wakeups;
        self.core.counters.spins += spins;
    }
}

/// For the simulation, which knows whose bytes may be lost.
#[cfg(feature = "simulation")]
impl Broker {
    /// The connections that were closed with bytes in their queue since the last call.
    pub(crate) fn take_unsent(&mut self) -> Vec<super::state::keys::ConnectionKey> {
        std::mem::take(&mut self.core.agenda.unsent)
    }
}
