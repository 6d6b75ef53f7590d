//! A connected socket, TCP or Unix, read and written with one system call each; with TLS, if that
//! is asked for.
//!
//! TLS is one state for both directions: whoever reads or writes locks it, on a socket that does
//! not block if there are several who do.

use std::io::{self, ErrorKind};
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, SockAddr, Socket as Inner, TcpKeepalive, Type};

#[cfg(feature = "tls")]
use super::tls_session::Session;
use crate::client::endpoint::Endpoint;

#[derive(Debug)]
pub(crate) struct Socket {
    inner: Inner,
    /// What the kernel holds as the longest a read may block.
    read_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    session: Option<Box<Mutex<Session>>>,
}

impl Socket {
    /// A blocking socket, connected before `deadline` or not at all.
    pub(crate) fn connect(endpoint: &Endpoint, deadline: Instant) -> io::Result<Self> {
        let inner = match endpoint {
            Endpoint::Tcp { host, port } => connect_tcp(host, *port, deadline)?,
            Endpoint::Unix(path) => {
                let socket = Inner::new(Domain::UNIX, Type::STREAM, None)?;
                // Bounds connecting too, where the server's backlog is full.
                socket.set_write_timeout(Some(remaining(deadline)?))?;
                socket.connect(&SockAddr::unix(path)?)?;
                socket
            }
        };
        Ok(Self {
            inner,
            read_timeout: None,
            #[cfg(feature = "tls")]
            session: None,
        })
    }

    /// Speaks TLS from here on. The handshake ends before `deadline` or fails.
    #[cfg(feature = "tls")]
    pub(crate) fn secure(
        &mut self,
        tls: rustls::ClientConnection,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut session = Session::new(tls);
        loop {
            let left = remaining(deadline)?;
            self.set_write_timeout(left)?;
            self.set_read_timeout(Some(left))?;
            match session.shake_hands(&self.inner) {
                Ok(true) => break,
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        self.session = Some(Box::new(Mutex::new(session)));
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn session(&self) -> Option<MutexGuard<'_, Session>> {
        let lock = self.session.as_ref()?.lock();
        Some(lock.unwrap_or_else(PoisonError::into_inner))
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.read_timeout != timeout {
            self.inner.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        Ok(())
    }

    pub(crate) fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_write_timeout(Some(timeout))
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.inner.set_nonblocking(true)
    }

    /// Has the kernel find a peer that is gone without a word. A Unix socket needs none.
    pub(crate) fn keep_alive(&self, interval: Option<Duration>) -> io::Result<()> {
        let is_tcp = self.inner.local_addr()?.as_socket().is_some();
        let Some(interval) = interval.filter(|_| is_tcp) else { return Ok(()) };
        // The kernel counts in seconds.
        let interval = interval.max(Duration::from_secs(1));
        let probes = TcpKeepalive::new().with_time(interval).with_interval(interval);
        self.inner.set_tcp_keepalive(&probes)
    }

    /// Reads what is there, waiting for it until the timeout; zero bytes are the end.
    pub(crate) fn recv(&mut self, room: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        self.set_read_timeout(timeout)?;
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.session {
            let session = session.get_mut().unwrap_or_else(PoisonError::into_inner);
            return session.read(&self.inner, room, RecvFlags::empty());
        }
        Ok(rustix::net::recv(&self.inner, room, RecvFlags::empty())?.0)
    }

    /// Reads what is there without waiting; zero bytes are the end. With TLS,
    /// [`ErrorKind::Interrupted`] says that what came is not enough, and there may be more.
    pub(crate) fn try_recv(&self, room: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            return session.read(&self.inner, room, RecvFlags::DONTWAIT);
        }
        retry(|| Ok(rustix::net::recv(&self.inner, &mut *room, RecvFlags::DONTWAIT)?.0))
    }

    /// Whether there is something to read that no event announces.
    #[cfg(feature = "tls")]
    pub(crate) fn holds_more(&self) -> bool {
        self.session().is_some_and(|session| session.holds_more())
    }

    /// Writes what the kernel takes. A peer that is gone is an error, never a signal. The bytes
    /// behind those that it took are to be the next, whatever becomes of their sender.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            return session.write(&self.inner, bytes);
        }
        retry(|| rustix::net::send(&self.inner, bytes, SendFlags::NOSIGNAL))
    }

    /// Ends the connection once the server has read everything: what is unread here at that
    /// moment would otherwise have the kernel throw away what is unread there.
    pub(crate) fn end(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_nonblocking(false)?;
        self.finish()?;
        let mut scrap = vec![0; 64 << 10];
        // A timeout that no clock can express is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let left = deadline.map(remaining).transpose()?;
            match self.try_recv(&mut scrap) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.inner.set_read_timeout(left)?;
                    // Waits without taking anything.
                    retry(|| Ok(rustix::net::recv(&self.inner, &mut [0], RecvFlags::PEEK)?.0))?;
                }
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    /// Says that nothing more comes; what was written is still delivered.
    pub(crate) fn finish(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            session.finish(&self.inner)?;
        }
        self.inner.shutdown(std::net::Shutdown::Write)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Until it is not a signal that ends the call.
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Tries the addresses in turn, as a name such as `localhost` has several.
fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<Inner> {
    let mut failed = io::Error::from(ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        let socket = Inner::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), remaining(deadline)?) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            // A refusal says more than that there is no route by IPv6.
            Err(error) if failed.kind() != ErrorKind::ConnectionRefused => failed = error,
            Err(_) => {}
        }
    }
    Err(failed)
}

/// The time left, as the kernel takes it: never zero, which would mean forever.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left.max(Duration::from_micros(1)))
}
