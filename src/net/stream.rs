//! Connected TCP and Unix sockets.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use socket2::SockRef;

use super::quickack::set_quickack;
use super::system::Stream;
#[cfg(feature = "tls")]
use super::tls_stream::TlsStream;

/// The kernel memory that a peer which does not read can take. By default, TCP would grow it to
/// 4 MB.
const TCP_SEND_BUFFER_BYTES: usize = 256 << 10;
/// With the default of 42 KB, a Unix socket would wake the loop for every few large frames.
const UNIX_SEND_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl SocketStream {
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => prepare_tcp(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => prepare_tcp(&stream.socket),
            Self::Unix(stream) => {
                SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER_BYTES)
            }
        }
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => &mut stream.socket,
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
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (_, []) => Ok(0),
            #[cfg(feature = "tls")]
            (Self::Tls(stream), slices) => stream.write(slices),
            (Self::Tcp(stream), [slice]) => stream.write(slice),
            (Self::Unix(stream), [slice]) => stream.write(slice),
            (Self::Tcp(stream), slices) => stream.write_vectored(slices),
            (Self::Unix(stream), slices) => stream.write_vectored(slices),
        }
    }

    fn shutdown_write(&mut self) {
        // If the socket is shut already, the next read reports that.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                stream.shutdown_write();
                Ok(())
            }
        };
    }

    fn acknowledge_at_once(&mut self) {
        match self {
            Self::Tcp(stream) => set_quickack(&SockRef::from(&*stream), true),
            Self::Unix(_) => {}
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.acknowledge_at_once(),
        }
    }

    #[cfg(feature = "tls")]
    fn flush(&mut self) -> io::Result<bool> {
        if let Self::Tls(stream) = self { stream.flush() } else { Ok(true) }
    }

    #[cfg(feature = "tls")]
    fn holds_more(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.holds_more())
    }

    #[cfg(feature = "tls")]
    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        if let Self::Tls(stream) = self {
            stream.read_cost_bytes(brought_bytes)
        } else {
            brought_bytes
        }
    }

    #[cfg(feature = "tls")]
    fn wants_flush(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.wants_flush())
    }

    #[cfg(feature = "tls")]
    fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.is_handshaking())
    }

    #[cfg(feature = "tls")]
    fn take_handshake_steps(&mut self) -> usize {
        if let Self::Tls(stream) = self { stream.take_handshake_steps() } else { 0 }
    }

    #[cfg(feature = "tls")]
    fn held_bytes(&self) -> usize {
        if let Self::Tls(stream) = self { stream.held_bytes() } else { 0 }
    }
}
