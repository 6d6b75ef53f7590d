//! In steady state neither a request nor a publication allocates anything, and the memory that
//! peers make the broker keep is counted in its budget.
//!
//! This is a binary of its own because its allocator counts. It counts by thread, so that the tests
//! do not affect each other, and server and clients share the thread of their test.

mod attachments;
mod budget;
mod client_attachments;
mod large_payloads;
mod memory;
mod topics;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use allocation_counter::AllocationInfo;
use ipc_framework::broker::ConnectionKey;
use ipc_framework::client::{Endpoint, Options};
use ipc_framework::{Config, HistoryRule, Limits, Server};

use self::memory::Memory;

const ROUNDS: usize = 1_000;
const SUBSCRIBERS: usize = 10;
/// More than a pooled buffer has by chance.
const SUBSCRIBERS_MANY: usize = 300;
const ID: &str = "5b0c7a52-1f5e-4f0a-9f5c-0d6c2f1c9a11";

fn frame(message_type: &str, channel_id: &str, payload: &str, reply_to: &str) -> Vec<u8> {
    frame_with_id(ID, "app", message_type, channel_id, payload, reply_to)
}

fn frame_of(app_id: &str, message_type: &str, channel_id: &str, payload: &str) -> Vec<u8> {
    frame_with_id(ID, app_id, message_type, channel_id, payload, "null")
}

