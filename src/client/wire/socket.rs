//! A connected TCP or Unix socket that is read and written with one system call each, with or
//! without TLS.
//!
//! TLS has one state for both directions, so every read and write locks it. If several threads use
//! the socket, it must not block.

use std::io::{self, ErrorKind, IoSlice};
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_framework_rings::Descriptors;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer};
use socket2::{Domain, SockAddr, Socket as Inner, TcpKeepalive, Type};

use super::addresses;
use super::encoded_frame::{EncodedFrame, fill};
use super::no_signal::NO_SIGNAL;
use super::rings::{self, Rings};
#[cfg(feature = "tls")]
use super::tls_session::Session;
use crate::client::endpoint::Endpoint;
use crate::descriptors::NotedSocket;

#[derive(Debug)]
pub(crate) struct Socket {
    inner: NotedSocket<Inner>,
    /// The read timeout that is set in the kernel.
    read_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    session: Option<Box<Mutex<Session>>>,
    /// Instead of which the socket only tells of the server's end.
    rings: Option<Box<Rings>>,
}

impl Socket {
    /// Returns a blocking socket that was connected before `deadline`.
    pub(crate) fn connect(endpoint: &Endpoint, deadline: Instant) -> io::Result<Self> {
        let inner = match endpoint {
            Endpoint::Tcp { host, port } => {
                addresses::connect((host.as_str(), *port).to_socket_addrs()?, deadline)?
            }
            Endpoint::Unix(path) => connect_unix(path, deadline)?,
        };
        Ok(Self {
            inner,
            read_timeout: None,
            #[cfg(feature = "tls")]
            session: None,
            rings: None,
        })
    }

