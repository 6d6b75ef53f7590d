//! A TCP connection that TLS is spoken on.
//!
//! What either side holds is bounded: rustls takes one record at a time from the peer, and from
//! us no more than [`UNSENT_BYTES_MAX`] beyond what the kernel takes.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::ServerConnection;
use socket2::SockRef;

use super::stream::set_quickack;
use super::system::Stream;
use crate::Tls;

/// Encrypted bytes that wait for the kernel.
const UNSENT_BYTES_MAX: usize = 64 << 10;
/// Encrypted bytes taken for one read, which may bring nothing: records can be empty.
const TAKEN_BYTES_MAX: usize = 256 << 10;
/// What a connection holds: 8 KB while it is idle, measured, and a record that is not whole.
const HELD_BYTES: usize = 24 << 10;

#[derive(Debug)]
pub(crate) struct TlsStream {
    pub(super) socket: TcpStream,
    session: ServerConnection,
    /// The next read brings something, or the end, whatever the socket holds.
    holds_more: bool,
    /// The handshake is through, and what waited for that can be sent.
    opened: bool,
    /// The write side is to be shut when everything is sent.
    finishing: bool,
}

impl TlsStream {
    pub(super) fn accept(socket: TcpStream, tls: &Tls) -> io::Result<Self> {
        let mut session = ServerConnection::new(tls.current()).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Self { socket, session, holds_more: false, opened: false, finishing: false })
    }

    /// Takes bytes from the socket. Returns how many; 0 at the end.
    fn take(&mut self) -> io::Result<usize> {
        let taken = self.session.read_tls(&mut self.socket)?;
        let was_handshaking = self.session.is_handshaking();
        let processed = self.session.process_new_packets();
        // An answer of the handshake, or the alert that says what is wrong.
        let sent = self.send_pending();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        sent?;
        self.opened |= was_handshaking && !self.session.is_handshaking();
        Ok(taken)
    }

    /// Returns whether all of it is with the kernel.
    fn send_pending(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.finishing) {
            // If it is shut already, the next read says so.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(true)
    }
}

impl Drop for TlsStream {
    /// Who waits for the end is told that it is one, and that nobody has cut it short.
    fn drop(&mut self) {
        self.session.send_close_notify();
        // What the kernel does not take now is lost with the connection.
        let _ = self.send_pending();
    }
}

impl Stream for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.holds_more = false;
        let (mut filled, mut taken) = (0, 0);
        while filled < buffer.len() {
            match self.session.reader().read(&mut buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Many close without a word. Where a frame ends its length says.
                Ok(0) | Err(_) => {
                    self.holds_more = filled > 0;
                    return Ok(filled);
                }
                Ok(bytes) => {
                    filled += bytes;
                    continue;
                }
            }
            if taken >= TAKEN_BYTES_MAX {
                self.holds_more = filled > 0;
                return if filled > 0 {
                    Ok(filled)
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                };
            }
            match self.take() {
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Nothing leaves before the handshake is through, and then it is asked for again.
        if self.session.is_handshaking() || !self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let bytes = self.session.writer().write(rest)?;
                written += bytes;
                rest = &rest[bytes..];
                // It takes less than all when it is full.
                if !rest.is_empty() && !self.send_pending()? {
                    return Ok(written);
                }
            }
        }
        self.send_pending()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.opened = false;
        self.send_pending()
    }

    fn shutdown_write(&mut self) {
        self.session.send_close_notify();
        self.finishing = true;
        // If the connection is broken, the next read says so.
        let _ = self.send_pending();
    }

    fn acknowledge_at_once(&mut self) {
        set_quickack(&SockRef::from(&self.socket), true);
    }

    fn holds_more(&self) -> bool {
        self.holds_more
    }

    fn wants_flush(&self) -> bool {
        self.opened
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn held_bytes(&self) -> usize {
        HELD_BYTES
    }
}