fn frame_with_id(
    message_id: &str,
    app_id: &str,
    message_type: &str,
    channel_id: &str,
    payload: &str,
    reply_to: &str,
) -> Vec<u8> {
    let body = format!(
        "{{\"message_id\":\"{message_id}\",\"app_id\":\"{app_id}\",\
         \"channel_id\":\"{channel_id}\",\"message_type\":\"{message_type}\",\"payload\":{payload},\
         \"timestamp\":1700000000.25,\"reply_to\":{reply_to}}}"
    );
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn connect(connection_id: &str) -> Vec<u8> {
    connect_with(connection_id, "")
}

fn connect_with(connection_id: &str, members: &str) -> Vec<u8> {
    let payload = format!(r#"{{"action":"connect","connection_id":"{connection_id}"{members}}}"#);
    frame("request", "system", &payload, "null")
}

fn allocations(round: impl FnMut()) -> AllocationInfo {
    allocations_of(ROUNDS, round)
}

/// Warms up, then counts the allocations of as many rounds again.
fn allocations_of(rounds: usize, mut round: impl FnMut()) -> AllocationInfo {
    for _ in 0..rounds {
        round();
    }
    allocation_counter::measure(|| {
        for _ in 0..rounds {
            round();
        }
    })
}

#[track_caller]
fn assert_none(info: &AllocationInfo) {
    assert_eq!((info.count_total, info.bytes_total), (0, 0), "in {ROUNDS} rounds");
}

#[test]
fn an_allocation_would_be_counted() {
    let info = allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(info.count_total, ROUNDS as u64);
    let growing = allocation_counter::measure(|| {
        let mut bytes = Vec::with_capacity(1);
        (0..1_000_u32).for_each(|number| bytes.push(number));
        std::hint::black_box(bytes);
    });
    assert!(growing.count_total > 1, "growing in place is counted too");
}

/// A ring that is full forgets as much as it keeps.
#[test]
fn a_publication_with_a_history_allocates_nothing() {
    let rule = HistoryRule::new("app", "news").messages(100);
    let mut memory = Memory::with(Limits::default().histories([rule]));
    let publisher = memory.connected("publisher");
    let subscribers: Vec<ConnectionKey> = (0..SUBSCRIBERS)
        .map(|at| {
            let members = if at % 2 == 0 { r#","extensions":["topic"]"# } else { "" };
            let key = memory.connected_with(&format!("subscriber-{at}"), members);
            memory.receive(key, &frame("subscribe", "news", "{}", "null"));
            key
        })
        .collect();
    let publication = frame("publish", "news", r#"{"n":1,"text":"hello"}"#, "null");
    let info = allocations(|| {
        memory.receive(publisher, &publication);
        for (at, key) in subscribers.iter().enumerate() {
            let sent = &memory.sent[key.index()];
            assert_eq!(*sent != publication, at % 2 == 0 && sent.len() > publication.len());
        }
    });
    assert_none(&info);
}

/// The client has its own thread here, and so has the server.
#[test]
fn a_connection_allocates_the_message_it_returns_and_nothing_else() {
    const STRINGS_OF_AN_ANSWER: u64 = 5;
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    server.application("app", "The App").channel("echo").on_request(|request| {
        let payload = request.json();
        request.reply_json(&payload)
    });
    let port = server.addresses()[0].port().unwrap();
    let handle = server.handle();
    let running = std::thread::spawn(move || server.run());
    for spin in [false, true] {
        let endpoint = Endpoint::tcp("localhost", port);
        let mut options = Options::new("app");
        (options.endpoint, options.spin) = (endpoint, spin);
        let mut connection = options.connect().unwrap();
        assert_none(&allocations(|| connection.publish("news", &[1, 2, 3]).unwrap()));
        let info = allocations(|| drop(connection.request("echo", &"hello").unwrap()));
        assert_eq!(info.count_total, STRINGS_OF_AN_ANSWER * ROUNDS as u64);
        assert!(connection.try_receive().unwrap().is_none());
        assert_none(&allocations(|| drop(connection.try_receive().unwrap())));
        connection.close().unwrap();
    }
    handle.stop();
    running.join().unwrap().unwrap();
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_publication_in_memory_allocates_nothing() {
    let mut memory = Memory::new();
    let publisher = memory.connected("publisher");
    let subscribers: Vec<ConnectionKey> = (0..SUBSCRIBERS_MANY)
        .map(|at| {
            let key = memory.connected(&format!("subscriber-{at}"));
            memory.receive(key, &frame("subscribe", "news", "{}", "null"));
            key
        })
        .collect();
    let publication = frame("publish", "news", r#"{"n":1,"text":"hello"}"#, "null");
    let info = allocations(|| {
        memory.receive(publisher, &publication);
        for key in &subscribers {
            assert_eq!(memory.sent[key.index()], publication);
        }
    });
    assert_none(&info);
}

#[test]
fn large_frames_are_built_in_buffers_that_are_kept() {
    let mut memory = Memory::new();
    let publisher = memory.connected("publisher");
    let subscriber = memory.connected("subscriber");
    memory.receive(subscriber, &frame("subscribe", "news", "{}", "null"));
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    let publication = frame("publish", "news", &text, "null");
    let mut publish = || {
        for chunk in publication.chunks(64 << 10) {
            memory.receive(publisher, chunk);
        }
    };
    publish();
    publish();
    let info = allocation_counter::measure(publish);
    // The reference count of shared frames, and the mock's own copies of sent bytes.
    assert!(info.count_total <= 4, "{info:?}");
}

#[test]
fn a_request_forwarded_in_memory_allocates_nothing() {
    let mut memory = Memory::new();
    let worker = memory.connected("worker");
    let serve = r#"{"action":"serve","channel":"work"}"#;
    memory.receive(worker, &frame("request", "system", serve, "null"));
    let requester = memory.connected("requester");
    let request = frame("request", "work", r#"{"n":1}"#, "null");
    let mut answer = frame("response", "work", r#"{"n":2}"#, &format!("\"{ID}\""));
    let reply_to_at = answer.len() - "\"}".len() - ID.len();
    let info = allocations(|| {
        memory.receive(requester, &request);
        let task = &memory.sent[worker.index()];
        // The id is the first field that the server encodes.
        let start = b"....{\"message_id\":\"".len();
        answer[reply_to_at..][..ID.len()].copy_from_slice(&task[start..][..ID.len()]);
        memory.receive(worker, &answer);
        assert!(contains(&memory.sent[requester.index()], br#"{"n":2}"#));
    });
    assert_none(&info);
}

/// A server and its clients on one thread, over loopback.
struct Loopback {
    server: Server,
    clients: Vec<TcpStream>,
    buffer: Box<[u8]>,
}

impl Loopback {
    fn new() -> Self {
        let config = Config::default().host("127.0.0.1".to_owned()).port(0);
        let mut server = Server::bind(config).unwrap();
        let mut app = server.application("app", "The App");
        app.channel("echo").on_request(|request| {
            let payload = request.json();
            request.reply_json(&payload)
        });
        app.channel("typed").on_request(|request| {
            let numbers: [i64; 3] = request.payload()?;
            request.reply(&numbers)
        });
        Self { server, clients: Vec::new(), buffer: vec![0; 64 << 10].into() }
    }

    fn connected(&mut self, connection_id: &str) -> usize {
        let port = self.server.addresses()[0].port().unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_nonblocking(true).unwrap();
        client.set_nodelay(true).unwrap();
        self.clients.push(client);
        let client = self.clients.len() - 1;
        self.send(client, &connect(connection_id));
        assert!(contains(self.receive(client), b"connected"));
        client
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        assert_eq!(self.clients[client].write(bytes).unwrap(), bytes.len());
    }

    /// Runs the server until the client has a whole frame.
    fn receive(&mut self, client: usize) -> &[u8] {
        let mut filled = 0;
        loop {
            match self.clients[client].read(&mut self.buffer[filled..]) {
                Ok(bytes) => {
                    assert_ne!(bytes, 0, "the server closed");
                    filled += bytes;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if let Some(header) = self.buffer[..filled].first_chunk::<4>()
                && filled >= 4 + u32::from_be_bytes(*header) as usize
            {
                return &self.buffer[..filled];
            }
            assert!(self.server.poll_once(Some(Duration::from_millis(1))).unwrap());
        }
    }
}

fn allocations_of_requests(channel_id: &str, payload: &str) -> AllocationInfo {
    let mut loopback = Loopback::new();
    let client = loopback.connected("client");
    let request = frame("request", channel_id, payload, "null");
    let expected = format!("\"payload\":{payload}");
    allocations(|| {
        loopback.send(client, &request);
        let answer = loopback.receive(client);
        assert!(contains(answer, expected.as_bytes()));
    })
}

#[test]
fn a_request_over_loopback_allocates_nothing() {
    assert_none(&allocations_of_requests("echo", r#"{"n":[1,2.5,"three"]}"#));
}

#[test]
fn decoding_a_payload_costs_the_one_tape_of_simd_json() {
    // simd-json keeps its other buffers from one document to the next, and makes its tape anew.
    let info = allocations_of_requests("typed", "[1,-2,3]");
    assert!(info.count_total <= ROUNDS as u64, "{info:?}");
}

#[test]
fn a_publication_over_loopback_allocates_nothing() {
    let mut loopback = Loopback::new();
    let publisher = loopback.connected("publisher");
    let subscribers: Vec<usize> = (0..SUBSCRIBERS)
        .map(|at| {
            let client = loopback.connected(&format!("subscriber-{at}"));
            loopback.send(client, &frame("subscribe", "news", r#"{"ack":true}"#, "null"));
            assert!(contains(loopback.receive(client), b"subscribed"));
            client
        })
        .collect();
    let publication = frame("publish", "news", r#"{"n":1,"text":"hello"}"#, "null");
    let info = allocations(|| {
        loopback.send(publisher, &publication);
        for &client in &subscribers {
            assert_eq!(loopback.receive(client), publication);
        }
    });
    assert_none(&info);
}
