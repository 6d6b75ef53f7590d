//! Attacks on what a server has only so much of: memory, descriptors, turns, names. Each test
//! measures the bound it is about. The large ones are judged in an optimised build, in a step of
//! their own of `tests/run`; what an input may do to the protocol is in `bad_input`.

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

/// Long enough for the largest of these on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// What a server process holds, as the kernel and itself tell.
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

/// Waits until a server process holds so many descriptors: those of closed connections are closed
/// behind the answer that counts them no more.
fn wait_for_descriptors(server: &ServerProcess, expected: usize) {
    let descriptors = || Held::by(server).descriptors;
    until_within(LONG, "the close", descriptors, |descriptors| *descriptors == expected);
}

/// A peer of a server process that has introduced itself.
pub(crate) fn connected(server: &ServerProcess, connection_id: &str) -> Peer {
    let mut peer = Peer::new(server.address);
    peer.connect("app", connection_id);
    peer
}

/// Asks until the statistics of a server process say so.
pub(crate) fn wait_until(peer: &mut Peer, what: &str, says_so: impl Fn(&Value) -> bool) -> Value {
    until_within(LONG, what, || peer.stats(), says_so)
}

pub(crate) fn count(stats: &Value, name: &str) -> usize {
    let figure = stats.get(name).unwrap_or(&stats["counters"][name]);
    usize::try_from(figure.as_u64().unwrap_or_else(|| panic!("{name} is missing: {stats}")))
        .unwrap()
}

/// Bytes of a server's TCP connections that the kernel holds: to be sent, and to be read.
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

/// Closing says so at once and leaves no port in its waiting time, of which there are only so
/// many.
fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Until the server ends the stream. What it says before that is dropped.
fn read_to_end(peer: &mut Peer) {
    use std::io::{ErrorKind, Read};
    let mut scrap = [0; 4096];
    loop {
        match peer.stream.read(&mut scrap) {
            Ok(0) => return,
            Ok(_) => {}
            // What it had not read itself turns its close into a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("no end within {HANG:?}: {error}"),
        }
    }
}

/// The most that the server held in queues and unfinished frames while `is_over` was false.
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
