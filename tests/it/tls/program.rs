//! `ipc serve` with TLS.

use serde_json::json;

use super::certificates::Certificates;
use super::peer::TlsPeer;
use crate::cli::{Running, assert_fails, serve};
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
