//! `ipc serve --shm`, and the subcommands that ask for shared memory.

use std::fs;
use std::path::Path;

use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::scratch::Scratch;

fn prints(arguments: &[&str]) -> String {
    let mut command = ipc();
    command.args(arguments);
    let ended = output(command);
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(ended.stdout).unwrap()
}

fn start(path: &Path, flags: &[&str]) -> Running {
    let path = path.to_str().unwrap();
    let all = ["--demo", "--host", "127.0.0.1", "--port", "0", "--unix", path];
    Running::start(serve(&[&all, flags].concat()))
}

/// Returns how many connections went over to shared memory.
fn shared(running: &Running) -> u64 {
    let mut peer = running.connected("bench", "counts");
    peer.stats()["counters"]["memory_shared"].as_u64().expect("a count")
}

/// Asks in each way over the Unix socket, and returns how many connections went over to shared memory.
fn shared_by_asking(running: &Running, path: &Path) -> u64 {
    let before = shared(running);
    let unix = ["--app", "bench", "--unix", path.to_str().unwrap()];
    let text = format!("\"{}\"", "x".repeat(30_000));
    for payload in ["7", &text] {
        let ask = [&["request", "echo", payload][..], &unix].concat();
        assert_eq!(prints(&[&ask[..], &["--shm"]].concat()), format!("{payload}\n"));
        assert_eq!(prints(&ask), format!("{payload}\n"));
    }
    let pong = prints(&[&["ping", "--count", "1", "--shm"][..], &unix].concat());
    assert!(pong.starts_with("pong from "), "{pong}");
    shared(running) - before
}

#[test]
fn those_who_ask_get_it_where_the_server_allows_it() {
    for (flags, expected) in
        [(&["--shm", "--shm-ring", "64KiB"][..], 3), (&[], 0), (&["--no-shm"], 0)]
    {
        let scratch = Scratch::new("shm-flags");
        let path = scratch.socket();
        let running = start(&path, flags);
        assert_eq!(shared_by_asking(&running, &path), expected, "{flags:?}");
        // Over TCP nobody can.
        let mut over_tcp = ipc();
        let address = running.address().to_string();
        over_tcp.args(["request", "echo", "7", "--app", "bench", "--host", &address, "--shm"]);
        assert_fails(over_tcp, 2, "--unix");
    }
}

#[test]
fn a_reload_changes_it_for_connections_to_come() {
    let scratch = Scratch::new("shm-reload");
    let path = scratch.socket();
    let config = scratch.file("ipc.toml", 0o600, "shm = false\n");
    let running = start(&path, &["--config", &config]);
    for (setting, expected) in
        [("shm = false\n", 0), ("shm = true\n", 3), ("", 0), ("shm = true\nno-shm = true\n", 0)]
    {
        fs::write(&config, setting).unwrap();
        let said = running.reload();
        assert!(said.contains("were read again"), "{said}");
        assert_eq!(shared_by_asking(&running, &path), expected, "{setting}");
    }
}

#[test]
fn a_size_that_rings_cannot_have_is_refused_at_the_start() {
    for size in ["1KiB", "65KiB", "512MiB"] {
        assert_fails(serve(&["--port", "0", "--shm-ring", size]), 2, "power of two");
    }
}
