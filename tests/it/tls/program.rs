//! `ipc serve` with TLS.

use serde_json::json;

use super::certificates::Certificates;
use super::peer::TlsPeer;
use crate::cli::{Running, Scratch, assert_fails, serve};
use crate::memory::resident_bytes;

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
    running.signal("HUP");
    let mut seen = running.stderr_lines();
    assert!(seen.any(|line| line.contains("settings were read again")));
    TlsPeer::connected(running.address(), &others.client(), "after").fence();
    certificates.spoil();
    running.signal("HUP");
    assert!(seen.any(|line| line.contains("stay as they were") && line.contains("server.pem")));
    before.fence();
    let mut alone = serve(&["--port", "0", "--tls-cert"]);
    alone.arg(certificates.path("server.pem"));
    assert_fails(alone, 2, "--tls-key");
}

/// Certificates at other paths are for the next start; what else changes is not held up by that,
/// and nothing changes while anything is broken.
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
    let mut lines = running.stderr_lines();
    let mut peer = TlsPeer::connected(running.address(), &old.client(), "before");
    let mut connections_max =
        move || peer.request("system", json!({"action": "get_stats"}))["max_connections"].clone();

    // The files at the old path are gone, as they may be once the new ones are named.
    for name in ["server.pem", "server.key"] {
        std::fs::remove_file(old.path(name)).unwrap();
    }
    scratch.file("ipc.toml", 0o600, &text(&new, 3));
    running.signal("HUP");
    let mut said = String::new();
    while !said.contains("were read again") {
        said += &lines.next().unwrap();
        assert!(!said.contains("stay as they were"), "{said}");
    }
    assert!(said.contains("next start only") && said.contains("tls-cert"), "{said}");
    assert_eq!(connections_max(), 3);
    TlsPeer::connected(running.address(), &old.client(), "as before").fence();

    new.spoil();
    scratch.file("ipc.toml", 0o600, &text(&new, 7));
    running.signal("HUP");
    assert!(lines.next().unwrap().contains("stay as they were"));
    assert_eq!(connections_max(), 3);
}

/// What the memory budget is charged for a connection, and no guess.
#[test]
#[cfg(target_os = "linux")]
fn an_idle_connection_costs_no_more_than_is_counted() {
    const CONNECTIONS: usize = 300;
    let certificates = Certificates::new("cost");
    let running = Running::start(command(&certificates));
    let client = certificates.client();
    let mut first = TlsPeer::connected(running.address(), &client, "first");
    let mut memory = || {
        let stats = first.request("system", json!({"action": "get_stats"}));
        stats["memory_bytes"].as_u64().unwrap() as usize
    };
    let (counted_before, before) = (memory(), resident_bytes(running.id()));
    let idle: Vec<TlsPeer> = (0..CONNECTIONS)
        .map(|at| TlsPeer::connected(running.address(), &client, &format!("{at}")))
        .collect();
    let counted = (memory() - counted_before) / CONNECTIONS;
    let each = resident_bytes(running.id()).saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes for each idle TLS connection, {counted} counted");
    assert!(each <= counted, "{each} bytes for each idle TLS connection, {counted} counted");
    drop(idle);
}
