//! One connection in the kernel: what is under way in both directions, and what the event queue
//! knows of it.

use std::io;
use std::time::Duration;

use crate::net::Event;

/// What the kernel knows of a connection that has ended.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, one bit each")]
pub(super) struct Ending {
    pub(super) accepted_at: Option<Duration>,
    /// The kernel did not let the server use it.
    pub(super) was_failed: bool,
    /// The server said its last words.
    pub(super) was_shut_down: bool,
    /// The server accepted it only to close it.
    pub(super) was_shed: bool,
    /// What was under way is lost.
    pub(super) is_abrupt: bool,
    /// What the server had written and the kernel had not taken is lost.
    pub(super) is_cut_short: bool,
    /// How long something stood in its send buffer.
    pub(super) backlog_time: Duration,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, as in the kernel")]
pub(super) struct Pipe {
    /// Sent by the client, still on its way.
    pub(super) in_flight: Vec<u8>,
    /// In the server's receive buffer.
    pub(super) arrived: Vec<u8>,
    pub(super) arrived_bytes: u64,
    /// In the server's send buffer, until the client reads.
    pub(super) outbound: Vec<u8>,
    send_bytes_max: usize,
    /// What the client says before the first message, if its connection begins with a handshake.
    pub(super) flights: usize,
    /// Turns in which it stood in a backlog and could have been accepted.
    pub(super) waiting_turns: u32,
    /// The client has shut its side behind what is in flight.
    pub(super) client_finished: bool,
    finish_arrived: bool,
    end_was_read: bool,
    /// The client has closed both sides: what is written to it resets the connection.
    pub(super) client_closed: bool,
    is_reset: bool,
    reset_was_read: bool,
    pub(super) server_finished: bool,
    pub(super) server_closed: bool,
    /// What the client finds at the end is a reset.
    pub(super) reset_to_client: bool,
    /// It was closed with bytes that only its stream had.
    pub(super) is_cut_short: bool,
    pub(super) accepted_at: Option<Duration>,
    /// The kernel did not let the server use it.
    pub(super) was_failed: bool,
    pub(super) token: Option<usize>,
    wants_writable: bool,
    /// It stands in the event queue's list.
    pub(super) is_ready: bool,
    pub(super) passed_over: u32,
    /// A write found too little room; there is an event once there is more.
    lacks_room: bool,
    /// The kernel had no memory for more, for a moment.
    pub(super) is_pressed: bool,
    was_served: bool,
    unserved_turns: u32,
    /// What reading it has cost in this turn.
    pub(super) turn_cost_bytes: usize,
    /// How long bytes stood in the send buffer, all together.
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
            reset_to_client: false,
            is_cut_short: false,
            accepted_at: None,
            was_failed: false,
            token: None,
            wants_writable: false,
            is_ready: false,
            passed_over: 0,
            lacks_room: false,
            is_pressed: false,
            was_served: false,
            unserved_turns: 0,
            turn_cost_bytes: 0,
            backlog_time: Duration::ZERO,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.accepted_at.is_some() && !self.server_closed
    }

    pub(super) fn pass(&mut self, time: Duration) {
        if !self.outbound.is_empty() || self.lacks_room || self.is_ready {
            self.backlog_time += time;
        }
    }

    // What the client does.

    pub(super) fn send(&mut self, bytes: &[u8]) {
        if !self.client_finished && !self.is_reset {
            self.in_flight.extend_from_slice(bytes);
        }
    }

    /// Up to so many bytes come through, and behind the last of them the end.
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

    /// Whether something is on its way to the server.
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

    /// Whether the client finds the end behind what it has received.
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
            // Who closes with something unread resets.
            self.reset_by_client(true);
        }
    }

    pub(super) fn refuse(&mut self) {
        self.server_closed = true;
        self.reset_to_client = true;
    }

    // What the event queue does.

    pub(super) fn watch(&mut self, token: usize) {
        self.token = Some(token);
        self.is_ready = true;
    }

    pub(super) fn watch_writable(&mut self, wanted: bool) {
        self.wants_writable = wanted;
        self.is_ready = true;
        self.lacks_room |= wanted && !self.has_much_room();
    }

    /// Takes it out of the list, and shows how it stands now if that is worth an event.
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

    /// As Linux reports it: there is an event for room when it is a third.
    fn has_much_room(&self) -> bool {
        let room = self.send_bytes_max.saturating_sub(self.outbound.len());
        !self.is_pressed && room * 3 >= self.send_bytes_max
    }

    pub(super) fn relieve(&mut self) {
        self.is_pressed = false;
        self.is_ready = true;
    }

    // What the server does.

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.was_served = true;
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
        self.is_pressed = bytes < wanted && bytes < room;
        Ok(bytes)
    }

    pub(super) fn close(&mut self, lost: usize) {
        self.server_closed = true;
        self.is_ready = false;
        if !self.arrived.is_empty() || !self.in_flight.is_empty() {
            // Who closes with something unread resets, and what was not received yet may be lost.
            self.reset_to_client = true;
            self.outbound.truncate(self.outbound.len() - lost);
        }
        self.arrived.clear();
        self.in_flight.clear();
    }

    /// A turn is over. Returns for how many of them it was neither read nor written although
    /// its readiness was reported and the server `wants` to read.
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
