//! One connection of the generator: its stream, its received bytes and its unsent ones.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::endpoint::Endpoint;
use crate::poller::SILENCE_MAX;
use crate::wire::{Exchange, Id, Role, Scan, Template, Wire};

/// A connection that has completed its handshake.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    inbox: Vec<u8>,
    taken: usize,
    filled: usize,
    outbox: Outbox,
}

/// Messages to be sent. One that differs from the last only in its number is not copied again.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// The number of messages in `bytes`.
    messages: usize,
}

/// The number of sent bytes at the front that makes it worth moving the unsent ones forward.
const OUTBOX_BYTES_MOVED: usize = 1 << 20;

impl Outbox {
    fn push(&mut self, message: &Template, id: Id) {
        if self.is_sent() {
            self.sent = 0;
            if self.messages != 1 {
                self.bytes.clear();
                self.bytes.extend_from_slice(message.bytes());
                self.messages = 1;
            }
            message.stamp(&mut self.bytes, id);
            return;
        }
        if self.sent > OUTBOX_BYTES_MOVED {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message.bytes());
        message.stamp(&mut self.bytes[start..], id);
        self.messages += 1;
    }

    fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

/// The room for a read before the length of answers is known.
const INBOX_BYTES_MIN: usize = 4 << 10;
/// The room for a read of a subscriber, so large that one read takes many publications.
pub(super) const INBOX_BYTES_SUBSCRIBER: usize = 64 << 10;

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes,
    /// No bytes have arrived yet.
    Nothing,
}

/// Connects to `endpoint` and goes through the handshake of `wire`.
pub(crate) fn connect(
    endpoint: &Endpoint,
    wire: &dyn Wire,
    role: Role,
    index: usize,
) -> Result<Connection, String> {
    let cannot = |error| format!("cannot connect to {endpoint}: {error}");
    let socket = endpoint.connect(SILENCE_MAX).map_err(cannot)?;
    let mut connection =
        Connection { socket, inbox: Vec::new(), taken: 0, filled: 0, outbox: Outbox::default() };
    for step in wire.join(role, index) {
        connection.exchange(&step)?;
    }
    Ok(connection)
}

impl Connection {
    /// Completes the handshake of `to`, of which it has already done that of `from`.
    pub(crate) fn join_further(
        &mut self,
        wire: &dyn Wire,
        from: Role,
        to: Role,
        index: usize,
    ) -> Result<(), String> {
        let done = wire.join(from, index).len();
        wire.join(to, index)[done..].iter().try_for_each(|step| self.exchange(step))
    }

    /// Takes one step of the handshake. Bytes after its answer are kept for the next step, or for
    /// the work.
    pub(super) fn exchange(&mut self, step: &Exchange) -> Result<(), String> {
        self.socket.write_all(&step.send).map_err(broken)?;
        loop {
            if let Some(bytes) = step.until.met_by(&self.inbox[self.taken..self.filled])? {
                self.taken += bytes;
                return Ok(());
            }
            if self.receive(0)? == Received::Nothing {
                return Err("the peer does not answer the introduction".into());
            }
        }
    }

    pub(super) fn set_nonblocking(&self) -> Result<(), String> {
        self.socket.set_nonblocking(true).map_err(broken)
    }

    /// Reads once, into at least `room` bytes.
    pub(super) fn receive(&mut self, room: usize) -> Result<Received, String> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        }
        if self.inbox.len() - self.filled < room.max(INBOX_BYTES_MIN) / 2 {
            self.inbox.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
            let needed = (2 * self.filled).max(room).max(INBOX_BYTES_MIN);
            if self.inbox.len() < needed {
                self.inbox.resize(needed, 0);
            }
        }
        match self.socket.read(&mut self.inbox[self.filled..]) {
            Ok(0) => Err("the peer closed the connection".into()),
            Ok(bytes) => {
                self.filled += bytes;
                Ok(Received::Bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received::Nothing),
            Err(error) => Err(broken(error)),
        }
    }

    /// Drops the received bytes of a connection whose answers are not used.
    pub(super) fn discard(&mut self) {
        (self.taken, self.filled) = (0, 0);
    }

    /// Takes the next whole message from the received bytes. Returns its number.
    pub(super) fn next(&mut self, wire: &dyn Wire) -> Result<Option<Id>, String> {
        loop {
            if self.taken == self.filled {
                return Ok(None);
            }
            match wire.scan(&self.inbox[self.taken..self.filled])? {
                Scan::Partial => return Ok(None),
                Scan::Aside { bytes } => self.taken += bytes,
                Scan::Message { bytes, id } => {
                    self.taken += bytes;
                    return Ok(Some(id));
                }
            }
        }
    }

    /// Answers the next whole request in the received bytes. Returns whether there was one.
    pub(super) fn answer_as_worker(&mut self, wire: &dyn Wire) -> Result<bool, String> {
        let Some((bytes, answer)) = wire.answer(&self.inbox[self.taken..self.filled])? else {
            return Ok(false);
        };
        self.taken += bytes;
        self.socket.write_all(&answer).map_err(broken)?;
        Ok(true)
    }

    /// Queues `message` with the number `id`.
    pub(super) fn queue(&mut self, message: &Template, id: Id) {
        self.outbox.push(message, id);
    }

    pub(super) fn is_sent(&self) -> bool {
        self.outbox.is_sent()
    }

    /// Writes until everything is sent or the kernel has no more room.
    pub(super) fn send(&mut self) -> Result<(), String> {
        while !self.outbox.is_sent() {
            match self.socket.write(self.outbox.unsent()) {
                Ok(bytes) => self.outbox.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the error for an answer that belongs to another message.
pub(super) fn mixed_up(expected: Id, found: Id) -> String {
    let text = |id: Id| String::from_utf8_lossy(&id).into_owned();
    format!("the peer answered {} where {} was due", text(found), text(expected))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn broken(error: io::Error) -> String {
    format!("the connection broke: {error}")
}
