//! Peers that break the rules, die, or never speak: each harms itself alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use ipc_framework_rings::{Descriptors, End};
use serde_json::json;

use super::line::{ask, descriptors};
use super::{Shared, limits, raw, serve};
use crate::support::{HANG, frame};

/// Where the index of the writer of the ring to the server lies, that of its reader, and the bytes.
const TAIL: u64 = 0;
const HEAD: u64 = 128;
/// The same of the ring to the client.
const OTHER_TAIL: u64 = 512;
const OTHER_HEAD: u64 = 512 + 128;
const FLAGS: [u64; 4] = [256, 384, 512 + 256, 512 + 384];
const BYTES: u64 = 4_096;

/// A peer that has the memory and may write anything into it.
struct Scribbler {
    memory: File,
    to_server: File,
    _to_client: OwnedFd,
    socket: UnixStream,
}

impl Scribbler {
    fn new(server: &Shared, id: &str) -> Self {
        let socket = raw(&server.path, id);
        let (Descriptors { memory, to_server, to_client }, _) = descriptors(&socket);
        Self { memory: memory.into(), to_server: to_server.into(), _to_client: to_client, socket }
    }

    fn set(&self, at: u64, word: u32) {
        self.memory.write_all_at(&word.to_ne_bytes(), at).unwrap();
    }

    fn wake(&mut self) {
        self.to_server.write_all(&1_u64.to_ne_bytes()).unwrap();
    }

    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).expect("the server closes");
        assert_eq!(rest, [0; 0], "nothing but the end comes over the socket");
    }
}

#[test]
fn nonsense_in_the_memory_closes_that_connection_alone() {
    let server = serve("shm-scribble", limits());
    let mut bystander = server.peer("bystander");
    for (at, (place, word)) in
        [(TAIL, u32::MAX), (TAIL, (64 << 10) + 1), (TAIL, 1 << 31)].into_iter().enumerate()
    {
        let mut scribbler = Scribbler::new(&server, &format!("scribbler-{at}"));
        scribbler.set(place, word);
        scribbler.wake();
        scribbler.expect_end();
        let failures = at as u64 + 1;
        server
            .server
            .wait_until("the count", |stats| stats.counters.transport_failures == failures);
        bystander.fence();
    }
}

#[test]
fn an_index_of_the_reader_that_cannot_be_is_found_when_its_ring_seems_full() {
    let server = serve("shm-head", limits());
    let mut bystander = server.peer("bystander");
    let mut scribbler = Scribbler::new(&server, "scribbler");
    scribbler.set(OTHER_HEAD, 1 << 31);
    // It is looked at when there seems to be no room.
    let ask = json!({"message_id": "p", "app_id": "app", "channel_id": "system",
        "message_type": "request", "timestamp": 0, "payload": {"action": "get_stats"}});
    let bytes = frame(ask.to_string().as_bytes()).repeat(100);
    scribbler.memory.write_all_at(&bytes, BYTES).unwrap();
    scribbler.set(TAIL, bytes.len() as u32);
    scribbler.wake();
    scribbler.expect_end();
    bystander.fence();
}

#[test]
fn scribbling_on_what_is_the_servers_own_changes_nothing_for_others() {
    let server = serve("shm-own", limits());
    let mut bystander = server.peer("bystander");
    let mut scribbler = Scribbler::new(&server, "scribbler");
    for round in 0..200_u32 {
        for at in FLAGS.into_iter().chain([HEAD, OTHER_TAIL]) {
            scribbler.set(at, round.wrapping_mul(2_654_435_761));
        }
        scribbler.wake();
        bystander.fence();
    }
    // Bytes that are no frame are answered or close it, as on a socket.
    scribbler.memory.write_all_at(&[0xff; 64], BYTES).unwrap();
    scribbler.set(TAIL, 64);
    scribbler.wake();
    scribbler.expect_end();
    bystander.fence();
}

#[test]
fn a_byte_on_the_socket_closes_the_connection_behind_what_is_in_the_ring() {
    let server = serve("shm-byte", limits());
    let mut subscriber = server.on_socket("subscriber").subscribed("news");
    for round in 0..20 {
        let mut peer = server.peer(&format!("peer-{round}"));
        peer.send("publish", "news", json!(round));
        peer.stream.socket.write_all(b"x").unwrap();
        assert_eq!(subscriber.receive()["payload"], round);
        while peer.try_receive().is_ok() {}
    }
    subscriber.fence();
}

#[test]
fn what_is_sent_behind_the_request_is_refused_or_closes_the_connection() {
    let server = serve("shm-early", limits());
    let mut socket = raw(&server.path, "early");
    let request = json!({"message_id": "s", "app_id": "app", "channel_id": "system",
        "message_type": "request", "timestamp": 0, "payload": ask(1)});
    let both = [frame(request.to_string().as_bytes()), frame(b"{}")].concat();
    socket.write_all(&both).unwrap();
    let mut answer = [0; 4_096];
    let bytes = socket.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..bytes]);
    assert!(text.contains("bad_message") && text.contains("share_memory"), "{text}");
    server.peer("next").fence();
}

