//! A server made of a socket, which does what the test wants at the moment the test wants it, and
//! helpers that the tests of the clients share.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ipc_framework::client::{Client, ClientOptions, Endpoint, Event, Reconnect};
use serde_json::{Value, json};

use crate::support::{HANG, Peer, eventually};

pub(crate) struct Scripted {
    listener: TcpListener,
}

/// The server's side of a connection, which sends messages as a server.
pub(crate) type Side = Peer;

impl Scripted {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn options(&self) -> ClientOptions {
        let mut options = patient("app", Endpoint::tcp("127.0.0.1", self.address().port()));
        options.heartbeat = None;
        options.reconnect = Some(soon(10));
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

    /// Returns the next connection, without a welcome.
    pub(crate) fn accept_bare(&self) -> Side {
        let stream = eventually("a client", || match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        });
        stream.set_nonblocking(false).unwrap();
        Peer::over(stream).called("app", "server")
    }

    /// Returns whether another connection waits to be accepted.
    pub(crate) fn is_asked(&self) -> bool {
        self.listener.accept().is_ok()
    }

    /// Returns the next connection, with the welcome of a server that knows no extensions.
    pub(crate) fn accept(&self) -> Side {
        self.accept_as(&json!({}))
    }

    /// Returns the next connection, with a welcome that has these members besides.
    pub(crate) fn accept_as(&self, more: &Value) -> Side {
        let mut side = self.accept_bare();
        let connect = side.receive();
        assert_eq!(
            connect["payload"]["extensions"],
            json!(["call", "binary", "topic"]),
            "{connect}"
        );
        let id = connect["payload"]["connection_id"].as_str().unwrap().to_owned();
        side.connection_id = format!("server of {id}");
        let mut welcome = json!({"status": "connected", "connection_id": id});
        welcome.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        side.send("response", "system", welcome);
        side
    }

    /// Connects a client to a server that knows the extension `call`.
    pub(crate) fn call(&self, options: &ClientOptions) -> (Client, Side) {
        let options = options.clone();
        let connecting = std::thread::spawn(move || options.connect().unwrap());
        let side = self.accept_as(&call());
        (connecting.join().unwrap(), side)
    }
}

/// The members of a welcome with the extension `call`.
pub(crate) fn call() -> Value {
    json!({
        "extensions": ["call"],
        "limits": {"max_frame_bytes": 1_000_000, "request_timeout_ms": 30_000},
    })
}

/// Returns the options of a client that gives nothing up while a test runs, and reconnects soon.
pub(crate) fn patient(app_id: &str, endpoint: Endpoint) -> ClientOptions {
    let mut options = ClientOptions::new(app_id);
    options.connection.endpoint = endpoint;
    options.connection.timeout = HANG;
    options.connection.connect_timeout = HANG;
    options.reconnect = Some(soon(50));
    options
}

pub(crate) fn soon(pause_max_ms: u64) -> Reconnect {
    Reconnect::new(Duration::from_millis(1), Duration::from_millis(pause_max_ms))
}

/// Refuses a message of the client.
pub(crate) fn refuse(side: &mut Side, message: &Value, code: &str) {
    side.answer(message, failure(code));
}

pub(crate) fn failure(code: &str) -> Value {
    json!({"status": "error", "code": code, "error": "the test wants it like this"})
}

/// Confirms the client as a worker.
pub(crate) fn admit<T: Send + 'static>(
    side: &mut Side,
    serve: impl FnOnce() -> T + Send + 'static,
) -> T {
    let served = std::thread::spawn(serve);
    let asked = side.receive();
    assert_eq!(asked["payload"]["action"], "serve", "{asked}");
    side.answer(&asked, json!({"status": "serving", "channel": asked["payload"]["channel"]}));
    served.join().unwrap()
}

/// Reads messages up to the end of the connection or an incomplete frame.
pub(crate) fn read_all(side: &mut Side) -> Vec<Value> {
    std::iter::from_fn(|| side.try_receive().ok()).collect()
}

/// Collects what `pick` takes from the events of a client.
pub(crate) fn picked<T: Send + 'static>(
    client: &Client,
    pick: impl Fn(&Event) -> Option<T> + Send + 'static,
) -> Receiver<T> {
    let (sender, told) = channel();
    client.on_event(move |event| {
        if let Some(picked) = pick(event) {
            // The test may have ended.
            let _ = sender.send(picked);
        }
    });
    told
}

/// Collects the reasons for which the connection was lost.
pub(crate) fn errors(client: &Client) -> Receiver<String> {
    picked(client, |event| match event {
        Event::Disconnected { error, .. } => Some(error.to_string()),
        _ => None,
    })
}

/// The events that concern losses.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Lost { unanswered: usize, unconfirmed: u64, waiting: usize },
    Connected,
    Leaving,
    Closed { unsent: usize },
}

pub(crate) fn losses(client: &Client) -> Receiver<Told> {
    picked(client, |event| match *event {
        Event::Disconnected { unanswered, unconfirmed, waiting, .. } => {
            Some(Told::Lost { unanswered, unconfirmed, waiting })
        }
        Event::Connected { .. } => Some(Told::Connected),
        Event::Leaving => Some(Told::Leaving),
        Event::Closed { unsent, .. } => Some(Told::Closed { unsent }),
        _ => None,
    })
}

pub(crate) fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(HANG).expect("an event")
}

/// Publishes numbered messages to a server that does not read, until some of them wait. Returns how
/// many.
pub(crate) fn publish_until_some_wait(client: &Client) -> usize {
    let filler = "x".repeat(60_000);
    let mut sent = 0;
    while client.connection_info().waiting_bytes <= 500_000 {
        client.publish("news", &json!([sent, filler])).unwrap();
        sent += 1;
    }
    sent
}
