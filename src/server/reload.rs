//! Other limits and tokens for a server that runs.

use super::Handle;
use crate::{Config, Error, net};

impl Handle {
    /// Gives a running server the limits and the access rules of `config`, soon; what else
    /// stands in there cannot be changed and is not looked at.
    ///
    /// Nobody is closed for it. Tokens and users are asked of those who connect from then on,
    /// timeouts hold for what begins from then on, and the idle timeout for all. Certificates
    /// have [`Tls::reload`](crate::Tls), which needs no handle.
    ///
    /// # Errors
    /// [`Error::Unprotected`] and [`Error::Config`] for what [`Server::bind`](crate::Server::bind)
    /// would refuse for the addresses it listens on; everything stays as it was then.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// # use ipc_framework::{Config, Server, Token};
    /// let mut config = Config { port: 0, ..Config::default() };
    /// let server = Server::bind(config.clone())?;
    /// config.access.default = Some(Token::new("a long secret"));
    /// server.handle().reload(&config)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        net::check_access(config, &self.addresses)?;
        let (limits, access) = (config.limits.clone(), config.access.clone());
        self.remote.post(move |core| core.reconfigure(limits, access));
        Ok(())
    }
}
