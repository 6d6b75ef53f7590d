//! A whole request, from the bytes that came to the bytes that leave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipc_framework::{Config, Server, UnixSocket};

use super::memory::{Memory, introduction};
use super::messages::{ID, body_in_reply, frame, framed, small};
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
        Scenario::new("request/forwarded_and_answered", Work::Frames(4), forwarded),
        Scenario::new("request/echo_over_unix_socket", Work::Frames(2), || echoed(1)),
        Scenario::new("request/32_echoes_over_unix_socket", Work::Frames(2 * PIPELINED), || {
            echoed(PIPELINED)
        }),
    ]
}

/// To a worker in another process, and back.
fn forwarded() -> impl FnMut() {
    let mut memory = Memory::new();
    let worker = memory.connected("worker");
    let serve = frame("request", "system", r#"{"action":"serve","channel":"work"}"#);
    assert_ne!(memory.turn(worker, &serve), 0);
    let requester = memory.connected("requester");
    let request = framed(&small("request", "work"));
    let reply_to = format!("\"{ID}\"");
    let mut answer = framed(&body_in_reply("response", "work", "{\"n\":2}", &reply_to));
    let reply_to_at = answer.len() - "\"}".len() - ID.len();
    memory.watch(worker);
    move || {
        memory.turn(requester, &request);
        // The first field of what the server encodes is the id it gave.
        let start = b"....{\"message_id\":\"".len();
        answer[reply_to_at..][..ID.len()].copy_from_slice(&memory.seen[start..][..ID.len()]);
        assert_ne!(memory.turn(worker, &answer), 0, "the requester gets the answer");
    }
}

/// The server as an embedder runs it, its handler included. Server and client are on one
/// thread; of the kernel's work the instruction counter sees nothing.
fn echoed(requests: usize) -> impl FnMut() {
    let path = socket_path();
    let mut server = Server::bind(Config {
        host: None,
        unix: Some(UnixSocket::at(path.clone())),
        ..Config::default()
    })
    .expect("a place for a socket");
    server.application("app", "The App").channel("echo").on_request(|request| {
        let payload = request.json();
        request.reply_json(&payload)
    });
    let mut client = UnixStream::connect(path).expect("the server listens");
    // Ends a benchmark that would hang.
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout is set");
    let mut answers = vec![0; 64 << 10];
    client.write_all(&introduction("client")).expect("it is taken");
    while client.set_nonblocking(true).is_ok() && client.read(&mut answers).is_err() {
        assert!(server.poll_once(Some(Duration::from_millis(1))).expect("the loop runs"));
    }
    client.set_nonblocking(false).expect("it blocks again");
    let request = framed(&small("request", "echo")).repeat(requests);
    let mut exchange = move |expected: usize| {
        client.write_all(&request).expect("it is taken");
        server.poll_once(None).expect("the loop runs");
        let received = client.read(&mut answers).expect("it is answered in that turn");
        assert!(expected == 0 || received == expected, "{received} bytes");
        received
    };
    let expected = exchange(0);
    move || {
        exchange(expected);
    }
}

fn socket_path() -> PathBuf {
    static SOCKETS: AtomicU32 = AtomicU32::new(0);
    let serial = SOCKETS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ipc-bench-{}-{serial}.sock", std::process::id()))
}
