//! The whole server, as an embedder runs it, and peers that are bare sockets.
//!
//! Server and peers are on one thread, so that a round is the same sequence of turns every time.
//! The instruction counter does not see the work of the kernel, and a peer does little more than its
//! system calls.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipc_framework::{Config, Server, Spin, UnixSocket};

use super::memory::introduction;
use super::messages::frame;

/// Ends a benchmark that would hang.
const HANG: Duration = Duration::from_secs(5);

pub(super) struct Sockets {
    pub(super) server: Server,
    path: PathBuf,
}

impl Sockets {
    /// A server on a Unix socket and a free TCP port, with the handlers that `install` adds.
    pub(super) fn new(install: impl FnOnce(&mut Server)) -> Self {
        let path = socket_path();
        let mut config = config();
        config.unix = Some(UnixSocket::at(path.clone()));
        let mut server = Server::bind(config).expect("places to listen");
        install(&mut server);
        Self { server, path }
    }

    /// Runs a turn of the loop as soon as there is something to do.
    pub(super) fn turn(&mut self) {
        self.server.poll_once(None).expect("the loop runs");
    }

    /// A connection over the Unix socket that has introduced itself.
    pub(super) fn connected(&mut self, connection_id: &str) -> Peer {
        let stream = UnixStream::connect(&self.path).expect("the server listens");
        stream.set_read_timeout(Some(HANG)).expect("a timeout is set");
        self.introduced(stream, connection_id)
    }

    /// A connection over TCP that has introduced itself.
    pub(super) fn connected_by_tcp(&mut self, connection_id: &str) -> Peer {
        let port = self.server.addresses().iter().find_map(ipc_framework::Address::port);
        let stream = TcpStream::connect(("127.0.0.1", port.expect("a port"))).expect("it listens");
        stream.set_nodelay(true).expect("an option is set");
        stream.set_read_timeout(Some(HANG)).expect("a timeout is set");
        self.introduced(stream, connection_id)
    }

    pub(super) fn subscriber(&mut self, connection_id: &str, channel_id: &str) -> Peer {
        let mut peer = self.connected(connection_id);
        self.ask(&mut peer, &frame("subscribe", channel_id, r#"{"ack":true}"#));
        peer
    }

    /// Sends one message and waits for its answer. Returns the length of the answer.
    pub(super) fn ask(&mut self, peer: &mut Peer, request: &[u8]) -> usize {
        peer.send(request);
        self.turn();
        peer.receive(&mut [0; 4 << 10])
    }

    fn introduced(&mut self, stream: impl ReadWrite + 'static, connection_id: &str) -> Peer {
        let mut peer = Peer(Box::new(stream));
        peer.send(&introduction(connection_id));
        // Accepting may take a turn of its own.
        let connected = |server: &mut Server| server.context().list_connections().len();
        let before = connected(&mut self.server);
        while connected(&mut self.server) == before {
            self.turn();
        }
        peer.receive(&mut [0; 4 << 10]);
        peer
    }
}

/// One end of a connection.
pub(super) struct Peer(Box<dyn ReadWrite>);

trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

impl Peer {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it is taken");
    }

    /// Reads everything that a turn sent. Returns the number of bytes.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> usize {
        self.0.read(buffer).expect("it is sent in that turn")
    }
}

/// The configuration of a server of a benchmark, without a Unix socket.
pub(super) fn config() -> Config {
    Config::default()
        .host("127.0.0.1".to_owned())
        .port(0)
        // The default depends on the machine, and spinning would be counted.
        .spin(Spin::Never)
}

fn socket_path() -> PathBuf {
    static SOCKETS: AtomicU32 = AtomicU32::new(0);
    let serial = SOCKETS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ipc-bench-{}-{serial}.sock", std::process::id()))
}
