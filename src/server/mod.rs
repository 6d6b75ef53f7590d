//! The embedding API: a server inside a Rust program.

#[cfg(feature = "nats")]
mod joining;
mod problems;
mod published;
mod reload;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::net::{Budget, Inherited};

use crate::address::Address;
#[cfg(feature = "nats")]
use crate::bridge::Bridge;
use crate::broker::{
    Application, Broker, Channel, ConnectionInfo, Context, Delivery, Handle, Interest, Verdict,
};
use crate::net::{EventLoop, LinkOpener, MioSystem};
use crate::{Config, Error, HandlerError};

/// A server that runs on the thread that calls it.
///
/// There are three ways to run it: until it is stopped, with [`Server::run`]; one turn at a time,
/// with [`Server::poll_once`] or, within a budget, [`Server::poll_once_within`]; or inside an event
/// loop of your own.
///
/// # Inside another event loop
/// The outer loop waits until [`Server::as_raw_fd`](AsRawFd::as_raw_fd) is readable, at most until
/// [`Server::next_deadline`], and then calls [`Server::poll_once`] with a zero timeout, whichever
/// of the two ended the wait. It asks for the deadline again before each wait, because every turn
/// may change it.
///
/// The descriptor may be watched by level or by edge (`EPOLLET`, and everything that mio
/// watches). By edge, it is reported once for all events since the last turn. If a turn leaves work
/// undone, including events that it did not take from the system's queue, the deadline is in the
/// past, so that the next turn follows at once. An outer loop that watches by edge and ignores the
/// deadline would leave these connections unanswered. `examples/outer_loop.rs` is such a loop.
///
/// Dropping the server closes every connection at once. [`Handle::stop`] drains them first.
#[derive(Debug)]
pub struct Server {
    broker: Broker,
    net: EventLoop<MioSystem>,
    addresses: Arc<[Address]>,
    #[cfg(feature = "nats")]
    bridge: Option<Bridge>,
}

