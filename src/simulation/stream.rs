//! A connection as the event loop sees it: the kernel's, or one with a layer that keeps bytes back
//! or begins with a handshake, like TLS.

use std::io::{self, IoSlice};

use super::kernel::{PipeId, SharedKernel};
use super::pipe::FLIGHT_BYTES;
use crate::net::Stream;

/// Bytes that a stream accepts beyond those that the kernel takes.
const UNSENT_BYTES_MAX: usize = 600;
/// Size of the answer to all flights of a handshake but the last.
pub(super) const ANSWER_BYTES: usize = 90;
/// Bytes that a decrypting stream reads at once, and the cost of that besides.
const TAKEN_BYTES_MAX: usize = 200;
const TAKING_COST_BYTES: usize = 500;
/// Cost of one read at most: a whole buffer, and the bytes read beyond it.
pub(super) const READ_COST_BYTES_MAX: usize = 1_024 + TAKEN_BYTES_MAX + TAKING_COST_BYTES;

pub(super) struct SimulatedStream {
    id: PipeId,
    kernel: SharedKernel,
    /// Bytes that the loop has written and the kernel has not taken yet, in a stream that keeps
    /// bytes, as an encrypting one does.
    unsent: Option<Vec<u8>>,
    /// Set if the write side is to be shut when everything has been sent.
    is_finishing: bool,
    /// Set if the kernel had no room, and nothing has been flushed since.
    is_blocked: bool,
    secured: Option<Secured>,
}

/// The layer between the kernel and the loop, if there is a handshake.
struct Secured {
    /// Flights still to come from the client.
    flights: usize,
    /// Bytes of the next flight that have come.
    flight_bytes: usize,
    decrypted: Vec<u8>,
    holds_more: bool,
    opened: bool,
    steps: usize,
    read_cost_bytes: usize,
}

impl SimulatedStream {
    pub(super) fn new(id: PipeId, kernel: SharedKernel) -> Self {
        let flights = kernel.borrow().pipes[id].flights;
        let keeps_bytes = flights > 0 || kernel.borrow_mut().decisions.below(4) == 3;
        let secured = (flights > 0).then(|| Secured::new(flights));
        Self {
            id,
            kernel,
            unsent: keeps_bytes.then(Vec::new),
            is_finishing: false,
            is_blocked: false,
            secured,
        }
    }

    pub(super) fn id(&self) -> PipeId {
        self.id
    }

    /// Writes pending bytes. Returns whether the kernel has taken all of them.
    fn send_pending(&mut self) -> io::Result<bool> {
        let is_all_sent = self.try_send_pending();
        let kept_bytes = self.unsent.as_ref().map_or(0, Vec::len);
        self.kernel.borrow_mut().pipes[self.id].kept_bytes = kept_bytes;
        is_all_sent
    }

