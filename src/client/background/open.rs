//! An open connection as the driver sees it, and the heartbeat that finds out whether its server is
//! alive.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;

use super::outbox::Kind;
use super::shared::{Limit, Shared};
use super::waiter::Waiter;
use crate::client::error::{Error, Execution};
use crate::client::wire::encoder::Heading;
use crate::client::wire::read_buffer::ReadBuffer;
use crate::client::wire::socket::Socket;
use crate::proto::system::{Action, SYSTEM};
use crate::proto::{Extensions, MessageType};

/// More frequent pings would keep both sides busy with nothing else.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// The bytes that a server is expected to read in the time of one heartbeat, and those that the
/// kernels of both sides hold at most. A ping stands behind all that was sent before it, and
/// nothing shows how far the server has read what the kernels hold.
const HEARTBEAT_BYTES: u64 = 2 << 20;
const KERNEL_BYTES: u64 = 8 << 20;

/// Bytes that had arrived at a moment, as far as nobody has read them yet.
#[derive(Debug)]
struct Backlog {
    at: Instant,
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) socket: Arc<Socket>,
    pub(crate) buffer: ReadBuffer,
    pub(crate) extensions: Extensions,
    pub(crate) interest: Interest,
    pub(crate) is_readable: bool,
    /// The peer has closed. The end comes after bytes that are still to be read, and no second
    /// event announces it.
    pub(crate) has_ended: bool,
    pub(crate) since: Instant,
    /// It has served a caller: it brought an answer, a publication or a request. Answers to messages
    /// of the driver itself prove nothing, because a server that welcomes everybody and closes may
    /// send them too.
    pub(crate) is_proven: bool,
    backlog: Option<Backlog>,
    last_read: Instant,
    /// The time of a ping that is not answered yet, or of the server's last sign of life after it.
    asked: Option<Instant>,
    next_heartbeat: Option<Instant>,
}

impl Open {
    pub(crate) fn new(
        socket: Arc<Socket>,
        buffer: ReadBuffer,
        extensions: Extensions,
        has_heartbeat: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            buffer,
            extensions,
            interest: Interest::READABLE,
            // Bytes that came with the welcome are in the buffer already.
            is_readable: true,
            has_ended: false,
            since: now,
            is_proven: false,
            backlog: None,
            last_read: now,
            asked: None,
            next_heartbeat: has_heartbeat.then_some(now),
        }
    }

    /// Reads available bytes, and notes whether there are more. Returns whether any came.
    pub(crate) fn read(&mut self) -> Result<bool, Error> {
        let room = self.buffer.room();
        let room_bytes = room.len();
        match self.socket.try_recv(room) {
            Ok(0) => Err(Error::lost(Execution::Possible, None)),
            Ok(bytes) => {
                self.buffer.filled(bytes);
                self.last_read = Instant::now();
                self.asked = None;
                if let Some(backlog) = &mut self.backlog {
                    backlog.bytes = backlog.bytes.saturating_sub(bytes as u64);
                }
                // A short read has emptied the socket, so another read would bring nothing.
                self.is_readable =
                    bytes == room_bytes || self.has_ended || self.socket.holds_more();
                Ok(true)
            }
            // That was a record of TLS itself; the next read brings what follows it.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(false)
            }
            Err(error) => Err(Error::lost(Execution::Possible, error)),
        }
    }

    /// Returns the moment up to which everything that arrived has been read, given that the socket
    /// was read after `now`. It is unknown while a server sends more than the driver can read.
    pub(crate) fn read_up_to(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_readable {
            self.backlog = None;
            return Some(now);
        }
        match &self.backlog {
            Some(backlog) if backlog.bytes > 0 => None,
            Some(_) => self.backlog.take().map(|backlog| backlog.at),
            None => {
                let at = Instant::now();
                self.backlog = Some(Backlog { at, bytes: self.socket.unread_bytes() });
                None
            }
        }
    }

    /// The kernel took bytes again, so the server is reading, if slowly.
    pub(crate) fn has_written(&mut self) {
        self.asked = self.asked.map(|_| Instant::now());
    }

    pub(crate) fn next_heartbeat(&self) -> Option<Instant> {
        self.next_heartbeat
    }

    /// Sends a ping to a silent server. Returns an error if the server is dead: if it had not
    /// answered by `now`, and everything that arrived until then has been read.
    pub(crate) fn heartbeat(&mut self, shared: &Shared, now: Instant) -> Result<(), Error> {
        let (Some(interval), Some(at)) = (shared.options.heartbeat, self.next_heartbeat) else {
            return Ok(());
        };
        if at > now {
            return Ok(());
        }
        let interval = interval.max(HEARTBEAT_MIN);
        let state = shared.lock();
        let (answers_ping, unconfirmed) = (state.answers_ping, state.pending.unconfirmed());
        let unread_bytes = state.pending.unread_bytes() + state.outbox.begun_bytes();
        drop(state);
        let unread_bytes = unread_bytes.min(KERNEL_BYTES);
        let patience = interval.saturating_mul(1 + (unread_bytes / HEARTBEAT_BYTES) as u32);
        self.next_heartbeat = now.checked_add(interval);
        if let Some(asked) = self.asked
            && now.duration_since(asked) >= patience
        {
            if answers_ping {
                let silent = std::io::Error::from(ErrorKind::TimedOut);
                return Err(Error::lost(Execution::Possible, silent));
            }
            // The server has never answered a ping, so it does not know them. TCP keep-alive has to
            // suffice.
            self.next_heartbeat = None;
            return Ok(());
        }
        let is_known = answers_ping && now.duration_since(self.last_read) < interval;
        if self.asked.is_none() && !(is_known && unconfirmed == 0) {
            let heading = Heading::new(MessageType::Request, SYSTEM);
            // The deadline removes a ping that is never answered, because the server may not know
            // pings.
            let deadline = now.checked_add(patience.saturating_mul(2));
            let (waiter, limit) = (Waiter::Heartbeat, Limit::watched(deadline));
            let asked = shared.ask(heading, &Action::PING, Kind::Control, waiter, limit);
            if let Ok(id) = asked {
                shared.lock().heartbeat = Some(id);
                self.asked = Some(now);
            }
        }
        Ok(())
    }
}
