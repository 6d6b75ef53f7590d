//! Changes the limits and access rules of a running server.

use crate::broker::Handle;
use crate::{Config, Error, net};

impl Handle {
    /// Gives a running server the limits and the access rules of `config`, in its next turn. The
    /// other fields cannot be changed while it runs, and are ignored.
    ///
    /// The change itself closes no connection:
    ///
    /// - Tokens and lists of users apply to connections that are made from then on.
    /// - Timeouts apply to waits that begin from then on. The idle timeout applies to all
    ///   connections, and counts from then on.
    /// - If a limit is lowered below the present number, everything that exists stays, and nothing
    ///   is added.
    /// - A frame of which the server has read at least one byte keeps the limit under which it
    ///   began. Frames that are still in the kernel or arrive later, and all answers, are subject to
    ///   the new limit.
    /// - The length at which a queue has no grace
    ///   ([`Limits::queue_bytes_max`](crate::Limits::queue_bytes_max)) can be raised at once, but
    ///   lowered only by a restart.
    /// - If the server holds more memory than the new limit, publications and unfinished messages
    ///   wait. If it still does after
    ///   [`Limits::slow_consumer_grace`](crate::Limits::slow_consumer_grace), the connections that
    ///   hold the most are closed. Until then, the former limit is the upper bound.
    ///
    /// `Tls::reload` reads certificates again, without a handle.
    ///
    /// # Errors
    /// [`Error::Unprotected`] and [`Error::Config`] if [`Server::bind`](crate::Server::bind) would
    /// refuse `config` for the present addresses. The server is not changed then.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server, Token};
    /// let mut config = Config::default().port(0);
    /// let server = Server::bind(config.clone())?;
    /// config.access.default = Some(Token::new("a long secret"));
    /// server.handle().reload(&config)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        if let Some(problem) = config.own_problems().next() {
            return Err(problem);
        }
        net::check_access(config, &self.addresses)?;
        let (limits, access) = (config.limits.clone(), config.access.clone());
        self.remote.post(move |core| crate::broker::reconfigure(core, limits, access));
        Ok(())
    }
}
