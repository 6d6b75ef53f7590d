//! A server in a process of its own, for tests that concern the whole process, and its behaviour
//! when descriptors run out.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use ipc_framework::{Config, Limits, Server};
use serde_json::json;

use crate::support::{Peer, eventually, install_echo, until};

const ROLE: &str = "IPC_TEST_SERVER_PROCESS";
const LIMITS: &str = "IPC_TEST_SERVER_LIMITS";
const SIGN: &str = "listening on ";

/// A server in a process of its own. It ends when this value is dropped, and when this process
/// ends.
pub(crate) struct ServerProcess {
    pub(crate) address: SocketAddr,
    child: Child,
    /// Kept because a write to a closed pipe would end the other side.
    _stdout: BufReader<ChildStdout>,
}

impl ServerProcess {
    /// Starts this test binary again, as the program of [`server_process`], with at most
    /// `descriptors_max` descriptors.
    pub(crate) fn start(descriptors_max: Option<usize>) -> Self {
        Self::limited(descriptors_max, "")
    }

    /// Does the same with other limits than the default ones, see [`limits_of`].
    pub(crate) fn limited(descriptors_max: Option<usize>, limits: &str) -> Self {
        let max = descriptors_max.map_or("$(ulimit -H -n)".to_owned(), |max| max.to_string());
        let limit = format!("ulimit -n {max} && ");
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit} exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "descriptors::server_process", "--ignored", "--nocapture"])
            .env(ROLE, "1")
            .env(LIMITS, limits)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended too early");
            if let Some((_, address)) = line.split_once(SIGN) {
                break address.trim().parse().unwrap();
            }
        };
        Self { address, child, _stdout: stdout }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it drain, and checks that it ends without an error.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses limits from a list such as `connections_max=10 slow_consumer_grace_ms=300`.
fn limits_of(text: &str) -> Limits {
    let mut limits = Limits::default();
    for setting in text.split_whitespace() {
        let (name, value) = setting.split_once('=').expect("name=value");
        let value: u32 = value.parse().expect("a number");
        match name {
            "connections_max" => limits.connections_max = value as usize,
            "slow_consumer_grace_ms" => {
                limits.slow_consumer_grace = Duration::from_millis(value.into());
            }
            unknown => panic!("no limit {unknown}"),
        }
    }
    limits
}

/// Allows this process, which has the client ends, as many descriptors as it may have.
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
#[ignore = "the program of the server processes that other tests start"]
fn server_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let limits = limits_of(&std::env::var(LIMITS).unwrap_or_default());
    let mut server = Server::bind(Config::default().port(0).limits(limits)).unwrap();
    install_echo(&mut server);
    let handle = server.handle();
    std::thread::spawn(move || {
        // Reads until the process that started this one closes the pipe, or ends.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.stop();
    });
    println!("\n{SIGN}{}", server.addresses()[0]);
    std::io::stdout().flush().unwrap();
    server.run().unwrap();
}

fn shed(peer: &mut Peer) -> u64 {
    peer.stats()["counters"]["shed"].as_u64().unwrap()
}

/// Returns whether the server closed the connection instead of waiting for its handshake.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn try_connected(address: SocketAddr, connection_id: &str) -> Option<Peer> {
    let mut peer = Peer::new(address).called("app", connection_id);
    peer.introduce(None).ok().map(|_| peer)
}

#[test]
fn out_of_descriptors_it_sheds_and_recovers_by_itself() {
    const DESCRIPTORS: usize = 64;
    const BURST: usize = 200;
    let server = ServerProcess::start(Some(DESCRIPTORS));
    let mut present: Vec<Peer> =
        (0..20).map(|at| try_connected(server.address, &format!("{at}")).unwrap()).collect();
    assert_eq!(shed(&mut present[0]), 0, "there is room for these");

    let mut burst: Vec<TcpStream> =
        (0..BURST).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    // Every connection over the limit is shed, and none is left waiting.
    let least = BURST + present.len() - DESCRIPTORS;
    until("the end of the burst", || shed(&mut present[0]), |shed| *shed as usize >= least);
    for peer in &mut present {
        assert_eq!(peer.request("echo", json!("still here")), "still here");
    }
    assert!(burst.iter_mut().any(is_closed), "shed is closed");

    drop(burst);
    let mut again = eventually("a place", || try_connected(server.address, "again"));
    assert_eq!(again.request("echo", json!(1)), 1);
    let mut later = try_connected(server.address, "later").expect("there is room again");
    assert_eq!(later.request("echo", json!(2)), 2);
    for peer in &mut present {
        assert_eq!(peer.request("echo", json!("still here")), "still here");
    }
    drop((present, again, later));
    server.stop();
}

/// A burst could hide an omission, so these come one by one: each finds no descriptor, is shed at
/// once, and the next one is noticed as well. A connection that closes makes room.
#[test]
fn out_of_descriptors_each_newcomer_is_shed_by_itself() {
    const DESCRIPTORS: usize = 64;
    const NEWCOMERS: u64 = 200;
    let server = ServerProcess::start(Some(DESCRIPTORS));
    let mut present = Vec::new();
    while let Some(peer) = try_connected(server.address, &present.len().to_string()) {
        present.push(peer);
    }
    assert!(present.len() > DESCRIPTORS / 2, "only {} had a place", present.len());
    let before = shed(&mut present[0]);
    for round in 0..NEWCOMERS {
        let mut newcomer = Peer::new(server.address);
        let end = newcomer.stream.read(&mut [0]);
        assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
        assert_eq!(shed(&mut present[0]), before + round + 1);
    }
    let leaving = present.pop();
    drop(leaving);
    let mut again = eventually("a place", || try_connected(server.address, "again"));
    assert_eq!(again.request("echo", json!(1)), 1);
    for peer in &mut present {
        assert_eq!(peer.request("echo", json!("still here")), "still here");
    }
    drop((present, again));
    server.stop();
}

#[test]
fn localhost_serves_both_families() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    install_echo(&mut server);
    let addresses: Vec<_> =
        server.addresses().iter().map(|address| address.tcp().expect("no other")).collect();
    // A machine without IPv6 still has a localhost.
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let families: Vec<bool> = addresses.iter().map(SocketAddr::is_ipv6).collect();
    assert_eq!(families, if has_ipv6 { vec![false, true] } else { vec![false] });
    assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
    // The kernel accepts connections before the server runs.
    let peers: Vec<Peer> = addresses.into_iter().map(Peer::new).collect();
    let handle = server.handle();
    let running = std::thread::spawn(move || server.run());
    for mut peer in peers {
        peer.connect("app", "peer");
        assert_eq!(peer.request("echo", json!(1)), 1);
    }
    handle.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn a_server_process_ends_with_its_pipe() {
    let server = ServerProcess::start(None);
    let mut peer = try_connected(server.address, "peer").unwrap();
    peer.fence();
    server.stop();
    peer.expect_closed("shutting_down");
}
