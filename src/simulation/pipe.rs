//! One connection in the kernel: the bytes under way in both directions, and the state that the
//! event queue knows.

use std::io;
use std::time::Duration;

use crate::broker::Peer;
use crate::net::Event;

/// Size of a client's flight in a handshake.
pub(super) const FLIGHT_BYTES: usize = 37;

/// The facts that the kernel knows about an ended connection.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Ending {
    pub(super) accepted_at: Option<Duration>,
    /// The kernel did not let the server use it.
    pub(super) was_failed: bool,
    /// The server shut down its side.
    pub(super) was_shut_down: bool,
    /// The server accepted it only to close it.
    pub(super) was_shed: bool,
    /// Bytes under way are lost.
    pub(super) is_abrupt: bool,
    /// Bytes are lost that the server had written and the kernel had not taken.
    pub(super) is_cut_short: bool,
    /// Time for which bytes were in its send buffer, or the server had more to send.
    pub(super) backlog_time: Duration,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, as in the kernel")]
pub(super) struct Pipe {
    /// Bytes sent by the client that are on their way.
    pub(super) in_flight: Vec<u8>,
    /// Bytes in the server's receive buffer.
    pub(super) arrived: Vec<u8>,
    pub(super) arrived_bytes: u64,
    /// Bytes in the server's send buffer, until the client reads them.
    pub(super) outbound: Vec<u8>,
    send_bytes_max: usize,
    /// Bytes that the server's stream has taken and not written yet.
    pub(super) kept_bytes: usize,
    /// Flights of the client before its first message, if its connection begins with a handshake.
    pub(super) flights: usize,
    /// Turns in which it was in a backlog and could have been accepted.
    pub(super) waiting_turns: u32,
    /// The client has shut its side after the bytes in flight.
    pub(super) client_finished: bool,
    finish_arrived: bool,
    end_was_read: bool,
    /// The client has closed both sides: writing to it resets the connection.
    pub(super) client_closed: bool,
    is_reset: bool,
    reset_was_read: bool,
    pub(super) server_finished: bool,
    pub(super) server_closed: bool,
    /// Set when the server closes it, until the turn is over.
    pub(super) was_closed: bool,
    /// Set if the server would read it.
    pub(super) is_wanted: bool,
    /// Since when bytes are there that the server would read.
    pub(super) unread_since: Option<Duration>,
    /// When the server last read bytes.
    pub(super) read_at: Duration,
    /// Set if the client's read ends with a reset.
    pub(super) reset_to_client: bool,
    /// Set if it was closed with bytes that only its stream had, or the server's queue.
    pub(super) is_cut_short: bool,
    pub(super) accepted_at: Option<Duration>,
    /// The client, as the kernel names it.
    pub(super) client: Peer,
    /// The kernel did not let the server use it.
    pub(super) was_failed: bool,
    pub(super) token: Option<usize>,
    wants_writable: bool,
    /// Set while it is in the event queue's list.
    pub(super) is_ready: bool,
    pub(super) passed_over: u32,
    /// So many of its next reads are interrupted.
    pub(super) interruptions: u32,
    /// Set after a write found too little room, until there is more.
    lacks_room: bool,
    /// Set while the kernel has no memory for more.
    pub(super) is_pressed: bool,
    was_served: bool,
    unserved_turns: u32,
    /// Turns in which the server wanted nothing of it for no reason.
    pub(super) held_turns: u32,
    /// Cost of reading it in this turn, in bytes.
    pub(super) turn_cost_bytes: usize,
    /// The last write was not whole: the server has more to send.
    has_unsent: bool,
    /// Total time for which bytes were in the send buffer, or the server had more to send. It may be told
    /// of room, and have no turn to use it.
    pub(super) backlog_time: Duration,
}

