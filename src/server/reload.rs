//! Other limits and tokens for a server that runs.

use crate::broker::Handle;
use crate::{Config, Error, net};

impl Handle {
    /// Gives a running server the limits and the access rules of `config`, soon; what else
    /// stands in there cannot be changed and is not looked at.
    ///
    /// Nobody is closed by it:
    ///
    /// - Tokens and users are asked of those who connect from then on.
    /// - Timeouts hold for what begins from then on. The idle timeout holds for all, and silence
    ///   counts from then on.
    /// - Over a limit that was lowered nothing more is let in, and what there is stays.
    /// - A frame of which the server has read any byte is taken under the limit it began with.
    ///   What is still in the kernel then, or comes later, and what it is answered, keeps to the
    ///   new limit.
    /// - The length at which a queue has no grace
    ///   ([`Limits::queue_bytes_max`](crate::Limits::queue_bytes_max)) is raised at once and
    ///   lowered with the next start only.
    /// - More memory held than there may be now is as if it was short: publications and
    ///   unfinished messages wait. What is not given back within
    ///   [`Limits::slow_consumer_grace`](crate::Limits::slow_consumer_grace) is taken from whoever
    ///   holds the most, who is closed. Until then what was allowed before is the most there may
    ///   be.
    ///
    /// Certificates have `Tls::reload`, which needs no handle.
    ///
    /// # Errors
    /// [`Error::Unprotected`] and [`Error::Config`] for what [`Server::bind`](crate::Server::bind)
    /// would refuse for the addresses it listens on; everything stays as it was then.
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
