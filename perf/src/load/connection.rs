//! One connection of the generator: its stream, what it has received, what it has to send.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::endpoint::Endpoint;
use crate::poller::SILENCE_MAX;
use crate::wire::{Exchange, Id, Ipc, Role, Scan, Template, Wire};

/// A connection that has introduced itself.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    inbox: Vec<u8>,
    taken: usize,
    filled: usize,
    outbox: Outbox,
}

/// Messages to be sent. One that differs from the last in its number alone is not copied again.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// The number of messages in `bytes`.
    messages: usize,
}

/// Sent bytes in front of unsent ones that are worth moving the rest.
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

/// Room for a read, before any answer has shown how long answers are.
const INBOX_BYTES_MIN: usize = 4 << 10;
/// Room that lets publications pile up, so that one read takes many.
pub(super) const INBOX_BYTES_SUBSCRIBER: usize = 64 << 10;

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes,
    /// Nothing is there yet.
    Nothing,
}

/// Connects to `endpoint` and goes through the introduction of `wire`.
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
    /// Becomes `to` after it has introduced itself as `from`, whose introduction is the
    /// begin of the other.
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

    /// Takes one step of the introduction. Bytes behind its answer stay for the next step, or for
    /// the work.
    fn exchange(&mut self, step: &Exchange) -> Result<(), String> {
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

    /// Forgets what came, for a connection whose answers nobody waits for.
    pub(super) fn discard(&mut self) {
        (self.taken, self.filled) = (0, 0);
    }

    /// The number of the next whole message among what was received.
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

    /// Answers the next whole request among what was received, and returns whether there was one.
    pub(super) fn answer_as_worker(&mut self, wire: &Ipc) -> Result<bool, String> {
        let Some((bytes, answer)) = wire.answer(&self.inbox[self.taken..self.filled])? else {
            return Ok(false);
        };
        self.taken += bytes;
        self.socket.write_all(&answer).map_err(broken)?;
        Ok(true)
    }

    /// Puts `message` with the number `id` behind what is to be sent.
    pub(super) fn queue(&mut self, message: &Template, id: Id) {
        self.outbox.push(message, id);
    }

    pub(super) fn is_sent(&self) -> bool {
        self.outbox.is_sent()
    }

    /// Writes once or more, until all is sent or the kernel takes no more.
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

/// The complaint about an answer that belongs to something else.
pub(super) fn mixed_up(expected: Id, found: Id) -> String {
    let text = |id: Id| String::from_utf8_lossy(&id).into_owned();
    format!("the peer answered {} where {} was due", text(found), text(expected))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn broken(error: io::Error) -> String {
    format!("the connection broke: {error}")
}
