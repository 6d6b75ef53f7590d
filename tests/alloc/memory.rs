//! The broker without sockets, driven turn by turn.

use std::convert::Infallible;
use std::time::Duration;

use ipc_framework::broker::{Access, Action, Broker, ConnectionKey, Limits, Now, Written};

use super::{connect_with, contains};

/// The broker and its time.
pub(super) struct Turns {
    pub(super) broker: Broker,
    now: Now,
}

impl Turns {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        Self { broker: Broker::new(limits, Access::default(), [7; 32], now), now }
    }

    pub(super) fn accept(&mut self) -> ConnectionKey {
        self.broker.accept().unwrap()
    }

    /// Runs one turn of a loop in which `bytes` came from one connection. Output goes to `take`,
    /// which returns whether the kernel would have room for it.
    pub(super) fn receive(
        &mut self,
        from: ConnectionKey,
        bytes: &[u8],
        mut take: impl FnMut(ConnectionKey, &[u8]) -> bool,
    ) {
        let step = Duration::from_micros(37);
        self.now.monotonic += step;
        self.now.unix += step;
        self.broker.begin_turn(self.now);
        self.broker.receive(from, bytes);
        self.broker.advance();
        while let Some(action) = self.broker.next_action() {
            let Action::Flush(key) = action else { continue };
            let flushed = self.broker.flush(key, |queue| {
                let taken = queue.slices().take_while(|slice| take(key, slice));
                let bytes = taken.map(<[u8]>::len).sum();
                Ok::<_, Infallible>(Written { bytes, holds: false })
            });
            assert!(flushed.is_ok());
        }
        let now = self.now.monotonic;
        self.broker.end_turn(|| now);
    }

    pub(super) fn memory_bytes(&mut self) -> usize {
        self.broker.context().stats().memory_bytes
    }
}

/// A broker whose output goes into one buffer for each connection.
pub(super) struct Memory {
    turns: Turns,
    /// The bytes that each connection was sent in this turn, by the index of its key.
    pub(super) sent: Vec<Vec<u8>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        Self { turns: Turns::new(limits), sent: Vec::new() }
    }

    pub(super) fn connected(&mut self, connection_id: &str) -> ConnectionKey {
        self.connected_with(connection_id, "")
    }

    /// Connects with more members in the payload, which begin with a comma.
    pub(super) fn connected_with(&mut self, connection_id: &str, members: &str) -> ConnectionKey {
        let key = self.turns.accept();
        self.sent.resize_with(key.index() + 1, || Vec::with_capacity(64 << 10));
        self.receive(key, &connect_with(connection_id, members));
        assert!(contains(&self.sent[key.index()], b"connected"));
        key
    }

    pub(super) fn receive(&mut self, from: ConnectionKey, bytes: &[u8]) {
        let sent = &mut self.sent;
        sent.iter_mut().for_each(Vec::clear);
        self.turns.receive(from, bytes, |key, slice| {
            sent[key.index()].extend_from_slice(slice);
            true
        });
    }
}
