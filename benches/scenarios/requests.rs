//! A whole request, from the bytes that came to the bytes that leave.

use std::sync::{Arc, Mutex};

use ipc_framework::Responder;
use serde::{Deserialize, Serialize};

use super::memory::Memory;
use super::messages::{ID, answer_to, body_in_reply, frame, framed, id_of, small};
use super::sockets::{Peer, Sockets};
use super::{Scenario, Work};

const PIPELINED: usize = 32;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("request/ping", Work::Frames(2), || {
            let mut memory = Memory::new();
            let peer = memory.connected("peer");
            let request = frame("request", "system", r#"{"action":"ping"}"#);
            move || assert_ne!(memory.turn(peer, &request), 0)
        }),
        Scenario::new("request/forwarded_and_answered", Work::Frames(4), || forwarded(&serve())),
        Scenario::new("request/forwarded_with_concurrency", Work::Frames(4), || {
            forwarded(&serve_one())
        }),
        Scenario::new("request/forwarded_between_extended", Work::Frames(4), || extended("")),
        Scenario::new("request/forwarded_with_ttl", Work::Frames(4), || {
            extended(",\"meta\":{\"ttl\":5000}")
        }),
        Scenario::new("request/stream_of_32_parts", Work::Frames(2 * (PARTS + 2)), streamed),
        Scenario::new("request/kept_and_forwarded", Work::Frames(4), kept),
        Scenario::new(
            "request/forwarded_over_unix_sockets",
            Work::Frames(4),
            forwarded_over_sockets,
        ),
        Scenario::new("request/echo_over_unix_socket", Work::Frames(2), || {
            echoed(1, Sockets::connected)
        }),
        Scenario::new("request/32_echoes_over_unix_socket", Work::Frames(2 * PIPELINED), || {
            echoed(PIPELINED, Sockets::connected)
        }),
        Scenario::new("request/echo_over_tcp", Work::Frames(2), || {
            echoed(1, Sockets::connected_by_tcp)
        }),
        #[cfg(feature = "tls")]
        Scenario::new("request/echo_over_tls", Work::Frames(2), super::tls::echoed),
        Scenario::new("request/typed_over_unix_socket", Work::Frames(2), typed),
        Scenario::new("request/deferred_over_unix_socket", Work::Frames(2), deferred),
    ]
}

/// A request that goes to a worker in another process, and its answer.
fn forwarded(serve: &[u8]) -> impl FnMut() + use<> {
    let mut memory = Memory::new();
    let worker = memory.connected("worker");
    assert_ne!(memory.turn(worker, serve), 0);
    let requester = memory.connected("requester");
    let request = framed(&small("request", "work"));
    let (mut answer, id_at) = answer_to(ID);
    memory.watch(worker);
    move || {
        memory.turn(requester, &request);
        answer[id_at.clone()].copy_from_slice(id_of(&memory.seen));
        assert_ne!(memory.turn(worker, &answer), 0, "the requester gets the answer");
    }
}

/// The parts of a stream.
const PARTS: usize = 32;

/// A forwarded request between peers that negotiated `call`.
fn extended(meta: &str) -> impl FnMut() + use<> {
    let mut memory = Memory::new();
    let worker = memory.extended("worker");
    assert_ne!(memory.turn(worker, &serve()), 0);
    let requester = memory.extended("requester");
    let request = with_meta(&small("request", "work"), meta);
    let (mut answer, id_at) = answer_to(ID);
    memory.watch(worker);
    move || {
        memory.turn(requester, &request);
        answer[id_at.clone()].copy_from_slice(id_of(&memory.seen));
        assert_ne!(memory.turn(worker, &answer), 0, "the requester gets the answer");
    }
}

/// A request whose worker answers in parts, each in a read of its own.
fn streamed() -> impl FnMut() {
    let mut memory = Memory::new();
    let worker = memory.extended("worker");
    assert_ne!(memory.turn(worker, &serve()), 0);
    let requester = memory.extended("requester");
    let meta = format!(",\"meta\":{{\"stream\":{PARTS}}}");
    let request = with_meta(&small("request", "work"), &meta);
    let reply_to = format!("\"{ID}\"");
    let part = |payload: &str, meta: &str| {
        let body = body_in_reply("response", "work", payload, &reply_to);
        let id_at = body.rfind(&reply_to).expect("it is there") + "....\"".len();
        (with_meta(&body, meta), id_at)
    };
    let mut parts: Vec<_> =
        (0..PARTS).map(|seq| part("\" token\"", &format!(",\"meta\":{{\"seq\":{seq}}}"))).collect();
    parts.push(part("null", &format!(",\"meta\":{{\"seq\":{PARTS},\"end\":true}}")));
    memory.watch(worker);
    move || {
        memory.turn(requester, &request);
        let id: [u8; ID.len()] = id_of(&memory.seen).try_into().expect("an id");
        for (part, id_at) in &mut parts {
            part[*id_at..][..id.len()].copy_from_slice(&id);
            assert_ne!(memory.turn(worker, part), 0, "the requester gets each part");
        }
    }
}

