//! Many clients, each with a fixed number of requests outstanding.

use std::collections::VecDeque;

use super::connection::{Connection, Received, mixed_up};
use super::recorder::{Outcome, Phases, Recorder};
use crate::poller::{Interest, Poller, Ready, SILENCE_MAX, Wait};
use crate::wire::{self, Id, Template, Wire};

/// A connection and the answers that it waits for.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) connection: Connection,
    message: Template,
    /// The numbers and start times of the requests in flight, oldest first.
    pending: VecDeque<(Id, u64)>,
    waits_for_room: bool,
}

/// All clients of a run.
pub(super) struct Clients {
    pub(super) poller: Poller,
    pub(super) all: Vec<Client>,
    number: u32,
    pub(super) outstanding: usize,
    heard: u64,
}

impl Clients {
    pub(super) fn new(connections: Vec<Connection>, wire: &dyn Wire) -> Result<Self, String> {
        let poller = Poller::new()?;
        let mut clients = Vec::with_capacity(connections.len());
        for (index, connection) in connections.into_iter().enumerate() {
            connection.set_nonblocking()?;
            poller.add(&connection, index)?;
            clients.push(Client {
                connection,
                message: wire.message(index),
                pending: VecDeque::new(),
                waits_for_room: false,
            });
        }
        Ok(Self { poller, all: clients, number: 0, outstanding: 0, heard: 0 })
    }

    /// Queues one more request of a client, which counts as begun at `begin`.
    pub(super) fn queue(&mut self, index: usize, begin: u64) {
        let id = wire::id(self.number);
        self.number = self.number.wrapping_add(1);
        let client = &mut self.all[index];
        client.connection.queue(&client.message, id);
        client.pending.push_back((id, begin));
        self.outstanding += 1;
    }

    /// Sends the queued requests, and watches for room if the kernel has none.
    pub(super) fn send(&mut self, index: usize) -> Result<(), String> {
        let client = &mut self.all[index];
        client.connection.send()?;
        let waits_for_room = !client.connection.is_sent();
        if waits_for_room != client.waits_for_room {
            client.waits_for_room = waits_for_room;
            let interest = if waits_for_room { Interest::Both } else { Interest::Read };
            self.poller.set_interest(&client.connection, index, interest)?;
        }
        Ok(())
    }

    /// Reads a client that is ready. Calls `answered` with the start time of each request that was
    /// answered and the time of the read, and returns the number of these calls.
    pub(super) fn receive(
        &mut self,
        index: usize,
        wire: &dyn Wire,
        recorder: &mut Recorder,
        mut answered: impl FnMut(&mut Recorder, u64, u64),
    ) -> Result<(usize, u64), String> {
        let client = &mut self.all[index];
        if client.connection.receive(client.message.bytes().len())? == Received::Nothing {
            return Ok((0, 0));
        }
        let now = recorder.now();
        self.heard = now;
        let mut answers = 0;
        while let Some(id) = client.connection.next(wire)? {
            let Some((expected, begin)) = client.pending.pop_front() else {
                return Err("the peer answered what was not asked".into());
            };
            if id != expected {
                return Err(mixed_up(expected, id));
            }
            answered(recorder, begin, now);
            answers += 1;
        }
        self.outstanding -= answers;
        Ok((answers, now))
    }

    /// Fails if no answer has come for too long although some are due.
    pub(super) fn check_silence(&self, now: u64) -> Result<(), String> {
        if self.outstanding > 0 && now.saturating_sub(self.heard) > SILENCE_MAX.as_nanos() as u64 {
            return Err(format!(
                "{} answers are missing after {} s",
                self.outstanding,
                SILENCE_MAX.as_secs()
            ));
        }
        Ok(())
    }
}

/// Keeps `window` requests of every connection in flight. At the end, it waits for all answers.
pub(crate) fn closed_loop(
    connections: Vec<Connection>,
    wire: &dyn Wire,
    wait: Wait,
    window: usize,
    phases: Phases,
) -> Result<Outcome, String> {
    let mut clients = Clients::new(connections, wire)?;
    let mut recorder = Recorder::new(phases);
    for index in 0..clients.all.len() {
        let begin = recorder.now();
        for _ in 0..window {
            clients.queue(index, begin);
        }
        clients.send(index)?;
    }
    let mut is_over = false;
    while !is_over || clients.outstanding > 0 {
        let events = clients.poller.wait(wait)?;
        for at in 0..events {
            let Ready { token, readable, writable } = clients.poller.ready(at);
            let mut due = writable;
            if readable {
                let (answers, now) =
                    clients.receive(token, wire, &mut recorder, Recorder::record)?;
                if !is_over {
                    (0..answers).for_each(|_| clients.queue(token, now));
                    due |= answers > 0;
                }
            }
            if due {
                clients.send(token)?;
            }
        }
        let now = recorder.now();
        is_over = recorder.is_over(now);
        clients.check_silence(now)?;
    }
    Ok(recorder.finish())
}
