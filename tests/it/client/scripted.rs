//! A server made of a socket, which does what the test wants at the moment it wants it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipc_framework::client::{Client, ClientOptions, Endpoint, Event, Reconnect};
use serde_json::{Value, json};

use crate::support::{HANG, Peer};

pub(crate) struct Scripted {
    listener: TcpListener,
}

/// Its side of a connection; what it says is what a server says.
pub(crate) type Side = Peer;

impl Scripted {
    pub(crate) fn new() -> Self {
        Self::at(0)
    }

    pub(crate) fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    pub(crate) fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new("app");
        let address = self.listener.local_addr().unwrap();
        options.connection.endpoint = Endpoint::tcp("127.0.0.1", address.port());
        options.connection.timeout = HANG;
        options.connection.connect_timeout = HANG;
        options.heartbeat = None;
        let (pause_min, pause_max) = (Duration::from_millis(1), Duration::from_millis(10));
        options.reconnect = Some(Reconnect::new(pause_min, pause_max));
        options
    }

    pub(crate) fn connect(&self) -> (Client, Side) {
        self.connect_with(&self.options())
    }

    pub(crate) fn connect_with(&self, options: &ClientOptions) -> (Client, Side) {
        let options = options.clone();
        let connecting = std::thread::spawn(move || options.connect().unwrap());
        let side = self.accept();
        (connecting.join().unwrap(), side)
    }

    /// The next connection, not welcomed yet.
    pub(crate) fn accept_bare(&self) -> Side {
        let begin = Instant::now();
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            assert!(begin.elapsed() < HANG, "nobody connects");
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false).unwrap();
        let mut side = Peer::over(stream);
        side.app_id = "app".into();
        side
    }

    /// The next connection, welcomed.
    pub(crate) fn accept(&self) -> Side {
        let mut side = self.accept_bare();
        let connect = side.receive();
        let id = connect["payload"]["connection_id"].as_str().unwrap().to_owned();
        side.connection_id = format!("server of {id}");
        side.send("response", "system", json!({"status": "connected", "connection_id": id}));
        side
    }
}

/// Answers a message of the client.
pub(crate) fn answer(side: &mut Side, message: &Value, payload: &Value) {
    let channel = message["channel_id"].as_str().unwrap().to_owned();
    let mut answer = side.message("response", &channel, payload);
    answer["reply_to"] = message["message_id"].clone();
    side.send_message(&answer);
}

/// Refuses a message of the client.
pub(crate) fn refuse(side: &mut Side, message: &Value, code: &str) {
    answer(side, message, &failure(code));
}

pub(crate) fn failure(code: &str) -> Value {
    json!({"status": "error", "code": code, "error": "the test wants it like this"})
}

/// What comes, up to the end of the connection or a part of a frame.
pub(crate) fn read_all(side: &mut Side) -> Vec<Value> {
    std::iter::from_fn(|| side.try_receive().ok()).collect()
}

/// What is told of losses.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Lost { unanswered: usize, unconfirmed: u64, waiting: usize },
    Connected,
    Leaving,
    Closed { unsent: usize },
}

pub(crate) fn losses(client: &Client) -> Receiver<Told> {
    let (sender, told) = channel();
    client.on_event(move |event| {
        let event = match *event {
            Event::Disconnected { unanswered, unconfirmed, waiting, .. } => {
                Told::Lost { unanswered, unconfirmed, waiting }
            }
            Event::Connected { .. } => Told::Connected,
            Event::Leaving => Told::Leaving,
            Event::Closed { unsent, .. } => Told::Closed { unsent },
            _ => return,
        };
        // The test may have seen enough.
        let _ = sender.send(event);
    });
    told
}

pub(crate) fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(HANG).expect("an event")
}

/// Publishes numbered messages to a server that does not read until some wait. Returns how many.
pub(crate) fn publish_until_some_wait(client: &Client) -> usize {
    let filler = "x".repeat(60_000);
    let mut sent = 0;
    while client.connection_info().waiting_bytes <= 500_000 {
        client.publish("news", &json!([sent, filler])).unwrap();
        sent += 1;
    }
    sent
}