    fn try_send_pending(&mut self) -> io::Result<bool> {
        let Some(unsent) = &mut self.unsent else { return Ok(true) };
        while !unsent.is_empty() {
            match self.kernel.borrow_mut().write(self.id, &[unsent]) {
                Ok(bytes) => drop(unsent.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.is_finishing) {
            self.kernel.borrow_mut().shutdown_write(self.id);
        }
        Ok(true)
    }

    fn read_decrypted(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(secured) = &mut self.secured else { return Ok(0) };
        let mut kernel = self.kernel.borrow_mut();
        (secured.holds_more, secured.read_cost_bytes) = (false, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            filled += secured.bring(&mut buffer[filled..], kernel.decisions.chance(200));
            if secured.holds_more {
                break;
            }
            if secured.read_cost_bytes >= buffer.len() {
                secured.holds_more = filled > 0;
                return if filled > 0 {
                    Ok(filled)
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                };
            }
            let mut taken = [0; TAKEN_BYTES_MAX];
            match kernel.read(self.id, &mut taken) {
                Ok(0) => {
                    secured.holds_more = filled > 0;
                    break;
                }
                Ok(bytes) => {
                    let answer_bytes = secured.process(&taken[..bytes]);
                    let unsent = self.unsent.get_or_insert_default();
                    unsent.resize(unsent.len() + answer_bytes, b'a');
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Secured {
    fn new(flights: usize) -> Self {
        Self {
            flights,
            flight_bytes: 0,
            decrypted: Vec::new(),
            holds_more: false,
            opened: false,
            steps: 0,
            read_cost_bytes: 0,
        }
    }

    /// Hands out decrypted bytes, or only `a_part` of them.
    fn bring(&mut self, buffer: &mut [u8], a_part: bool) -> usize {
        let mut bytes = self.decrypted.len().min(buffer.len());
        if a_part && bytes > 1 {
            bytes /= 2;
            self.holds_more = true;
        }
        buffer[..bytes].copy_from_slice(&self.decrypted[..bytes]);
        self.decrypted.drain(..bytes);
        bytes
    }

    /// Processes received bytes. Returns the size of the answer.
    fn process(&mut self, mut bytes: &[u8]) -> usize {
        let mut answer_bytes = 0;
        self.read_cost_bytes += bytes.len() + TAKING_COST_BYTES;
        while self.flights > 0 && !bytes.is_empty() {
            let taken = bytes.len().min(FLIGHT_BYTES - self.flight_bytes);
            bytes = &bytes[taken..];
            self.flight_bytes += taken;
            if self.flight_bytes == FLIGHT_BYTES {
                self.flight_bytes = 0;
                self.steps += 1;
                self.flights -= 1;
                self.opened = self.flights == 0;
                answer_bytes += if self.opened { 0 } else { ANSWER_BYTES };
            }
        }
        self.decrypted.extend_from_slice(bytes);
        answer_bytes
    }
}

impl Stream for SimulatedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = if self.secured.is_some() {
            let read = self.read_decrypted(buffer);
            self.send_pending().and(read)
        } else {
            self.kernel.borrow_mut().read(self.id, buffer)
        };
        let bytes = *read.as_ref().unwrap_or(&0);
        let cost_bytes = self.read_cost_bytes(bytes);
        let mut kernel = self.kernel.borrow_mut();
        kernel.read_bytes += bytes as u64;
        kernel.pipes[self.id].turn_cost_bytes += cost_bytes;
        read
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        if self.unsent.is_none() {
            return self.kernel.borrow_mut().write(self.id, &slices);
        }
        if self.is_handshaking() || !self.send_pending()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for piece in slices.concat().chunks(UNSENT_BYTES_MAX) {
            self.unsent = Some(piece.to_vec());
            written += piece.len();
            if !self.send_pending()? {
                break;
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<bool> {
        if let Some(secured) = &mut self.secured {
            secured.opened = false;
        }
        self.is_blocked = false;
        self.send_pending()
    }

    fn shutdown_write(&mut self) {
        self.is_finishing = true;
        if self.unsent.is_none() {
            self.kernel.borrow_mut().shutdown_write(self.id);
        } else {
            // If the connection is broken, the next read reports it.
            let _ = self.send_pending();
        }
    }

    fn acknowledge_at_once(&mut self) {}

    fn holds_more(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.holds_more)
    }

    fn read_cost_bytes(&self, brought_bytes: usize) -> usize {
        self.secured.as_ref().map_or(brought_bytes, |secured| secured.read_cost_bytes)
    }

    fn wants_flush(&self) -> bool {
        let has_unsent = || self.unsent.as_ref().is_some_and(|unsent| !unsent.is_empty());
        let is_due = |secured: &Secured| secured.opened || self.is_blocked || has_unsent();
        self.secured.as_ref().is_some_and(is_due)
    }

    fn is_handshaking(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.flights > 0)
    }

    fn take_handshake_steps(&mut self) -> usize {
        self.secured.as_mut().map_or(0, |secured| std::mem::take(&mut secured.steps))
    }

    fn held_bytes(&self) -> usize {
        if self.secured.is_some() { 256 } else { 0 }
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let is_all_sent = self.unsent.as_ref().is_none_or(Vec::is_empty) || self.is_handshaking();
        self.kernel.borrow_mut().close(self.id, !is_all_sent);
    }
}
