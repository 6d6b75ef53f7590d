//! Connected TCP and Unix sockets.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use socket2::SockRef;

use super::quickack::set_quickack;
use super::ring::Ring;
use super::system::Stream;
#[cfg(feature = "tls")]
use super::tls_stream::TlsStream;
use crate::descriptors::Noted;

/// The kernel memory that a peer which does not read can take. By default, TCP would grow it to
/// 4 MB.
const TCP_SEND_BUFFER_BYTES: usize = 256 << 10;
/// With the default of 42 KB, a Unix socket would wake the loop for every few large frames.
const UNIX_SEND_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct SocketStream {
    /// Dropped before the socket is closed.
    _noted: Noted,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    /// With its rings, if it goes over to shared memory.
    Unix(UnixStream, Option<Box<Ring>>),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl SocketStream {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self { _noted: Noted::new(&stream), kind: Kind::Tcp(stream) }
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        Self { _noted: Noted::new(&stream), kind: Kind::Unix(stream, None) }
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(stream: TlsStream) -> Self {
        Self { _noted: Noted::new(&stream.socket), kind: Kind::Tls(Box::new(stream)) }
    }

    pub(super) fn prepare(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => prepare_tcp(stream),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => prepare_tcp(&stream.socket),
            Kind::Unix(stream, _) => {
                SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER_BYTES)
            }
        }
    }

    /// Gives the stream rings, over which it goes once it is told from where on. Only a Unix socket can
    /// have them, and only once.
    pub(super) fn share(&mut self, make: impl FnOnce() -> io::Result<Ring>) -> io::Result<()> {
        match &mut self.kind {
            Kind::Unix(_, ring @ None) => {
                *ring = Some(Box::new(make()?));
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the rings, if the stream has some.
    pub(super) fn ring(&self) -> Option<&Ring> {
        if let Kind::Unix(_, Some(ring)) = &self.kind { Some(ring) } else { None }
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match &mut self.kind {
            Kind::Tcp(stream) => stream,
            Kind::Unix(stream, _) => stream,
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => &mut stream.socket,
        }
    }
}

fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    set_quickack(&socket, false);
    socket.set_send_buffer_size(TCP_SEND_BUFFER_BYTES)
}

impl Stream for SocketStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.read(buffer),
            Kind::Unix(stream, None) => stream.read(buffer),
            Kind::Unix(stream, Some(ring)) => ring.read(stream, buffer),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write_vectored(slices),
            Kind::Unix(stream, None) => stream.write_vectored(slices),
            Kind::Unix(stream, Some(ring)) => ring.write(stream, slices),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.write(slices),
        }
    }

    #[inline]
    fn write_one(&mut self, slice: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write(slice),
            Kind::Unix(stream, None) => stream.write(slice),
            Kind::Unix(stream, Some(ring)) => ring.write(stream, &[IoSlice::new(slice)]),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.write(&[IoSlice::new(slice)]),
        }
    }

    fn shutdown_write(&mut self) {
        // If the socket is shut already, the next read reports that.
        let _ = match &mut self.kind {
            Kind::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Kind::Unix(stream, _) => stream.shutdown(Shutdown::Write),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => {
                stream.shutdown_write();
                Ok(())
            }
        };
    }

    fn acknowledge_at_once(&mut self) {
        match &mut self.kind {
            Kind::Tcp(stream) => set_quickack(&SockRef::from(&*stream), true),
            Kind::Unix(..) => {}
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.acknowledge_at_once(),
        }
    }

    #[cfg(feature = "tls")]
    fn flush(&mut self) -> io::Result<bool> {
        if let Kind::Tls(stream) = &mut self.kind { stream.flush() } else { Ok(true) }
    }

    fn holds_more(&self) -> bool {
        match &self.kind {
            Kind::Tcp(_) | Kind::Unix(_, None) => false,
            Kind::Unix(_, Some(ring)) => ring.holds_more(),
            #[cfg(feature = "tls")]
            Kind::Tls(stream) => stream.holds_more(),
        }
    }

    fn turn_over(&mut self, before_bytes: usize, answer_bytes: usize) {
        if let Kind::Unix(_, Some(ring)) = &mut self.kind {
            ring.turn_over(before_bytes, answer_bytes);
        }
    }

    #[cfg(feature = "tls")]
    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        if let Kind::Tls(stream) = &self.kind {
            stream.read_cost_bytes(brought_bytes)
        } else {
            brought_bytes
        }
    }

    #[cfg(feature = "tls")]
    fn wants_flush(&self) -> bool {
        matches!(&self.kind, Kind::Tls(stream) if stream.wants_flush())
    }

    #[cfg(feature = "tls")]
    fn is_handshaking(&self) -> bool {
        matches!(&self.kind, Kind::Tls(stream) if stream.is_handshaking())
    }

    #[cfg(feature = "tls")]
    fn take_handshake_steps(&mut self) -> usize {
        if let Kind::Tls(stream) = &mut self.kind { stream.take_handshake_steps() } else { 0 }
    }

    #[cfg(feature = "tls")]
    fn held_bytes(&self) -> usize {
        if let Kind::Tls(stream) = &self.kind { stream.held_bytes() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net;
    use std::os::unix;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Compares with another socket, because the kernel does not keep the number as it was given.
    fn assert_has_buffer(socket: &Socket, domain: Domain, bytes: usize) {
        let other = Socket::new(domain, Type::STREAM, None).unwrap();
        other.set_send_buffer_size(bytes).unwrap();
        let bytes = other.send_buffer_size().unwrap();
        assert_eq!(socket.send_buffer_size().unwrap(), bytes);
    }

    #[test]
    fn a_tcp_connection_sends_at_once_and_has_a_bounded_buffer() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream).try_clone().unwrap();
        assert!(!socket.tcp_nodelay().unwrap());
        SocketStream::tcp(TcpStream::from_std(stream)).prepare().unwrap();
        assert!(socket.tcp_nodelay().unwrap(), "small messages wait for acknowledgements");
        assert_has_buffer(&socket, Domain::IPV4, TCP_SEND_BUFFER_BYTES);
    }

    #[test]
    fn a_unix_connection_has_a_larger_buffer() {
        let (stream, _peer) = unix::net::UnixStream::pair().unwrap();
        let socket = SockRef::from(&stream).try_clone().unwrap();
        SocketStream::unix(UnixStream::from_std(stream)).prepare().unwrap();
        assert_has_buffer(&socket, Domain::UNIX, UNIX_SEND_BUFFER_BYTES);
    }
}
