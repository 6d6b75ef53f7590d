//! Setting up applications, channels and their handlers.

use super::Server;
use crate::HandlerError;
use crate::broker::{ChannelHandlers, ChannelKey, Delivery, Request, RequestResult};

/// An application of the server, for setting up its channels.
///
/// ```
/// # fn main() -> Result<(), ipc_framework::Error> {
/// # use ipc_framework::{Config, Server};
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// let mut app = server.application("shop", "The Shop");
/// app.channel("price").on_request(|request| request.reply(&9.5));
/// app.channel("log").on_notification(|note| {
///     println!("{}", note.json());
///     Ok(())
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Application<'a> {
    pub(super) server: &'a mut Server,
    pub(super) id: String,
}

impl<'a> Application<'a> {
    pub(super) fn pin(server: &'a mut Server, id: &str, name: Option<&str>) -> Self {
        server.broker.begin_turn(server.net.now());
        server.broker.pin_application(id, name);
        Self { server, id: id.to_owned() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Creates a channel, or finds the one with this id. It stays for the life of the
    /// server.
    ///
    /// # Panics
    /// If the id is empty or longer than [`ID_BYTES_MAX`](crate::proto::ID_BYTES_MAX).
    pub fn channel(&mut self, id: &str) -> Channel<'_> {
        self.server.broker.begin_turn(self.server.net.now());
        let key = self.server.broker.pin_channel(&self.id, id);
        // The application was pinned when `self` was made.
        let key = key.unwrap_or_else(|| unreachable!("a pinned application has channels"));
        Channel { server: self.server, key: Some(key) }
    }
}

/// A channel of the server, for setting its handlers. A later handler replaces an earlier
/// one of its type.
///
/// Handlers run on the loop's thread: while one runs nothing else does. What takes long is
/// handed to another thread by [`Request::defer`].
///
/// ```
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
/// server
///     .application("shop", "The Shop")
///     .channel("price")
///     .on_request(|request| request.reply(&9.5))
///     .on_notification(|_note| Ok(()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Channel<'a> {
    server: &'a mut Server,
    /// `None`: all that have no handler of their own.
    key: Option<ChannelKey>,
}

impl<'a> Channel<'a> {
    pub(super) fn fallback(server: &'a mut Server) -> Self {
        Self { server, key: None }
    }

    fn with_handlers(&mut self, set: impl FnOnce(&mut ChannelHandlers)) -> &mut Self {
        match self.key {
            Some(key) => self.server.broker.with_handlers(key, set),
            None => self.server.broker.with_fallback(set),
        }
        self
    }

    /// Answers the channel's requests. An error or a panic is answered `handler_failed`,
    /// and the server lives on.
    #[doc(alias = "set_handler")]
    pub fn on_request(
        &mut self,
        handler: impl for<'h> FnMut(Request<'h>) -> RequestResult<'h> + Send + 'static,
    ) -> &mut Self {
        self.with_handlers(|handlers| handlers.request = Some(Box::new(handler)))
    }

    /// Takes the channel's notifications.
    #[doc(alias = "set_handler")]
    pub fn on_notification(
        &mut self,
        handler: impl for<'h> FnMut(Delivery<'h>) -> Result<(), HandlerError> + Send + 'static,
    ) -> &mut Self {
        self.with_handlers(|handlers| handlers.notification = Some(Box::new(handler)))
    }

    /// Takes the channel's responses, but for those that answer a request which the server
    /// forwarded to their sender.
    #[doc(alias = "set_handler")]
    pub fn on_response(
        &mut self,
        handler: impl for<'h> FnMut(Delivery<'h>) -> Result<(), HandlerError> + Send + 'static,
    ) -> &mut Self {
        self.with_handlers(|handlers| handlers.response = Some(Box::new(handler)))
    }
}
