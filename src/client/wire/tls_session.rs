//! TLS over a client's socket: plain bytes on one side, encrypted bytes on the other.
//!
//! Its buffers are bounded: they hold the encrypted bytes of one read and of one write.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use rustls::ClientConnection;
use socket2::Socket;

use super::no_signal::NO_SIGNAL;

/// Encrypted bytes read at once: two records.
const RECEIVED_BYTES_MAX: usize = 32 << 10;
/// Encrypted bytes that may wait to be written.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Invariant: `start <= end <= received.len()`.
pub(crate) struct Session {
    tls: ClientConnection,
    received: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read took all bytes that the kernel had.
    is_drained: bool,
    /// The server has announced the end.
    has_ended: bool,
    failed: Option<rustls::Error>,
    /// The last byte written is not counted as sent yet, because the kernel has not taken all of
    /// its record.
    owes_byte: bool,
}

impl Session {
    pub(crate) fn new(mut tls: ClientConnection) -> Self {
        tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Self {
            tls,
            received: vec![0; RECEIVED_BYTES_MAX].into(),
            start: 0,
            end: 0,
            is_drained: false,
            has_ended: false,
            failed: None,
            owes_byte: false,
        }
    }

    /// Makes one step of the handshake: writes, then reads unless the handshake is complete.
    /// Returns whether it is.
    pub(crate) fn shake_hands(&mut self, socket: &Socket) -> io::Result<bool> {
        self.flush(socket, SendFlags::empty())?;
        if !self.tls.is_handshaking() {
            return Ok(true);
        }
        if self.start == self.end {
            self.fill(socket, RecvFlags::empty())?;
            if self.end == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        while self.start < self.end && self.tls.is_handshaking() {
            if let Err(error) = self.take() {
                // This tries to send the server an alert.
                let _ = self.flush(socket, SendFlags::DONTWAIT);
                return Err(error);
            }
        }
        Ok(false)
    }

    /// Reads available bytes; zero bytes are the end. Returns [`ErrorKind::Interrupted`] if what
    /// came contained no bytes for the caller: part of a record, or a record of TLS itself.
    pub(crate) fn read(
        &mut self,
        socket: &Socket,
        room: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<usize> {
        let read = self.read_on(socket, room, flags);
        // TLS may have something to send. If a write is under way, that one sends it.
        if !self.owes_byte && self.tls.wants_write() {
            let _ = self.flush(socket, SendFlags::DONTWAIT);
        }
        read
    }

    fn read_on(&mut self, socket: &Socket, room: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let filled = self.decrypt(room)?;
        if filled > 0 || self.has_ended {
            return Ok(filled);
        }
        self.fill(socket, flags)?;
        match self.decrypt(room)? {
            0 if !self.has_ended => Err(ErrorKind::Interrupted.into()),
            filled => Ok(filled),
        }
    }

    /// Returns whether there may be bytes, or the end, that no event announces.
    pub(crate) fn holds_more(&self) -> bool {
        self.has_ended || !self.is_drained || self.start < self.end
    }

    /// Reads encrypted bytes, after all bytes read before have been used.
    fn fill(&mut self, socket: &Socket, flags: RecvFlags) -> io::Result<()> {
        debug_assert_eq!(self.start, self.end);
        self.is_drained = true;
        let bytes = rustix::net::recv(socket, &mut self.received[..], flags)?.0;
        self.is_drained = bytes < self.received.len();
        (self.start, self.end) = (0, bytes);
        if bytes == 0 {
            self.tls.read_tls(&mut io::empty())?;
        }
        Ok(())
    }

    fn take(&mut self) -> io::Result<()> {
        self.start += self.tls.read_tls(&mut &self.received[self.start..self.end])?;
        if let Err(error) = self.tls.process_new_packets() {
            self.failed = Some(error.clone());
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    /// Decrypts bytes that came. An error is returned after the bytes before it, and again by later
    /// calls.
    fn decrypt(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            let failure = match self.tls.reader().read(&mut room[filled..]) {
                Ok(0) => {
                    self.has_ended = true;
                    break;
                }
                Ok(bytes) => {
                    filled += bytes;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => match &self.failed {
                    Some(error) => Some(io::Error::new(ErrorKind::InvalidData, error.clone())),
                    None if self.start == self.end => break,
                    None => self.take().err(),
                },
                Err(_) => {
                    let text = "closed without the end that TLS announces";
                    Some(io::Error::new(ErrorKind::UnexpectedEof, text))
                }
            };
            match failure {
                Some(_) if filled > 0 => break,
                Some(error) => return Err(error),
                None => {}
            }
        }
        Ok(filled)
    }

    /// Encrypts and writes, and returns how many bytes count as sent. If the kernel does not take
    /// everything, the last byte does not count, and the next call must begin with it again. So the
    /// sender knows, as with any socket, what is still to be done, and that a message has not left
    /// before its last byte has.
    pub(crate) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket, SendFlags::empty())?;
        let mut sent = usize::from(std::mem::take(&mut self.owes_byte));
        while sent < bytes.len() {
            let encrypted = self.tls.writer().write(&bytes[sent..])?;
            sent += encrypted;
            match self.flush(socket, SendFlags::empty()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.owes_byte = true;
                    return if sent > 1 { Ok(sent - 1) } else { Err(error) };
                }
                flushed => flushed?,
            }
        }
        Ok(sent)
    }

    /// Announces the end. An unfinished message stays unfinished, because its sender was told so.
    pub(crate) fn finish(&mut self, socket: &Socket) -> io::Result<()> {
        if self.owes_byte {
            return Ok(());
        }
        self.tls.send_close_notify();
        match self.flush(socket, SendFlags::empty()) {
            // Then closing the socket has to suffice.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Writes all encrypted bytes; an error if the kernel does not take them.
    fn flush(&mut self, socket: &Socket, flags: SendFlags) -> io::Result<()> {
        let mut kernel = Kernel { socket, flags: flags | NO_SIGNAL };
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut kernel) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }
}

/// Shows neither keys nor messages.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

/// The socket to which rustls writes: all records in one call, and without a signal.
struct Kernel<'a> {
    socket: &'a Socket,
    flags: SendFlags,
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.socket, bytes, self.flags)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut nothing = SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(self.socket, slices, &mut nothing, self.flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
