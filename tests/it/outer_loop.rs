//! A server inside another event loop, which watches its descriptor.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits, Server};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

use crate::descriptors::raise_limit;
use crate::support::{HANG, Peer, code, install_echo, install_later};

/// A loop that is told only of changes, as mio watches every descriptor.
struct Host {
    server: Server,
    poll: Poll,
    events: Events,
}

impl Host {
    fn new(mut server: Server) -> Self {
        install_echo(&mut server);
        let poll = Poll::new().unwrap();
        let descriptor = server.as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
        Self { server, poll, events: Events::with_capacity(8) }
    }

    fn address(&self) -> SocketAddr {
        self.server.addresses()[0].tcp().expect("TCP comes first")
    }

    /// Waits as the documentation says, and runs one turn. Returns whether the server goes on.
    fn turn(&mut self) -> bool {
        let deadline = self.server.next_deadline();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.poll.poll(&mut self.events, Some(timeout.unwrap_or(HANG).min(HANG))).unwrap();
        let is_idle = self.events.is_empty() && timeout.is_none();
        assert!(!is_idle, "nothing is reported, and no deadline: the server is asleep for good");
        self.server.poll_once(Some(Duration::ZERO)).unwrap()
    }

    fn turn_until(&mut self, is_enough: impl Fn(&ipc_framework::Stats) -> bool) {
        while !is_enough(&self.server.get_stats()) {
            assert!(self.turn());
        }
    }
}

#[test]
fn a_host_loop_of_ones_own_drives_it() {
    let mut host = Host::new(Server::bind(Config::default().port(0)).unwrap());
    let (address, handle) = (host.address(), host.server.handle());
    let client = std::thread::spawn(move || {
        let mut peer = Peer::new(address);
        peer.connect("app", "guest");
        for at in 0..100 {
            assert_eq!(peer.request("echo", json!(at)), at);
        }
        handle.stop();
    });
    while host.turn() {}
    client.join().unwrap();
}

#[test]
fn a_host_loop_is_woken_by_deadlines_and_by_handles() {
    let limits = Limits::default().request_timeout(Duration::from_millis(30));
    let mut server = Server::bind(Config::default().port(0).limits(limits)).unwrap();
    assert_eq!(server.next_deadline(), None, "nothing is due of itself");
    let kept = install_later(&mut server);
    let (handle, port) = (server.handle(), server.addresses()[0].port().unwrap());
    let client = std::thread::spawn(move || {
        let mut peer = Peer::new(([127, 0, 0, 1], port).into());
        peer.connect("app", "peer");
        peer.send("request", "later", json!(null));
        assert_eq!(code(&peer.receive()), "timeout", "only the deadline wakes for this");
        assert!(handle.stats().unwrap().running, "only the descriptor wakes for this");
        handle.stop();
        peer.expect_closed("shutting_down");
    });
    let mut host = Host::new(server);
    while host.turn() {}
    client.join().unwrap();
    drop(kept);
}

/// A turn does not take all events from the system's queue. A loop that is told only of changes
/// hears of the others once, and never again.
#[test]
fn a_host_loop_that_hears_of_changes_alone_answers_everybody() {
    const CLIENTS: usize = 3_000;
    raise_limit();
    let config = Config::default().host("127.0.0.1".to_owned()).port(0);
    let mut host = Host::new(Server::bind(config).unwrap());
    let address = host.address();
    let mut peers: Vec<Peer> = (0..CLIENTS).map(|_| Peer::new(address)).collect();
    for (at, peer) in peers.iter_mut().enumerate() {
        "app".clone_into(&mut peer.app_id);
        peer.connection_id = at.to_string();
        let hello = json!({"action": "connect", "connection_id": peer.connection_id});
        peer.send("request", "system", hello);
    }
    host.turn_until(|stats| stats.total_connections == CLIENTS);
    for peer in &mut peers {
        assert_eq!(peer.receive()["payload"]["status"], "connected");
    }
    assert_eq!(host.server.next_deadline(), None, "no timer would wake it");
    // All of them send at once, while the host does something else.
    let ids: Vec<String> =
        peers.iter_mut().map(|peer| peer.send("request", "echo", json!(1))).collect();
    host.turn_until(|stats| stats.counters.frames_in == 2 * CLIENTS as u64);
    for (peer, id) in peers.iter_mut().zip(ids) {
        peer.stream.flush().unwrap();
        assert_eq!(peer.receive()["reply_to"], *id);
    }
}
