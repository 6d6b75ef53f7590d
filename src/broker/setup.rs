//! The interface for the process around the broker: its handlers, its hooks, and its threads.

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
use super::state::interest::Interest;
#[cfg(feature = "nats")]
use super::state::stats::NatsStatsSource;
use super::state::timers::Now;
use crate::address::Address;
use crate::handler_error::HandlerError;

/// Methods that set handlers and hooks. [`Context`] has the same ones, for the time while the broker
/// runs.
impl Broker {
    /// Creates an application, or renames the one with this id. It exists until the broker ends.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn application(&mut self, id: &str, name: &str) -> Application<'_> {
        Application::pin(&mut self.core, id, Some(name))
    }

    /// Returns the fallback, whose handlers serve every channel that has none of its own, including
    /// channels that clients create. The envelope tells them which channel a message is for, and
    /// they may [pass a request on](crate::Request::pass_on) to the channel's workers.
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

    /// Calls `filter` with every publication, subscription and unsubscription before it is carried
    /// out. If it returns an error, the sender gets that error's text with the code `forbidden`. A
    /// later filter replaces an earlier one.
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

    /// Calls `hook` whenever a connection has completed its handshake. A later hook replaces an
    /// earlier one.
    pub fn on_connect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.context().on_connect(hook);
    }

    /// Calls `hook` whenever a connection that had completed its handshake is closed.
    pub fn on_disconnect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.context().on_disconnect(hook);
    }

    /// Calls `hook` whenever an application or a channel is wanted by a first one, or no longer by a last
    /// one: clients of an application, subscribers of a channel or a pattern, and those who answer the
    /// requests of a channel. What is there already it is told at once. So a program learns what it has to
    /// fetch from elsewhere, for example from another server. A later hook replaces an earlier one, and is
    /// told everything anew.
    ///
    /// The hook runs on the thread that drives the broker, in the middle of what causes the change, and has
    /// no context. It may use a [`Handle`], whose commands come later. Nothing is told twice. An
    /// application is told before what is wanted of it, and its end after that of the rest, unless the
    /// process has created it: such a one is wanted until the broker ends. [Links](super::Peer::Link) want
    /// nothing. In a drain, the end of each is told as its connections are closed; of a broker that is
    /// dropped, nothing more is told. A panic of the hook is counted, and the broker goes on.
    ///
    /// ```
    /// # use ipc_framework::{Access, Limits};
    /// # use ipc_framework::broker::{Broker, Now};
    /// use ipc_framework::{Interest, InterestIn};
    /// use std::sync::mpsc;
    ///
    /// # let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
    /// broker.application("shop", "The Shop").channel("price").on_request(|it| it.reply(&9.5));
    /// let (tell, told) = mpsc::channel();
    /// broker.on_interest(move |interest: &Interest<'_>| {
    ///     let what = match interest.subject {
    ///         InterestIn::Workers(channel) => format!("{channel} is served"),
    ///         InterestIn::Application => "somebody is there".to_owned(),
    ///         other => format!("{other:?}"),
    ///     };
    ///     let _ = tell.send((interest.application.to_owned(), what, interest.is_wanted));
    /// });
    /// let shop = || "shop".to_owned();
    /// assert_eq!(told.recv().unwrap(), (shop(), "somebody is there".to_owned(), true));
    /// assert_eq!(told.recv().unwrap(), (shop(), "price is served".to_owned(), true));
    /// ```
    pub fn on_interest(&mut self, hook: impl FnMut(&Interest<'_>) + Send + 'static) {
        self.context().on_interest(hook);
    }

    /// Returns a handle by which other threads reach the broker. [`Broker::run_mailbox`] carries out
    /// their commands.
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

    /// Returns the handle of a broker that listens on these addresses.
    pub(crate) fn handle_with(&self, addresses: Arc<[Address]>) -> Handle {
        Handle::new(self.handlers.remote.clone(), addresses)
    }

    /// Sets the function that interrupts the driver's sleep. It is called on a thread that posts a
    /// command, once until the next [`Broker::run_mailbox`]. Only the first call has an effect.
    pub fn set_waker(&mut self, waker: impl Fn() + Send + Sync + 'static) {
        self.handlers.remote.set_waker(waker);
    }

    /// Closes the mailbox for other threads, as dropping the broker does. Those that wait for an
    /// answer get [`HandleError::Stopped`](super::HandleError::Stopped).
    pub fn close_mailbox(&mut self) {
        self.mailbox.close();
    }

    /// Sets the clock that times handlers, which returns [`Now::monotonic`]. Without it, their
    /// latencies are zero.
    pub fn set_stopwatch(&mut self, read: impl Fn() -> Duration + Send + 'static) {
        self.core.latency.set_stopwatch(read);
    }

    /// Sets where the statistics read how it is with NATS.
    #[cfg(feature = "nats")]
    pub(crate) fn set_nats_stats(&mut self, source: NatsStatsSource) {
        self.core.server.nats = Some(source);
    }

    /// Sets the user that this process runs as. A peer of the same user on a Unix socket is the
    /// operator, who may list all connections and make the server forget what it keeps.
    pub fn set_user(&mut self, uid: u32) {
        self.core.server.uid = Some(uid);
    }

    /// Replaces limits and access rules. No connection is closed: timers that run keep their deadline,
    /// and whatever exceeds a lowered limit stays until it ends by itself.
    pub fn reconfigure(&mut self, limits: Limits, access: Access) {
        reload::reconfigure(&mut self.core, limits, access);
    }

    /// Sets the time of work that is done between two turns.
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
