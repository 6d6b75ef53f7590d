//! Joins other servers over NATS.

use super::Server;
use crate::Error;
use crate::bridge::{Bridge, NatsOptions};

impl Server {
    /// Joins the servers that use the same NATS servers and the same prefix, so that their clients
    /// reach one another: subscribers hear what is published at any of the servers, and requests go
    /// to workers of another server where this one has none that has room.
    ///
    /// It returns at once, and NATS need not be there yet. Whatever happens to NATS, the server's own
    /// clients are served as without it: publications for other servers are lost and counted, and
    /// requests that another server was to answer fail with `worker_lost`. A thread of its own speaks
    /// with NATS until the server ends; it is told of the server's drain, so that the others send
    /// nothing more.
    ///
    /// # Errors
    /// - [`Error::Config`], [`Error::File`]: the first of [`NatsOptions::problems`], or the server has joined already.
    /// - [`Error::System`]: there are no descriptors or no thread left.
    ///
    /// ```
    /// # fn main() -> Result<(), ipc_framework::Error> {
    /// use ipc_framework::{Config, NatsOptions, Server};
    ///
    /// let mut server = Server::bind(Config::default().port(0))?;
    /// server.join_nats(&NatsOptions::new(["nats://localhost"]))?;
    /// assert!(server.join_nats(&NatsOptions::new(["nats://localhost"])).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_nats(&mut self, options: &NatsOptions) -> Result<(), Error> {
        if self.bridge.is_some() {
            let text =
                "the server has joined others over NATS already; name all NATS servers at once";
            return Err(Error::Config(text.to_owned()));
        }
        let frame_bytes_max = self.broker.limits().frame_bytes_max;
        let bridge = Bridge::start(options, frame_bytes_max, self.link_opener(), self.handle())?;
        let listener = bridge.listener();
        let opened = listener.clone();
        self.net.on_attach(move |application, end| opened.open_bus(application, end));
        let channels = options.channels.clone();
        self.context().join(channels, move |interest| listener.note(interest));
        self.broker.set_nats_stats(bridge.stats());
        self.bridge = Some(bridge);
        Ok(())
    }
}