#[test]
fn the_memory_cannot_be_truncated_or_sealed() {
    let server = serve("shm-truncate", limits());
    let scribbler = Scribbler::new(&server, "scribbler");
    for bytes in [0, 4_096, 1 << 30] {
        scribbler.memory.set_len(bytes).unwrap_err();
    }
    server.peer("next").fence();
}

#[test]
fn peers_that_share_and_never_take_the_answer_cost_nobody_else() {
    let server = serve("shm-mute", limits());
    let mut mute = Vec::new();
    for at in 0..50 {
        let mut socket = raw(&server.path, &format!("mute-{at}"));
        let request = json!({"message_id": "s", "app_id": "app", "channel_id": "system",
            "message_type": "request", "timestamp": 0, "payload": ask(1)});
        socket.write_all(&frame(request.to_string().as_bytes())).unwrap();
        mute.push(socket);
    }
    let shared = |count| {
        server.server.wait_until("theirs", move |stats| stats.counters.memory_shared == count);
    };
    shared(50);
    server.peer("next").fence();
    drop(mute);
    server.server.wait_until("their end", |stats| stats.total_connections <= 1);
}

/// Speaks as a client does, until it is killed: it shares memory, and writes publications into its ring.
const CLIENT: &str = r#"
import json, mmap, os, socket, struct, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
def message(kind, channel, payload):
    body = json.dumps({"message_id": "m", "app_id": "app", "channel_id": channel,
        "message_type": kind, "timestamp": 0, "payload": payload, "reply_to": None}).encode()
    return struct.pack(">I", len(body)) + body
line.sendall(message("request", "system",
    {"action": "connect", "connection_id": sys.argv[2], "extensions": ["call"]}))
size, = struct.unpack(">I", line.recv(4, socket.MSG_WAITALL))
line.recv(size, socket.MSG_WAITALL)
line.sendall(message("request", "system", {"action": "share_memory", "version": 1}))
_, descriptors, _, _ = socket.recv_fds(line, 65536, 3)
memory = mmap.mmap(descriptors[0], 4096 + 2 * 65536)
one = message("publish", "news", "x" * 500)
print("shared", flush=True)
tail = 0
while True:
    head, = struct.unpack_from("=I", memory, 128)
    if 65536 - (tail - head) % (1 << 32) >= len(one):
        for byte in one:
            memory[4096 + tail % 65536] = byte
            tail += 1
            if tail % 100 == 0:
                struct.pack_into("=I", memory, 0, tail)
        struct.pack_into("=I", memory, 0, tail)
    os.write(descriptors[1], struct.pack("=Q", 1))
"#;

/// A process that is killed when the test ends, however it does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It fails only if it has ended, which the client does not do by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn peers_that_are_killed_at_any_point_leave_nothing_behind() {
    const PEERS: usize = 12;
    let server = serve("shm-killed", limits());
    let mut subscriber = server.peer("subscriber").subscribed("news");
    let descriptors_before = descriptors_of_this_process();
    let before = server.server.stats().memory_bytes;
    for at in 0..PEERS {
        let mut child = Killed(
            Command::new("python3")
                .args(["-c", CLIENT, server.path.to_str().unwrap(), &format!("child-{at}")])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut said = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "shared\n");
        for _ in 0..at {
            assert_eq!(subscriber.receive()["message_type"], "publish");
        }
        drop(child);
        server.server.wait_until("its end", |stats| stats.total_connections == 1);
    }
    let rings = 2 * super::RING_BYTES;
    server.server.wait_until("the memory", |stats| stats.memory_bytes < before + rings);
    // Other tests of this process open and close descriptors of their own.
    crate::support::until("its descriptors", descriptors_of_this_process, |now| {
        *now < descriptors_before + 2 * PEERS
    });
    while subscriber.try_receive_publication() {}
    subscriber.fence();
}

fn descriptors_of_this_process() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let names = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    names.filter(|name| name.to_string_lossy().contains("memfd")).count()
}

impl super::RingPeer {
    /// Takes what waits for it, until nothing does.
    fn try_receive_publication(&mut self) -> bool {
        self.stream.end.has_bytes() && self.try_receive().is_ok()
    }
}

#[test]
fn a_client_checks_what_it_is_given() {
    let server = serve("shm-client", limits());
    let socket = raw(&server.path, "me");
    let (given, ring_bytes) = descriptors(&socket);
    End::open(given, 2 * ring_bytes, &socket).expect_err("the memory has another size");
    socket.set_read_timeout(Some(HANG)).unwrap();
}
