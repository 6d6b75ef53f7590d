//! The outputs of `ipc serve` that another process reads: its log, its reports, its notifications
//! to the service manager, its metrics. A reader that does not read, or that blocks other readers,
//! holds up nothing else.

use std::fs;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::{Running, serve};
use crate::operation::Manager;
use crate::scratch::Scratch;
use crate::support::{HANG, Peer, code};

/// Returns a pipe that takes nothing more until the reader reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let full = loop {
        if let Err(error) = writer.write(&[b'.'; 4_096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

fn log_in(running: &Running, at: usize, token: &str) -> (Peer, Value) {
    let mut peer = running.peer().called("app", &at.to_string());
    let answer = peer.introduce(Some(token)).unwrap();
    (peer, answer)
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let scratch = Scratch::new("unread-log");
    let token = scratch.file("token", 0o600, "right\n");
    let (mut reader, writer) = full_pipe();
    let mut command = serve(&["--port", "0", "--token-file", &token]);
    command.stderr(writer);
    let running = Running::start_with_stderr(command);
    let begin = Instant::now();
    for at in 0..40 {
        assert_eq!(code(&log_in(&running, at, "wrong").1), "auth_failed");
    }
    let (mut quiet, answer) = log_in(&running, 99, "right");
    assert_eq!(answer["payload"]["status"], "connected");
    // One report waits for a reader, and so does everything after it.
    running.signal("USR1");
    running.signal("HUP");
    quiet.fence();

    // A reader that starts to read gets everything that waited.
    let mut log = Vec::new();
    let deadline = Instant::now() + HANG;
    while !["settings were read again", "refused a connection", "INFO statistics"]
        .iter()
        .all(|text| String::from_utf8_lossy(&log).contains(text))
    {
        let mut chunk = [0; 4_096];
        let length = reader.read(&mut chunk).unwrap();
        log.extend_from_slice(&chunk[..length]);
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&log));
    }
    running.signal("TERM");
    drop(quiet);
    running.end_well();
    reader.read_to_end(&mut log).unwrap();
    let log = String::from_utf8(log).unwrap();
    let log = log.trim_start_matches('.');
    let refused = log.lines().filter(|line| line.contains("WARN refused a connection")).count();
    // A window of 10 seconds has at most so many.
    if begin.elapsed().as_secs() < 10 {
        assert_eq!(refused, 20, "{log}");
    }
    assert!(log.contains("draining") && log.contains("more suppressed"), "{log}");
}

#[test]
fn a_server_whose_log_nobody_reads_ends_when_it_is_told() {
    let (_reader, writer) = full_pipe();
    let mut command = serve(&["--port", "0", "--latency-log", "/dev/full", "--demo"]);
    command.stderr(writer);
    let running = Running::start_with_stderr(command);
    let mut peer = running.connected("bench", "asks");
    assert_eq!(peer.request("echo", json!(1)), 1);
    running.signal("TERM");
    assert_eq!(code(&peer.receive()), "shutting_down");
    drop(peer);
    // The server cannot report that the log of latencies is incomplete.
    assert_eq!(running.end().0.code(), Some(1));
}

#[test]
fn a_server_whose_log_nobody_reads_ends_at_once_when_it_is_told_twice() {
    let (_reader, writer) = full_pipe();
    let mut command = serve(&["--port", "0", "--demo"]);
    command.stderr(writer);
    let running = Running::start_with_stderr(command);
    let (_worker, mut asks) = running.unanswered();
    running.signal("TERM");
    // The server waits for the answer as long as a drain may take.
    assert_eq!(code(&asks.receive()), "shutting_down");
    running.signal("TERM");
    assert_eq!(running.end().0.code(), Some(128 + 15));
}

#[test]
fn a_panic_ends_a_server_whose_log_nobody_reads() {
    let (_reader, writer) = full_pipe();
    let mut command = serve(&["--port", "0"]);
    command.env("IPC_TEST_PANIC", "loop").stderr(writer);
    let running = Running::start_with_stderr(command);
    // The server may have aborted before this is done.
    let _ = TcpStream::connect(running.address()).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(running.end().0.signal(), Some(6));
}

#[test]
fn a_service_manager_that_reads_nothing_holds_up_nobody() {
    let manager = Manager::new("unread-notify");
    manager.fill();
    let mut command = serve(&["--port", "0"]);
    command.env("WATCHDOG_USEC", "20000");
    let running = manager.start(command);
    let mut peer = running.connected("app", "peer");
    running.signal("HUP");
    peer.fence();
    running.signal("TERM");
    assert_eq!(code(&peer.receive()), "shutting_down");
    drop(peer);
    let stderr = running.end_well();
    assert!(stderr.contains("service manager cannot be told"), "{stderr}");
}

/// Each of them may be silent for two seconds. One after the other they would take minutes.
#[test]
fn silent_connections_do_not_keep_a_scraper_from_its_metrics() {
    const SILENT: usize = 200;
    let running = Running::start(serve(&["--port", "0", "--metrics", "127.0.0.1:0"]));
    let _silent: Vec<TcpStream> =
        (0..SILENT).map(|_| TcpStream::connect(running.metrics_address()).unwrap()).collect();
    for _ in 0..3 {
        let text = running.scrape("/metrics").unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("# EOF\n"), "{text}");
    }
    let threads = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap().count();
    assert!(threads < 20, "{threads} threads");
}