fn with_meta(body: &str, meta: &str) -> Vec<u8> {
    let open = body.strip_suffix('}').expect("an object");
    framed(&format!("{open}{meta}}}"))
}

/// A request that is kept until the worker has answered the one before, and its answer.
fn kept() -> impl FnMut() {
    let mut memory = Memory::new();
    let worker = memory.connected("worker");
    assert_ne!(memory.turn(worker, &serve_one()), 0);
    let requester = memory.connected("requester");
    let request = framed(&small("request", "work"));
    let (mut answer, id_at) = answer_to(ID);
    memory.watch(worker);
    memory.turn(requester, &request);
    let mut id = id_of(&memory.seen).to_vec();
    move || {
        answer[id_at.clone()].copy_from_slice(&id);
        memory.turn(requester, &request);
        memory.turn(worker, &answer);
        id.copy_from_slice(id_of(&memory.seen));
    }
}

/// A forwarded request over sockets: four reads and two turns of the server.
fn forwarded_over_sockets() -> impl FnMut() {
    let mut sockets = Sockets::new(|_server| {});
    let mut worker = sockets.connected("worker");
    sockets.ask(&mut worker, &serve());
    let mut requester = sockets.connected("requester");
    let request = framed(&small("request", "work"));
    let (mut answer, id_at) = answer_to(ID);
    let mut buffer = vec![0; 4 << 10];
    move || {
        requester.send(&request);
        sockets.turn();
        let received = worker.receive(&mut buffer);
        answer[id_at.clone()].copy_from_slice(id_of(&buffer[..received]));
        worker.send(&answer);
        sockets.turn();
        assert_ne!(requester.receive(&mut buffer), 0);
    }
}

fn serve() -> Vec<u8> {
    frame("request", "system", r#"{"action":"serve","channel":"work"}"#)
}

fn serve_one() -> Vec<u8> {
    frame("request", "system", r#"{"action":"serve","channel":"work","concurrency":1}"#)
}

/// Requests that a handler inside the server answers with their payloads.
fn echoed(requests: usize, connect: fn(&mut Sockets, &str) -> Peer) -> impl FnMut() {
    let mut sockets = Sockets::new(|server| {
        server.application("app", "The App").channel("echo").on_request(|request| {
            let payload = request.json();
            request.reply_json(&payload)
        });
    });
    let mut peer = connect(&mut sockets, "client");
    let request = framed(&small("request", "echo")).repeat(requests);
    let mut answers = vec![0; 64 << 10];
    let mut exchange = move || {
        peer.send(&request);
        sockets.turn();
        peer.receive(&mut answers)
    };
    let expected = exchange();
    move || assert_eq!(exchange(), expected)
}

/// A value such as a typical handler reads and writes.
#[derive(Deserialize, Serialize)]
struct Order {
    item: String,
    amount: u32,
    price: f64,
    tags: Vec<String>,
}

/// A request whose handler decodes the payload to a value and answers with one.
fn typed() -> impl FnMut() {
    let mut sockets = Sockets::new(|server| {
        server.application("app", "The App").channel("orders").on_request(|request| {
            let mut order: Order = request.payload()?;
            order.amount += 1;
            request.reply(&order)
        });
    });
    let mut peer = sockets.connected("client");
    let order = r#"{"item":"Darjeeling","amount":2,"price":7.25,"tags":["tea","black"]}"#;
    let request = frame("request", "orders", order);
    let expected = sockets.ask(&mut peer, &request);
    let mut buffer = vec![0; 4 << 10];
    move || {
        peer.send(&request);
        sockets.turn();
        assert_eq!(peer.receive(&mut buffer), expected);
    }
}

/// A request that is answered in a later turn, as another thread answers it.
fn deferred() -> impl FnMut() {
    let waiting: Arc<Mutex<Option<Responder>>> = Arc::default();
    let handed_over = waiting.clone();
    let mut sockets = Sockets::new(move |server| {
        server.application("app", "The App").channel("later").on_request(move |request| {
            let (reply, responder) = request.defer()?;
            *handed_over.lock().expect("nobody panics") = Some(responder);
            Ok(reply)
        });
    });
    let mut peer = sockets.connected("client");
    let request = framed(&small("request", "later"));
    let mut buffer = vec![0; 4 << 10];
    move || {
        peer.send(&request);
        sockets.turn();
        let responder = waiting.lock().expect("nobody panics").take().expect("it was asked");
        responder.reply(&7).expect("a number is JSON");
        sockets.turn();
        assert_ne!(peer.receive(&mut buffer), 0);
    }
}
