//! Connections that go over to shared memory: the answer with its descriptors, the same protocol through the
//! rings, and all that a peer can do wrong.

mod hostile;
mod line;
mod load;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits, Server, Spin, UnixSocket};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

use self::line::{RingPeer, ask, shared};
use crate::scratch::Scratch;
use crate::support::{self, HANG, Peer, TestServer, code, frame, install_echo, together};

const RING_BYTES: usize = 64 << 10;

/// A server that shares memory, and the path of its Unix socket.
struct Shared {
    server: TestServer,
    path: PathBuf,
    _scratch: Scratch,
}

fn limits() -> Limits {
    Limits::default().shared_memory(true).ring_bytes(RING_BYTES)
}

fn serve(name: &str, limits: Limits) -> Shared {
    serve_spinning(name, limits, Spin::Never, install_echo)
}

fn serve_spinning(
    name: &str,
    limits: Limits,
    spin: Spin,
    set_up: impl FnOnce(&mut Server),
) -> Shared {
    let scratch = Scratch::new(name);
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path)).limits(limits).spin(spin);
    Shared { server: support::serve(config, set_up), path, _scratch: scratch }
}

impl Shared {
    /// Connects a peer, and goes over to rings.
    fn peer(&self, id: &str) -> RingPeer {
        shared(&self.path, id)
    }

    /// Connects a peer that stays on its Unix socket.
    fn on_socket(&self, id: &str) -> Peer {
        on_socket(&self.path, id)
    }
}

fn on_socket(path: &Path, id: &str) -> Peer {
    Peer::over_unix(path).unwrap().called("app", id).asking_for(&["call"])
}

/// Every way in which the loop waits.
const SPINS: [Spin; 3] = [Spin::Never, Spin::AfterWork(Duration::from_micros(200)), Spin::Always];

#[test]
fn the_same_protocol_goes_through_the_rings_however_the_loop_waits() {
    for (at, spin) in SPINS.into_iter().enumerate() {
        let server = serve_spinning(&format!("shm-same-{at}"), limits(), spin, install_echo);
        let mut one = server.peer("one");
        let mut other = server.peer("other").subscribed("news");
        let mut on_socket = server.on_socket("on-socket").subscribed("news");
        for round in 0..200 {
            assert_eq!(one.request("echo", json!({"n": round})), json!({"n": round}));
            if round % 10 == 0 {
                one.send("publish", "news", json!(round));
                assert_eq!(other.receive()["payload"], round);
                assert_eq!(on_socket.receive()["payload"], round);
                on_socket.send("publish", "news", json!(-round));
                assert_eq!(other.receive()["payload"], -round);
                assert_eq!(on_socket.receive()["payload"], -round);
            }
        }
        let mut worker = server.peer("worker").serving("work");
        let id = one.send("request", "work", json!("do"));
        let task = worker.receive();
        worker.answer(&task, json!("done"));
        one.expect_answer(&id, json!("done"));
        assert_eq!(server.server.stats().counters.memory_shared, 3);
        server.server.stop();
    }
}

#[test]
fn messages_larger_than_a_ring_pass_through_it_both_ways() {
    let server = serve("shm-large", limits());
    let mut peer = server.peer("me");
    for bytes in [RING_BYTES - 300, RING_BYTES, 10 * RING_BYTES, 4 << 20] {
        let text = json!("x".repeat(bytes));
        let id = peer.message("request", "echo", &text);
        // It is read while it is written: both rings are smaller.
        let answer = peer.stream.exchange(&frame(id.to_string().as_bytes()));
        assert_eq!(answer["payload"], text);
    }
    peer.fence();
}

#[test]
fn a_peer_that_hears_nothing_for_long_is_still_heard() {
    let server = serve("shm-asleep", limits());
    let mut peers: Vec<_> = (0..50).map(|at| server.peer(&format!("peer-{at}"))).collect();
    for _ in 0..5 {
        // Each has slept while the others spoke.
        for peer in &mut peers {
            peer.fence();
        }
    }
}

#[test]
fn whoever_cannot_share_goes_on_over_the_socket() {
    let server = serve("shm-refused", limits());
    let mut by_tcp = server.server.peer().called("app", "tcp").asking_for(&["call"]);
    assert_eq!(code(&by_tcp.answer_to_sharing(1)), "unsupported");
    by_tcp.fence();
    let mut of_next_year = server.on_socket("next");
    assert_eq!(code(&of_next_year.answer_to_sharing(2)), "unsupported");
    of_next_year.fence();

    let off = serve("shm-off", Limits::default());
    let mut peer = off.on_socket("me");
    assert_eq!(code(&peer.answer_to_sharing(1)), "unsupported");
    peer.fence();
}

impl Peer {
    fn answer_to_sharing(&mut self, version: u32) -> Value {
        let id = self.send("request", "system", ask(version));
        let answer = self.receive();
        assert_eq!(answer["reply_to"], id.as_str());
        answer
    }
}

