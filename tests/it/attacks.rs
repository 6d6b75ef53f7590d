//! Attacks on resources that a server has only a limited amount of: memory, descriptors, turns,
//! names. Each test measures its bound. The large ones are judged in an optimised build, in a step
//! of their own of `tests/run`. The effects of bad input on the protocol are tested in `bad_input`.

mod churn;
mod fairness;
mod floods;
mod handshakes;
mod names;
#[cfg(feature = "cli")]
mod slow_consumer;
mod stalled;
mod tables;

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;

use crate::descriptors::ServerProcess;
use crate::support::{HANG, Peer, TestServer, until_within};

/// Long enough for the largest of these tests on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// The resources of a server process, as the kernel and the process itself report them.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident_bytes: usize,
    descriptors: usize,
}

impl Held {
    fn by(server: &ServerProcess) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count();
        Self { resident_bytes: crate::memory::resident_bytes(server.id()), descriptors }
    }
}

/// Waits until a server process holds so many descriptors. A connection is closed shortly after the
/// first answer that no longer counts it.
fn wait_for_descriptors(server: &ServerProcess, expected: usize) {
    let descriptors = || Held::by(server).descriptors;
    until_within(LONG, "the close", descriptors, |descriptors| *descriptors == expected);
}

/// Connects to a server process and completes the handshake.
pub(crate) fn connected(server: &ServerProcess, connection_id: &str) -> Peer {
    let mut peer = Peer::new(server.address);
    peer.connect("app", connection_id);
    peer
}

/// Polls the statistics of a server process until they satisfy the condition.
pub(crate) fn wait_until(peer: &mut Peer, what: &str, says_so: impl Fn(&Value) -> bool) -> Value {
    until_within(LONG, what, || peer.stats(), says_so)
}

pub(crate) fn count(stats: &Value, name: &str) -> usize {
    let figure = stats.get(name).unwrap_or(&stats["counters"][name]);
    usize::try_from(figure.as_u64().unwrap_or_else(|| panic!("{name} is missing: {stats}")))
        .unwrap()
}

/// Bytes of a server's TCP connections in the kernel: to be sent, and to be read.
fn kernel_bytes(port: u16) -> (usize, usize) {
    const ESTABLISHED: &str = "01";
    let mut sum = (0, 0);
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = fs::read_to_string(table) else { continue };
        for line in table.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let local = columns[1].rsplit(':').next().unwrap();
            if u16::from_str_radix(local, 16) == Ok(port) && columns[3] == ESTABLISHED {
                let (sent, received) = columns[4].split_once(':').unwrap();
                sum.0 += usize::from_str_radix(sent, 16).unwrap();
                sum.1 += usize::from_str_radix(received, 16).unwrap();
            }
        }
    }
    sum
}

/// Makes closing send a reset. This leaves no port in `TIME_WAIT`, of which there are only so many.
fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads until the server ends the stream, and drops what it reads.
fn read_to_end(peer: &mut Peer) {
    use std::io::{ErrorKind, Read};
    let mut scrap = [0; 4096];
    loop {
        match peer.stream.read(&mut scrap) {
            Ok(0) => return,
            Ok(_) => {}
            // The server resets a connection that it closes with unread bytes.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("no end within {HANG:?}: {error}"),
        }
    }
}

/// Returns the most that the server held in queues and unfinished frames while `is_over` was false.
fn peak_while(
    server: &TestServer,
    is_over: impl Fn() -> bool,
    mut meanwhile: impl FnMut(),
) -> usize {
    let mut peak_bytes = 0;
    while !is_over() {
        peak_bytes = peak_bytes.max(server.stats().buffered_bytes);
        meanwhile();
    }
    peak_bytes
}