impl Pipe {
    pub(super) fn new(send_bytes_max: usize, flights: usize) -> Self {
        Self {
            in_flight: Vec::new(),
            arrived: Vec::new(),
            arrived_bytes: 0,
            outbound: Vec::new(),
            send_bytes_max,
            kept_bytes: 0,
            flights,
            waiting_turns: 0,
            client_finished: false,
            finish_arrived: false,
            end_was_read: false,
            client_closed: false,
            is_reset: false,
            reset_was_read: false,
            server_finished: false,
            server_closed: false,
            was_closed: false,
            is_wanted: false,
            unread_since: None,
            read_at: Duration::ZERO,
            reset_to_client: false,
            is_cut_short: false,
            accepted_at: None,
            client: Peer::Unknown,
            was_failed: false,
            token: None,
            wants_writable: false,
            is_ready: false,
            passed_over: 0,
            interruptions: 0,
            lacks_room: false,
            has_unsent: false,
            is_pressed: false,
            was_served: false,
            unserved_turns: 0,
            held_turns: 0,
            turn_cost_bytes: 0,
            backlog_time: Duration::ZERO,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.accepted_at.is_some() && !self.server_closed
    }

    pub(super) fn pass(&mut self, time: Duration) {
        if !self.outbound.is_empty() || self.lacks_room || self.is_ready || self.has_unsent {
            self.backlog_time += time;
        }
    }

    // The client's side.

    pub(super) fn send(&mut self, bytes: &[u8]) {
        if !self.client_finished && !self.is_reset {
            self.in_flight.extend_from_slice(bytes);
        }
    }

    /// Lets up to this many bytes arrive, and the end after the last of them.
    pub(super) fn arrive(&mut self, bytes: usize) {
        let bytes = bytes.min(self.in_flight.len());
        if self.server_closed {
            self.in_flight.clear();
            self.reset_to_client = true;
            return;
        }
        self.arrived.extend_from_slice(&self.in_flight[..bytes]);
        self.in_flight.drain(..bytes);
        self.arrived_bytes += bytes as u64;
        if self.client_finished && self.in_flight.is_empty() && !self.finish_arrived {
            self.finish_arrived = true;
            self.is_ready = true;
        }
        self.is_ready |= bytes > 0;
    }

    /// Returns whether anything is on its way to the server.
    pub(super) fn is_under_way(&self) -> bool {
        !self.server_closed
            && (!self.in_flight.is_empty() || (self.client_finished && !self.finish_arrived))
            && !self.is_reset
    }

    pub(super) fn receive(&mut self, bytes_max: usize) -> Vec<u8> {
        let bytes = bytes_max.min(self.outbound.len());
        let received = self.outbound.drain(..bytes).collect();
        if self.lacks_room && self.has_much_room() {
            self.lacks_room = false;
            self.is_ready = true;
        }
        received
    }

    pub(super) fn ending(&self) -> Ending {
        Ending {
            accepted_at: self.accepted_at,
            was_failed: self.was_failed,
            was_shut_down: self.server_finished,
            was_shed: self.accepted_at.is_some() && self.token.is_none(),
            is_abrupt: self.reset_to_client,
            is_cut_short: self.is_cut_short,
            backlog_time: self.backlog_time,
        }
    }

    /// Returns whether the client finds the end after the bytes that it has received.
    pub(super) fn is_at_end(&self) -> bool {
        self.outbound.is_empty() && (self.server_finished || self.server_closed)
    }

    pub(super) fn reset_by_client(&mut self, keeps_arrived: bool) {
        self.client_finished = true;
        self.client_closed = true;
        self.in_flight.clear();
        if !keeps_arrived {
            self.arrived.clear();
        }
        self.outbound.clear();
        self.is_reset = true;
        self.is_ready = true;
    }

    pub(super) fn close_by_client(&mut self) {
        if self.outbound.is_empty() {
            self.client_finished = true;
            self.client_closed = true;
        } else {
            // Closing with unread bytes resets the connection.
            self.reset_by_client(true);
        }
    }

    pub(super) fn refuse(&mut self) {
        self.server_closed = true;
        self.reset_to_client = true;
    }

    // The event queue's side.

    pub(super) fn watch(&mut self, token: usize) {
        self.token = Some(token);
        self.is_ready = true;
    }

    pub(super) fn watch_writable(&mut self, wanted: bool) {
        self.wants_writable = wanted;
        self.is_ready = true;
        self.lacks_room |= wanted && !self.has_much_room();
    }

    /// Takes it out of the list, and returns its state if that is worth an event.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        if !std::mem::take(&mut self.is_ready) || !self.is_open() {
            return None;
        }
        let token = self.token?;
        let finished = self.finish_arrived || self.is_reset;
        let readable = finished || !self.arrived.is_empty();
        let writable = self.wants_writable && (self.has_much_room() || self.is_reset);
        (readable || writable).then_some(Event { token, readable, writable, finished })
    }

    /// Returns whether a write may take nothing.
    pub(super) fn is_blocked(&self) -> bool {
        !self.has_much_room() || self.is_handshaking()
    }

    /// Returns whether it was read or written in this turn.
    pub(super) fn was_served(&self) -> bool {
        self.was_served
    }

    fn is_handshaking(&self) -> bool {
        self.arrived_bytes - (self.arrived.len() as u64) < (self.flights * FLIGHT_BYTES) as u64
    }

    /// Like Linux, it reports room when a third is free.
    fn has_much_room(&self) -> bool {
        let room = self.send_bytes_max.saturating_sub(self.outbound.len());
        !self.is_pressed && room * 3 >= self.send_bytes_max
    }

    pub(super) fn relieve(&mut self) {
        self.is_pressed = false;
        self.is_ready = true;
    }

    pub(super) fn note_unread(&mut self, now: Duration) {
        if !self.is_open() || !self.is_wanted || self.arrived.is_empty() {
            self.unread_since = None;
        } else if self.unread_since.is_none() {
            self.unread_since = Some(now);
        }
    }

    // The server's side.

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.was_served = true;
        self.unread_since = None;
        if self.arrived.is_empty() {
            if self.is_reset && !self.reset_was_read {
                self.reset_was_read = true;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.is_reset || self.finish_arrived {
                self.end_was_read = true;
                return Ok(0);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = buffer.len().min(self.arrived.len());
        buffer[..bytes].copy_from_slice(&self.arrived[..bytes]);
        self.arrived.drain(..bytes);
        Ok(bytes)
    }

    pub(super) fn write(
        &mut self,
        slices: &[&[u8]],
        bytes_max: usize,
        wanted: usize,
    ) -> io::Result<usize> {
        if self.server_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.is_reset {
            let was_read = std::mem::replace(&mut self.reset_was_read, true);
            return Err(if was_read {
                io::ErrorKind::BrokenPipe.into()
            } else {
                io::ErrorKind::ConnectionReset.into()
            });
        }
        if self.client_closed {
            self.is_reset = true;
            self.is_ready = true;
            return Ok(wanted);
        }
        let room = self.send_bytes_max.saturating_sub(self.outbound.len());
        if room == 0 || self.is_pressed {
            self.lacks_room = true;
            self.has_unsent = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.was_served = true;
        let bytes = bytes_max.min(room);
        let begin = self.outbound.len();
        for slice in slices {
            self.outbound.extend_from_slice(slice);
        }
        self.outbound.truncate(begin + bytes);
        self.lacks_room |= bytes < wanted;
        self.has_unsent = bytes < wanted;
        self.is_pressed = bytes < wanted && bytes < room;
        Ok(bytes)
    }

    pub(super) fn close(&mut self, lost: usize) {
        self.server_closed = true;
        self.was_closed = true;
        self.is_ready = false;
        if !self.arrived.is_empty() || !self.in_flight.is_empty() {
            // Closing with unread bytes resets the connection, and bytes that were not received yet
            // may be lost.
            self.reset_to_client = true;
            self.outbound.truncate(self.outbound.len() - lost);
        }
        self.arrived.clear();
        self.in_flight.clear();
    }

    /// Ends a turn. Returns for how many turns it was neither read nor written, although its
    /// readiness was reported and the server `wants` to read.
    pub(super) fn count_unserved(&mut self, wants: bool) -> u32 {
        let was_served = std::mem::take(&mut self.was_served);
        let has_end =
            (self.finish_arrived && !self.end_was_read) || (self.is_reset && !self.reset_was_read);
        let is_waiting = (!self.arrived.is_empty() || has_end) && !self.is_ready && self.is_open();
        if is_waiting && wants && !was_served {
            self.unserved_turns += 1;
        } else {
            self.unserved_turns = 0;
        }
        self.unserved_turns
    }
}
