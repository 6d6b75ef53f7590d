//! A connection as the event loop sees it: as the kernel has it, or with something in between that
//! keeps bytes to itself or begins with a handshake, as TLS does.

use std::io::{self, IoSlice};

use super::kernel::{PipeId, SharedKernel};
use crate::net::Stream;

/// What a stream takes beyond what the kernel takes.
const UNSENT_BYTES_MAX: usize = 600;
/// What a client says in one step of a handshake, and what it is answered to all but the last.
pub(super) const FLIGHT_BYTES: usize = 37;
pub(super) const ANSWER_BYTES: usize = 90;
/// Taken from the kernel at once by a stream that decrypts, and what that costs beside.
const TAKEN_BYTES_MAX: usize = 200;
const TAKING_COST_BYTES: usize = 500;
/// What one read may cost: a whole buffer, and what was taken over it.
pub(super) const READ_COST_BYTES_MAX: usize = 1_024 + TAKEN_BYTES_MAX + TAKING_COST_BYTES;

pub(super) struct SimulatedStream {
    id: PipeId,
    kernel: SharedKernel,
    /// Taken from the loop and not with the kernel yet, if it is one that keeps bytes, as one
    /// that encrypts does.
    unsent: Option<Vec<u8>>,
    /// The write side is to be shut when everything is sent.
    is_finishing: bool,
    secured: Option<Secured>,
}

/// What stands between the kernel and the loop, where there is a handshake first.
struct Secured {
    /// Still to come from the client.
    flights: usize,
    /// Of the next flight, those that have come.
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
        Self { id, kernel, unsent: keeps_bytes.then(Vec::new), is_finishing: false, secured }
    }

    pub(super) fn id(&self) -> PipeId {
        self.id
    }

    /// Returns whether all of it is with the kernel.
    fn send_pending(&mut self) -> io::Result<bool> {
        let Some(unsent) = &mut self.unsent else { return Ok(true) };
        while !unsent.is_empty() {
            match self.kernel.borrow_mut().write(self.id, &[unsent]) {
                Ok(bytes) => drop(unsent.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
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

    /// Hands out what was decrypted, or only `a_part` of it.
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

    /// Returns how many bytes the answer has.
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
        self.send_pending()
    }

    fn shutdown_write(&mut self) {
        self.is_finishing = true;
        if self.unsent.is_none() {
            self.kernel.borrow_mut().shutdown_write(self.id);
        } else {
            // If the connection is broken, the next read says so.
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
        self.secured.as_ref().is_some_and(|secured| secured.opened || has_unsent())
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
