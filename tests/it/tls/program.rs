//! `ipc serve` with TLS.

use std::io::Write;
use std::net::TcpStream;

use super::certificates::Certificates;
use super::peer::TlsPeer;
use crate::cli::{Running, assert_fails, serve};
use crate::memory::resident_bytes;
use crate::scratch::Scratch;

fn arguments(certificates: &Certificates) -> Vec<String> {
    let path = |name| certificates.path(name).to_str().unwrap().to_owned();
    let [certificate, key] = ["server.pem", "server.key"].map(path);
    ["--port", "0", "--tls-cert", &certificate, "--tls-key", &key].map(str::to_owned).into()
}

fn command(certificates: &Certificates) -> std::process::Command {
    let arguments = arguments(certificates);
    serve(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn flags_turn_it_on_and_sighup_brings_the_new_certificate() {
    let certificates = Certificates::new("program");
    let running = Running::start(command(&certificates));
    let mut before = TlsPeer::connected(running.address(), &certificates.client(), "before");
    let others = Certificates::new("program, renewed");
    certificates.replace_by(&others);
    assert!(running.reload().contains("settings were read again"));
    TlsPeer::connected(running.address(), &others.client(), "after").fence();
    certificates.spoil();
    let said = running.reload();
    assert!(said.contains("stay as they were") && said.contains("server.pem"), "{said}");
    before.fence();
    let mut alone = serve(&["--port", "0", "--tls-cert"]);
    alone.arg(certificates.path("server.pem"));
    assert_fails(alone, 2, "--tls-key");
}

/// Certificates at other paths are used after the next start. Other changes take effect at once,
/// and nothing changes if any setting is broken.
#[test]
fn a_reload_is_applied_as_a_whole_or_not_at_all() {
    let [old, new] = ["whole", "whole, moved"].map(Certificates::new);
    let scratch = Scratch::new("tls-reload");
    let text = |certificates: &Certificates, connections_max: usize| {
        let path = |name| certificates.path(name);
        format!(
            "port = 0\ntls-cert = {:?}\ntls-key = {:?}\nmax-connections = {connections_max}\n",
            path("server.pem"),
            path("server.key")
        )
    };
    let config = scratch.file("ipc.toml", 0o600, &text(&old, 10));
    let running = Running::start(serve(&["--config", &config]));
    let mut peer = TlsPeer::connected(running.address(), &old.client(), "before");
    let mut connections_max = move || peer.stats()["max_connections"].clone();

    // The files at the old path are gone, as they may be once the new ones are configured.
    for name in ["server.pem", "server.key"] {
        std::fs::remove_file(old.path(name)).unwrap();
    }
    scratch.file("ipc.toml", 0o600, &text(&new, 3));
    let said = running.reload();
    assert!(said.contains("were read again"), "{said}");
    assert!(said.contains("next start only") && said.contains("tls-cert"), "{said}");
    assert_eq!(connections_max(), 3);
    TlsPeer::connected(running.address(), &old.client(), "as before").fence();

    new.spoil();
    scratch.file("ipc.toml", 0o600, &text(&new, 7));
    assert!(running.reload().contains("stay as they were"));
    assert_eq!(connections_max(), 3);
}

/// Connections of one kind, with the bytes that each makes the server hold, and count.
struct Cost {
    running: Running,
    certificates: Certificates,
    first: TlsPeer,
}

impl Cost {
    const CONNECTIONS: usize = 300;

    fn new(name: &str) -> Self {
        let certificates = Certificates::new(name);
        let running = Running::start(command(&certificates));
        let first = TlsPeer::connected(running.address(), &certificates.client(), "first");
        Self { running, certificates, first }
    }

    fn memory(&mut self) -> (usize, u64) {
        let stats = self.first.stats();
        let counted = stats["memory_bytes"].as_u64().unwrap() as usize;
        (counted, stats["counters"]["accepted"].as_u64().unwrap())
    }

    /// Returns the bytes that each connection holds, and the bytes that it is counted with.
    fn of_each<T>(&mut self, what: &str, connect: impl Fn(&Self, usize) -> T) -> (usize, usize) {
        let ((counted_before, accepted), before) =
            (self.memory(), resident_bytes(self.running.id()));
        let those: Vec<T> = (0..Self::CONNECTIONS).map(|at| connect(self, at)).collect();
        while self.memory().1 < accepted + Self::CONNECTIONS as u64 {}
        // The server has read their bytes when it answers this, because they came before.
        self.first.fence();
        let counted = (self.memory().0 - counted_before) / Self::CONNECTIONS;
        let held = resident_bytes(self.running.id()).saturating_sub(before) / Self::CONNECTIONS;
        println!("{held} bytes for each {what}, {counted} counted");
        drop(those);
        (held, counted)
    }
}

/// The memory budget counts the real cost of a connection.
#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_costs_no_more_than_is_counted() {
    let mut cost = Cost::new("idle cost");
    let (held, counted) = cost.of_each("idle TLS connection", |cost, at| {
        let client = cost.certificates.client();
        TlsPeer::connected(cost.running.address(), &client, &format!("{at}"))
    });
    assert!(held <= counted, "{held} bytes, {counted} counted");
}

/// A record of the greatest length, without its end.
#[test]
#[cfg(target_os = "linux")]
fn an_unfinished_record_costs_no_more_than_is_counted() {
    let mut cost = Cost::new("record cost");
    let (held, counted) = cost.of_each("unfinished record", |cost, at| {
        let client = cost.certificates.client();
        let mut peer = TlsPeer::connected(cost.running.address(), &client, &format!("{at}"));
        peer.send_unfinished_record(16 << 10);
        peer
    });
    assert!(held > 16 << 10, "{held} bytes: they hold no record");
    assert!(held <= counted, "{held} bytes, {counted} counted");
}

/// A hello that announces 60,000 bytes, of which the server gets as many as it takes.
#[test]
#[cfg(target_os = "linux")]
fn an_unfinished_handshake_costs_no_more_than_is_counted() {
    let mut hello = vec![1, 0, 0xea, 0x60, 3, 3];
    hello.resize(16_000, 0);
    let hello: Vec<u8> = hello
        .chunks(8_000)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect();
    let mut cost = Cost::new("handshake cost");
    let (held, counted) = cost.of_each("unfinished handshake", |cost, _| {
        let mut socket = TcpStream::connect(cost.running.address()).unwrap();
        socket.write_all(&hello).unwrap();
        socket
    });
    assert!(held > 16_000, "{held} bytes: they hold no hello");
    assert!(held <= counted, "{held} bytes, {counted} counted");
}
