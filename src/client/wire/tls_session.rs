//! TLS over a client's socket: messages on one side, encrypted bytes on the other.
//!
//! What it holds is bounded: one read's worth of what came, and one write's of what is to go.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use rustls::ClientConnection;
use socket2::Socket;

/// Encrypted bytes taken from the kernel at once: two records.
const RECEIVED_BYTES_MAX: usize = 32 << 10;
/// Encrypted bytes that wait for the kernel.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Invariant: `start <= end <= received.len()`.
pub(crate) struct Session {
    tls: ClientConnection,
    received: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read took all that the kernel had.
    is_drained: bool,
    /// The server has said that it says no more.
    has_ended: bool,
    failed: Option<rustls::Error>,
    /// The last byte written is not counted as sent yet, since not all is with the kernel that it
    /// was encrypted with.
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

    /// One step of the handshake: says what is to be said, and reads unless that was all. True
    /// once it is through.
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
                // The server is told what is wrong, if it can be.
                let _ = self.flush(socket, SendFlags::DONTWAIT);
                return Err(error);
            }
        }
        Ok(false)
    }

    /// Reads what is there; zero bytes are the end. [`ErrorKind::Interrupted`] if what came
    /// brought nothing: a part of a record, or one of TLS's own.
    pub(crate) fn read(
        &mut self,
        socket: &Socket,
        room: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<usize> {
        let read = self.read_on(socket, room, flags);
        // TLS may have something to say. Where a write is under way, that one brings it along.
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

    /// Whether there may be more to read, or the end, that no event announces.
    pub(crate) fn holds_more(&self) -> bool {
        self.has_ended || !self.is_drained || self.start < self.end
    }

    /// Takes encrypted bytes from the kernel, when all that came before is used up.
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

    /// What of the bytes that came can be read. An error is returned behind it, and again.
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
                    let text = "cut without TLS's word that this is the end";
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

    /// Encrypts and writes. Counts what is with the kernel whole: of what is not, the last byte
    /// is left for the next call, which has to bring it again. So whoever sends knows as with
    /// any socket what is still to be done, and that a message is not there before its last byte
    /// is.
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

    /// Says that nothing more comes. Half of a message stays a half: its sender was told so.
    pub(crate) fn finish(&mut self, socket: &Socket) -> io::Result<()> {
        if self.owes_byte {
            return Ok(());
        }
        self.tls.send_close_notify();
        match self.flush(socket, SendFlags::empty()) {
            // The end of the socket has to do.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// An error unless all of it is with the kernel.
    fn flush(&mut self, socket: &Socket, flags: SendFlags) -> io::Result<()> {
        let mut kernel = Kernel { socket, flags: flags | SendFlags::NOSIGNAL };
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut kernel) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }
}

/// Neither keys nor what was said.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

/// The socket as rustls writes to it: all records in one call, and no signal.
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