impl Server {
    /// Listens on all addresses of the configuration. Connections queue in the kernel until the
    /// server runs.
    ///
    /// # Errors
    /// - [`Error::Unprotected`]: other machines can reach an address, and neither a token nor a
    ///   certificate is required.
    /// - [`Error::Config`]: limits or tokens are invalid, users cannot be told apart, the host has
    ///   no address, or there is nothing to listen on.
    /// - [`Error::Listen`]: it cannot listen on an address.
    /// - [`Error::System`]: the system provides no event queue or no randomness.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// use ipc_framework::{Address, Config, Server};
    ///
    /// let server = Server::bind(Config::default().port(0))?;
    /// assert!(matches!(server.addresses()[0], Address::Tcp(address) if address.port() != 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(config: Config) -> Result<Self, Error> {
        Self::bind_with(config, Vec::new())
    }

    /// Listens on sockets that the process inherits, and on all addresses of the configuration.
    ///
    /// # Errors
    /// The same as [`Server::bind`]. An inherited address that other machines can reach needs a
    /// token, too.
    pub fn bind_with(config: Config, inherited: Vec<Inherited>) -> Result<Self, Error> {
        if let Some(problem) = config.own_problems().next() {
            return Err(problem);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| {
            Error::system("randomness for message ids")(std::io::Error::other(error))
        })?;
        let (net, addresses) = EventLoop::bind(&config, inherited)?;
        let mut broker = Broker::new(config.limits, config.access, seed, net.now());
        let port = addresses.iter().find_map(Address::port).unwrap_or_default();
        broker.set_address(config.host.as_deref().unwrap_or_default(), port);
        broker.set_waker(net.waker());
        broker.set_stopwatch(net.stopwatch());
        broker.set_user(rustix::process::geteuid().as_raw());
        Ok(Self {
            broker,
            net,
            addresses: addresses.into(),
            #[cfg(feature = "nats")]
            bridge: None,
        })
    }

    /// Returns the addresses that it listens on. A port that is configured as 0 is the one that the
    /// system chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Creates an application, or renames the one with this id. It exists until the server ends.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn application(&mut self, id: &str, name: &str) -> Application<'_> {
        self.broker_now().application(id, name)
    }

    /// Returns the fallback, whose handlers serve every channel that has none of its own, including
    /// channels that clients create. The envelope tells them which channel a message is for, and
    /// they may [pass a request on](crate::Request::pass_on) to the channel's workers.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server};
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.fallback().on_request(|request| match request.message().channel_id().raw() {
    ///     "echo" => {
    ///         let payload = request.json();
    ///         request.reply_json(&payload)
    ///     }
    ///     _ => Ok(request.pass_on()),
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn fallback(&mut self) -> Channel<'_> {
        self.broker.fallback()
    }

    /// Calls `filter` with every publication, subscription and unsubscription before it is carried
    /// out. If it returns an error, the sender gets that error's text with the code `forbidden`. A
    /// later filter replaces an earlier one.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, MessageType, Server, Verdict};
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.filter(|delivery| {
    ///     let message = delivery.message();
    ///     match (message.message_type(), message.channel_id().raw()) {
    ///         (MessageType::Publish, "alerts") => Err("only the server raises alerts".into()),
    ///         _ => Ok(Verdict::CarryOut),
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter(
        &mut self,
        filter: impl FnMut(&mut Delivery<'_>) -> Result<Verdict, HandlerError> + Send + 'static,
    ) {
        self.broker.filter(filter);
    }

    /// Calls `hook` whenever a connection has completed its handshake. A later hook replaces an
    /// earlier one.
    pub fn on_connect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.broker.on_connect(hook);
    }

    /// Calls `hook` whenever a connection that had completed its handshake is closed.
    pub fn on_disconnect(
        &mut self,
        hook: impl FnMut(&ConnectionInfo<'_>, &mut Context<'_>) + Send + 'static,
    ) {
        self.broker.on_disconnect(hook);
    }

    /// Calls `hook` whenever an application or a channel is wanted by a first one, or no longer by a last
    /// one: clients of an application, subscribers of a channel or a pattern, and those who answer the
    /// requests of a channel. What is there already it is told at once.
    /// [`Broker::on_interest`](crate::broker::Broker::on_interest) has the rules.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server};
    /// use ipc_framework::{Interest, InterestIn};
    ///
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.on_interest(|interest: &Interest<'_>| match interest.subject {
    ///     InterestIn::Channel(channel) if interest.is_wanted => {
    ///         println!("somebody wants to hear {channel} of {}", interest.application);
    ///     }
    ///     other => println!("{other:?} is wanted: {}", interest.is_wanted),
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_interest(&mut self, hook: impl FnMut(&Interest<'_>) + Send + 'static) {
        self.broker_now().on_interest(hook);
    }

    /// Returns the context, which publishes, lists and counts between two turns.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server};
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.application("news", "News").channel("flash");
    /// let reached = server.context().publish("news", "flash", &"nobody listens yet").unwrap();
    /// assert_eq!(reached, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn context(&mut self) -> Context<'_> {
        self.broker_now().context()
    }

    /// Returns a handle by which other threads reach the server.
    pub fn handle(&self) -> Handle {
        self.broker.handle_with(self.addresses.clone())
    }

    /// Returns what opens links to other servers from any thread.
    #[cfg_attr(
        not(any(test, feature = "nats")),
        expect(dead_code, reason = "the bridge opens links")
    )]
    pub(crate) fn link_opener(&self) -> LinkOpener {
        self.net.link_opener()
    }

    /// Runs until [`Handle::stop`] is called and the drain that follows has ended.
    ///
    /// # Errors
    /// [`Error::System`] if the event queue fails; no peer can cause that.
    pub fn run(&mut self) -> Result<(), Error> {
        while self.poll_once(None)? {}
        Ok(())
    }

    /// Runs one turn: waits until something happens or `timeout` is over, processes it and sends
    /// the results. Returns whether the server goes on, which is false for ever once it is stopped
    /// and drained.
    ///
    /// # Errors
    /// The same as [`Server::run`].
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server};
    /// # use std::time::Duration;
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// assert!(server.poll_once(Some(Duration::ZERO))?);
    /// server.handle().stop();
    /// while server.poll_once(Some(Duration::from_millis(10)))? {
    ///     // something else of your own
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_once(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        self.turn(timeout, None)
    }

    /// Runs one turn as [`Server::poll_once`] does, but ends it when the budget is spent, for a
    /// thread that has other things to do. The next call does the rest, in the same order; until
    /// then, [`Server::next_deadline`] is in the past.
    ///
    /// # Errors
    /// The same as [`Server::run`].
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Budget, Config, Server};
    /// # use std::time::Duration;
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// for _frame in 0..10 {
    ///     // draw it, then give the server two of the sixteen milliseconds
    ///     server.poll_once_within(Some(Duration::ZERO), Budget::time(Duration::from_millis(2)))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_once_within(
        &mut self,
        timeout: Option<Duration>,
        budget: Budget,
    ) -> Result<bool, Error> {
        self.turn(timeout, Some(budget))
    }

    /// Returns the broker between two turns, after setting its clock.
    fn broker_now(&mut self) -> &mut Broker {
        self.broker.set_time(self.net.now());
        &mut self.broker
    }

    fn turn(&mut self, timeout: Option<Duration>, budget: Option<Budget>) -> Result<bool, Error> {
        if self.broker.is_drained() {
            return Ok(false);
        }
        self.net.turn(&mut self.broker, timeout, budget)?;
        let goes_on = !self.broker.is_drained();
        #[cfg(feature = "nats")]
        if let Some(bridge) = &self.bridge {
            bridge.limit_frames(self.broker.limits().frame_bytes_max);
        }
        #[cfg(feature = "nats")]
        if let Some(bridge) = self.bridge.as_mut().filter(|_| self.broker.is_draining()) {
            // The others stop sending when the drain begins, and it ends when nothing is in flight.
            if goes_on { bridge.drain() } else { bridge.end() }
        }
        if !goes_on {
            self.broker.close_mailbox();
        }
        Ok(goes_on)
    }

    /// Returns the time at which [`Server::poll_once`] has to be called even if the descriptor is
    /// not reported: `None` for never, a time in the past for at once. Every turn may change it.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.net.next_deadline(&self.broker).and_then(|deadline| self.net.instant(deadline))
    }
}

/// The descriptor of the event queue. It is readable when there are events for
/// [`Server::poll_once`]. [`Server`] says how to watch it.
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.net.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