    /// Starts TLS. The handshake fails if it does not end before `deadline`.
    #[cfg(feature = "tls")]
    pub(crate) fn secure(
        &mut self,
        tls: rustls::ClientConnection,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut session = Session::new(tls);
        let mut late_steps = 0;
        loop {
            let left = left_until(deadline);
            // A process that was stopped until after the deadline still takes what came in time.
            late_steps += u32::from(left == LEFT_MIN);
            if late_steps > LATE_STEPS_MAX {
                return Err(ErrorKind::TimedOut.into());
            }
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

    /// Reads bytes and the descriptors that come along, and waits for them until `deadline`.
    pub(crate) fn recv_with_descriptors(
        &mut self,
        room: &mut [u8],
        came: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> io::Result<usize> {
        loop {
            self.set_read_timeout(Some(left_until(deadline)))?;
            match rings::receive(&self.inner, room, came) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }

    /// Goes over to shared memory. A write waits for room until the timeout.
    pub(crate) fn share(
        &mut self,
        descriptors: Descriptors,
        ring_bytes: usize,
        write_timeout: Duration,
    ) -> io::Result<()> {
        let rings = Rings::open(&self.inner, descriptors, ring_bytes, Some(write_timeout))?;
        self.rings = Some(Box::new(rings));
        Ok(())
    }

    /// Returns the socket, over which no messages go if both sides share memory.
    pub(crate) fn itself(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    pub(crate) fn shares_memory(&self) -> bool {
        self.rings.is_some()
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

    pub(crate) fn set_nonblocking(&mut self) -> io::Result<()> {
        if let Some(rings) = &mut self.rings {
            rings.set_write_timeout(None);
        }
        self.inner.set_nonblocking(true)
    }

    /// Lets the kernel detect a peer that vanished without closing. A Unix socket does not need it.
    pub(crate) fn keep_alive(&self, interval: Option<Duration>) -> io::Result<()> {
        let is_tcp = self.inner.local_addr()?.as_socket().is_some();
        let Some(interval) = interval.filter(|_| is_tcp) else { return Ok(()) };
        // The kernel's unit is a second.
        let interval = interval.max(Duration::from_secs(1));
        let probes = TcpKeepalive::new().with_time(interval).with_interval(interval);
        self.inner.set_tcp_keepalive(&probes)
    }

    /// Reads available bytes, and waits for them until the timeout; zero bytes are the end.
    pub(crate) fn recv(&mut self, room: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        if let Some(rings) = &self.rings {
            return rings.read(&self.inner, room, timeout);
        }
        self.set_read_timeout(timeout)?;
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.session {
            let session = session.get_mut().unwrap_or_else(PoisonError::into_inner);
            return session.read(&self.inner, room, RecvFlags::empty());
        }
        Ok(rustix::net::recv(&self.inner, room, RecvFlags::empty())?.0)
    }

    /// Reads available bytes without waiting; zero bytes are the end. With TLS,
    /// [`ErrorKind::Interrupted`] means that the bytes that came do not suffice, and there may be
    /// more.
    pub(crate) fn try_recv(&self, room: &mut [u8]) -> io::Result<usize> {
        if let Some(rings) = &self.rings {
            return rings.try_read(&self.inner, room);
        }
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            return session.read(&self.inner, room, RecvFlags::DONTWAIT);
        }
        retry(|| Ok(rustix::net::recv(&self.inner, &mut *room, RecvFlags::DONTWAIT)?.0))
    }

    /// Does the same for a reader that tries again at once and never waits for an event.
    pub(crate) fn spin(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match &mut self.rings {
            Some(rings) => rings.spin(&self.inner, room),
            None => self.try_recv(room),
        }
    }

    /// Returns how many bytes have arrived that nobody has read; with TLS these are encrypted.
    pub(crate) fn unread_bytes(&self) -> u64 {
        if let Some(rings) = &self.rings {
            return rings.unread_bytes();
        }
        rustix::io::ioctl_fionread(&self.inner).unwrap_or_default()
    }

    /// Returns whether there may be bytes to read that no event announces. Rings announce them after a read
    /// that has found nothing.
    pub(crate) fn holds_more(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(session) = self.session() {
            return session.holds_more();
        }
        self.rings.is_some()
    }

    /// Writes as many bytes of a frame, of which `sent` have left, as the kernel takes. If the peer is gone
    /// that is an error, never a signal. The rest must be written next, even if its sender has given up.
    pub(crate) fn send_frame(&self, frame: &EncodedFrame, sent: usize) -> io::Result<usize> {
        if frame.tail.is_none() {
            return self.send(&frame.front[sent..]);
        }
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let count = fill(&mut slices, frame.rest(sent));
        self.send_parts(&slices[..count])
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(rings) = &self.rings {
            return rings.write(&self.inner, &[IoSlice::new(bytes)]);
        }
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            return session.write(&self.inner, bytes);
        }
        retry(|| rustix::net::send(&self.inner, bytes, NO_SIGNAL))
    }

    /// Does the same with the first of several pieces and, without TLS, with more.
    pub(crate) fn send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let first = parts.first().map_or(&[][..], |first| first);
        // What TLS owes after a partial write belongs to the message that was begun.
        #[cfg(feature = "tls")]
        if self.session.is_some() {
            return self.send(first);
        }
        if let Some(rings) = &self.rings {
            return rings.write(&self.inner, parts);
        }
        if parts.len() == 1 {
            return self.send(first);
        }
        let mut nothing = SendAncillaryBuffer::default();
        retry(|| rustix::net::sendmsg(&self.inner, parts, &mut nothing, NO_SIGNAL))
    }

    /// Ends the connection after the server has read everything. Closing a socket with unread bytes
    /// in it would make the kernel discard what the server has not read yet.
    pub(crate) fn end(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_nonblocking(false)?;
        self.finish()?;
        let mut scrap = vec![0; 64 << 10];
        // A timeout that no clock can express means no timeout.
        let deadline = Instant::now().checked_add(timeout);
        if let Some(rings) = &self.rings {
            loop {
                let left =
                    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                match rings.read(&self.inner, &mut scrap, left) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                    _ => {}
                }
            }
        }
        loop {
            // The clock is read before the socket is, which may hold the end that came in time.
            let left = deadline.map(left_until);
            match self.try_recv(&mut scrap) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if left == Some(LEFT_MIN) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    self.inner.set_read_timeout(left)?;
                    // This waits, but leaves the byte in the socket.
                    retry(|| Ok(rustix::net::recv(&self.inner, &mut [0], RecvFlags::PEEK)?.0))?;
                }
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    /// Tells the peer that nothing more comes; bytes written before are still delivered.
    pub(crate) fn finish(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session() {
            session.finish(&self.inner)?;
        }
        self.inner.shutdown(std::net::Shutdown::Write)
    }
}

/// The descriptor that is readable when there is something to read.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.as_ref().map_or_else(|| self.inner.as_fd(), |rings| rings.as_fd())
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Repeats the call while signals interrupt it.
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Connects to a Unix socket, which waits while the server's backlog is full.
fn connect_unix(path: &Path, deadline: Instant) -> io::Result<NotedSocket<Inner>> {
    let address = SockAddr::unix(path)?;
    loop {
        let socket = NotedSocket::new(Inner::new(Domain::UNIX, Type::STREAM, None)?);
        // This bounds connecting too.
        socket.set_write_timeout(Some(left_until(deadline)))?;
        match socket.connect(&address) {
            // The process was stopped and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            connected => return connected.map(|()| socket),
        }
    }
}

/// The most pieces of a frame that one system call writes.
const PIECES_MAX: usize = 16;

/// The shortest timeout that the kernel knows: zero would mean none.
const LEFT_MIN: Duration = Duration::from_micros(1);
/// Steps of a TLS handshake after its deadline, each of which takes bytes that have arrived.
#[cfg(feature = "tls")]
const LATE_STEPS_MAX: u32 = 16;

/// Returns the time left, as the kernel accepts it.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(LEFT_MIN)
}
