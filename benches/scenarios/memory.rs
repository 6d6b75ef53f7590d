//! The broker without sockets: bytes in, bytes out, and a time that the scenario sets.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use ipc_framework::broker::{Access, Action, Broker, ConnectionKey, HangUp, Limits, Now, Written};

use super::messages::frame;

/// The time between two turns: something near what it is over sockets.
const TURN: Duration = Duration::from_micros(37);

pub(super) struct Memory {
    pub(super) broker: Broker,
    now: Now,
    /// The one connection whose output is kept. Copies of all output would be counted, too.
    watched: Option<ConnectionKey>,
    pub(super) seen: Vec<u8>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(super) fn with_limits(limits: Limits) -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let broker = Broker::new(limits, Access::default(), [7; 32], now);
        Self { broker, now, watched: None, seen: Vec::with_capacity(64 << 10) }
    }

    /// A connection that has introduced itself to the application `app`.
    pub(super) fn connected(&mut self, connection_id: &str) -> ConnectionKey {
        let key = self.broker.accept().expect("there is room");
        let sent = self.turn(key, &introduction(connection_id));
        assert_ne!(sent, 0, "a connect is answered");
        key
    }

    /// A connection that has negotiated `call`.
    pub(super) fn extended(&mut self, connection_id: &str) -> ConnectionKey {
        self.with_extension(connection_id, "call")
    }

    /// A connection that has negotiated an extension.
    pub(super) fn with_extension(&mut self, connection_id: &str, extension: &str) -> ConnectionKey {
        let key = self.broker.accept().expect("there is room");
        let connect = format!(
            "{{\"action\":\"connect\",\"connection_id\":\"{connection_id}\",\
             \"extensions\":[\"{extension}\"]}}"
        );
        assert_ne!(self.turn(key, &frame("request", "system", &connect)), 0);
        key
    }

    pub(super) fn subscriber(&mut self, connection_id: &str, channel_id: &str) -> ConnectionKey {
        let key = self.connected(connection_id);
        let sent = self.turn(key, &frame("subscribe", channel_id, r#"{"ack":true}"#));
        assert_ne!(sent, 0, "a subscription is acknowledged");
        key
    }

    /// Subscribes a connection with what the extension `topic` offers.
    pub(super) fn subscribe(&mut self, key: ConnectionKey, channel_id: &str, payload: &str) {
        let sent = self.turn(key, &frame("subscribe", channel_id, payload));
        assert_ne!(sent, 0, "a subscription is acknowledged");
    }

    /// Keeps the bytes that this connection is sent in each turn in [`Memory::seen`].
    pub(super) fn watch(&mut self, key: ConnectionKey) {
        self.watched = Some(key);
    }

    /// One turn of a loop in which one read brought `bytes`. Returns how many bytes left.
    pub(super) fn turn(&mut self, from: ConnectionKey, bytes: &[u8]) -> usize {
        self.now.monotonic += TURN;
        self.now.unix += TURN;
        self.broker.begin_turn(self.now);
        self.broker.receive(from, black_box(bytes));
        self.finish_turn()
    }

    /// A connection that is opened, introduces itself and is closed.
    pub(super) fn visit(&mut self, introduction: &[u8]) -> usize {
        let key = self.broker.accept().expect("there is room");
        let sent = self.turn(key, introduction);
        self.broker.hang_up(key, HangUp::EndOfStream);
        sent + self.finish_turn()
    }

    fn finish_turn(&mut self) -> usize {
        self.seen.clear();
        self.broker.advance();
        let mut sent = 0;
        while let Some(action) = self.broker.next_action() {
            let Action::Flush(key) = action else { continue };
            let (watched, seen) = (self.watched == Some(key), &mut self.seen);
            let flushed = self.broker.flush(key, |queue| {
                let mut bytes = 0;
                let mut take = |slice| {
                    bytes += black_box::<&[u8]>(slice).len();
                    if watched {
                        seen.extend_from_slice(slice);
                    }
                };
                // As the event loop does.
                match queue.only_slice() {
                    Some(slice) => take(slice),
                    None => queue.slices().for_each(take),
                }
                sent += bytes;
                Ok::<_, Infallible>(Written { bytes, holds: false })
            });
            let Ok(flushed) = flushed;
            assert_eq!(flushed.unsent_bytes, 0);
        }
        let now = self.now.monotonic;
        self.broker.end_turn(|| now);
        sent
    }
}

/// The first frame of a connection.
pub(super) fn introduction(connection_id: &str) -> Vec<u8> {
    let payload = format!(r#"{{"action":"connect","connection_id":"{connection_id}"}}"#);
    frame("request", "system", &payload)
}
