//! Connected TCP and Unix sockets.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use socket2::SockRef;

use super::system::Stream;

/// Kernel memory a stalled peer can bind on our side: TCP would take 4 MB by itself.
const TCP_SEND_BUFFER_BYTES: usize = 256 << 10;
/// A Unix socket's own 42 KB would cost a wake-up for every few large frames.
const UNIX_SEND_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl SocketStream {
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                let socket = SockRef::from(stream);
                set_quickack(&socket, false);
                socket.set_send_buffer_size(TCP_SEND_BUFFER_BYTES)
            }
            Self::Unix(stream) => {
                SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER_BYTES)
            }
        }
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Stream for SocketStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (_, []) => Ok(0),
            (Self::Tcp(stream), [slice]) => stream.write(slice),
            (Self::Unix(stream), [slice]) => stream.write(slice),
            (Self::Tcp(stream), slices) => stream.write_vectored(slices),
            (Self::Unix(stream), slices) => stream.write_vectored(slices),
        }
    }

    fn shutdown_write(&mut self) {
        // If it is shut already, the next read says so.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn acknowledge_at_once(&mut self) {
        if let Self::Tcp(stream) = self {
            set_quickack(&SockRef::from(&*stream), true);
        }
    }
}

/// Whether the kernel acknowledges at once, or waits for an answer to send along.
///
/// A connection starts without: who writes header and body apart then waits with the body
/// of its very first message, and shows its habit. Others do not wait and see no difference.
/// Only a hint: without it a peer is slow, not wrong.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "Linux alone has it"))]
pub(super) fn set_quickack(socket: &SockRef<'_>, enabled: bool) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(enabled);
}