#[test]
fn memory_for_rings_is_bounded_counted_and_given_back() {
    // A quarter is enough for two.
    let few = limits().frame_bytes_max(64 << 10).memory_bytes_max(1_200 << 10);
    let server = serve("shm-bounded", few);
    let before = server.server.stats().memory_bytes;
    let mut peers = vec![server.peer("one"), server.peer("two")];
    let with_rings = server.server.stats().memory_bytes;
    assert!(with_rings >= before + 4 * RING_BYTES, "{before} {with_rings}");
    let mut third = server.on_socket("three");
    let refused = third.answer_to_sharing(1);
    assert_eq!(code(&refused), "limit_exceeded");
    assert!(refused["payload"]["error"].as_str().unwrap().contains("--max-memory"));
    third.fence();
    peers.pop();
    server
        .server
        .wait_until("the memory", |stats| stats.memory_bytes + 2 * RING_BYTES <= with_rings);
    assert_eq!(third.stream_shares(), RING_BYTES);
    peers[0].fence();
}

/// A loop that watches the server's descriptor by edge is told of rings, too, although the server looks at
/// them without the kernel.
#[test]
fn a_host_loop_of_ones_own_drives_rings() {
    let scratch = Scratch::new("shm-host");
    let path = scratch.socket();
    let config = Config::default().host(None).unix(UnixSocket::at(&path)).limits(limits());
    let mut server = Server::bind(config).unwrap();
    install_echo(&mut server);
    let mut poll = Poll::new().unwrap();
    let descriptor = server.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut peer = shared(&path, "guest");
        for n in 0..200 {
            assert_eq!(peer.request("echo", json!(n)), json!(n));
        }
        handle.stop();
    });
    let mut events = Events::with_capacity(8);
    loop {
        let deadline = server.next_deadline();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        poll.poll(&mut events, Some(timeout.unwrap_or(HANG).min(HANG))).unwrap();
        let is_asleep = events.is_empty() && timeout.is_none();
        assert!(!is_asleep, "nothing is reported, and no deadline: the server sleeps for good");
        if !server.poll_once(Some(Duration::ZERO)).unwrap() {
            break;
        }
    }
    client.join().unwrap();
}

#[test]
fn a_drain_answers_what_came_and_tells_everybody_over_the_rings() {
    let server = serve("shm-drain", limits());
    let mut idle = server.peer("idle");
    let mut busy = server.peer("busy");
    let id = busy.send("request", "echo", json!("last"));
    server.server.handle.stop();
    busy.expect_answer(&id, json!("last"));
    for peer in [&mut busy, &mut idle] {
        peer.expect_closed("shutting_down");
    }
}

#[test]
fn a_take_over_reaches_the_older_connection_through_its_ring() {
    let server = serve("shm-take-over", limits());
    let mut older = server.peer("same");
    let mut newer = server.peer("same");
    older.expect_closed("taken_over");
    newer.fence();
}

#[test]
fn what_a_peer_says_before_it_leaves_is_read_to_the_end() {
    let server = serve("shm-leaves", limits());
    let mut subscriber = server.on_socket("subscriber").subscribed("news");
    for round in 0..20 {
        let mut peer = server.peer(&format!("peer-{round}"));
        for n in 0..50 {
            peer.send("publish", "news", json!(n));
        }
        // Its socket ends at once, and the messages may still lie in the ring.
        drop(peer);
        for n in 0..50 {
            assert_eq!(subscriber.receive()["payload"], n);
        }
    }
}

#[test]
fn half_a_close_still_gets_the_answers() {
    let server = serve("shm-half", limits());
    let mut peer = server.peer("me");
    let id = peer.send("request", "echo", json!("last"));
    peer.stream.socket.shutdown(std::net::Shutdown::Write).unwrap();
    peer.expect_answer(&id, json!("last"));
    peer.expect_end();
}

#[test]
fn several_threads_at_once_do_not_disturb_one_another() {
    let server = serve("shm-many", limits());
    together(8, |thread| {
        for round in 0..20 {
            let mut peer = server.peer(&format!("peer-{thread}-{round}"));
            for n in 0..50 {
                assert_eq!(peer.request("echo", json!([thread, n])), json!([thread, n]));
            }
        }
    });
    server.server.wait_until("all gone", |stats| stats.total_connections == 0);
}

#[test]
fn the_answer_on_the_socket_is_the_last_thing_there() {
    let server = serve("shm-last", limits());
    let mut peer = server.peer("me").subscribed("news");
    for n in 0..10 {
        peer.send("publish", "news", json!(n));
        assert_eq!(peer.receive()["payload"], n);
    }
    peer.stream.socket.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let nothing = peer.stream.socket.read(&mut byte).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

/// Returns a socket of a peer that has connected, as bytes.
fn raw(path: &Path, id: &str) -> UnixStream {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let connect = json!({"message_id": "c", "app_id": "app", "channel_id": "system",
        "message_type": "request", "timestamp": 0,
        "payload": {"action": "connect", "connection_id": id, "extensions": ["call"]}});
    socket.write_all(&frame(connect.to_string().as_bytes())).unwrap();
    let mut header = [0; 4];
    socket.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    socket.read_exact(&mut body).unwrap();
    socket
}
