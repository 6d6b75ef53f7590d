//! Opens links to other servers: connections that the process makes to its own server.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::stream::SocketStream;

/// Opens links from any thread. They are connections with [`Peer::Link`](crate::Peer::Link), which see.
#[derive(Clone)]
pub(crate) struct LinkOpener {
    opened: Sender<SocketStream>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for LinkOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkOpener")
    }
}

impl LinkOpener {
    pub(super) fn new(
        opened: Sender<SocketStream>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { opened, wake: Arc::new(wake) }
    }

    /// Opens a link, and returns its other end, which speaks as a client does: first a connect, whose
    /// `connection_id` begins with `$link/`. What is written to it is read from the loop's next turn on.
    ///
    /// # Errors
    /// If the process has no descriptors left, or the server has ended.
    pub(crate) fn open(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = SocketStream::unix(mio::net::UnixStream::from_std(ours));
        self.opened.send(stream).map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
        (self.wake)();
        Ok(theirs)
    }
}
