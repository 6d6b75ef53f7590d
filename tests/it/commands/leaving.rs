//! Subcommands whose server goes away, or that are asked for too much.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::{Demo, Live, ping};
use crate::cli::{Running, assert_fails, serve};
use crate::scratch::Scratch;
use crate::support::reserved_port;

/// A server that ends tells every connection. That notice is no message of a channel.
#[test]
fn the_servers_last_word_is_no_work_and_no_news() {
    let demo = Demo::start();
    let subscriber = Live::start(demo.command(&["subscribe", "news", "--json"]));
    demo.0.signal("TERM");
    let (code, stdout, stderr) = subscriber.end();
    assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
}

#[test]
fn a_worker_waits_for_a_server_that_is_started_anew() {
    let port = reserved_port();
    let demo = Demo::start_at(port);
    let mut worker = Live::start(demo.command(&["worker", "held", "--json", "--", "cat"]));
    demo.0.signal("TERM");
    let (status, stderr) = demo.0.end();
    assert!(status.success(), "{stderr}");
    assert!(worker.read_error().contains("is gone"));
    let demo = Demo::start_at(port);
    assert!(worker.read_error().contains("is there again"));
    assert_eq!(demo.prints(&["request", "held", "[7]"]), "[7]\n");
    // The command did not get the old server's notice as a request.
    let handled: Value = serde_json::from_str(&worker.read_line()).unwrap();
    assert_eq!((&handled["channel"], &handled["error"]), (&json!("held"), &Value::Null));
    assert!(handled["took_us"].as_f64() > Some(0.0), "{handled}");
    drop(demo);
    assert!(worker.read_error().contains("is gone"));
    worker.signal("INT");
    let (code, stdout, stderr) = worker.end();
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
}

#[test]
fn a_worker_that_the_server_does_not_take_back_ends() {
    let port = reserved_port();
    let (demo, scratch) = (Demo::start_at(port), Scratch::new("refused"));
    let port = port.to_string();
    let mut worker = Live::start(demo.command(&["worker", "held", "--", "cat"]));
    drop(demo);
    assert!(worker.read_error().contains("is gone"));
    let token = scratch.file("token", 0o600, "a long secret\n");
    let anew = ["--host", "127.0.0.1", "--port", &port, "--token-file", &token];
    let guarded = Running::start(serve(&anew));
    let (code, _, stderr) = worker.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("ipc: ") && stderr.contains("(auth_failed)"), "{stderr}");
    drop(guarded);
}

#[test]
fn ping_sums_up_when_the_server_goes() {
    let demo = Demo::start();
    let child = ping(&demo, &[]);
    drop(demo);
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(3), "{stdout}");
    assert!(stdout.contains("rtt min/mean/p50/p99/max"), "{stdout}");
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_load() {
    let demo = Demo::start();
    let arguments = ["bench", "request", "--duration", "1h", "--hdr", "/does/not/exist/file"];
    assert_fails(demo.command(&arguments), 1, "cannot write /does/not/exist/file");
}

/// A client that only talks receives its own messages, which would fill both directions.
#[test]
fn a_chat_fed_by_a_program_gets_through() {
    const LINES: usize = 30_000;
    let demo = Demo::start();
    let mut listens = demo.0.connected("chat_app", "listens").subscribed("general");
    let mut child = demo
        .command(&["chat", "Bob"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let talking = std::thread::spawn(move || {
        for at in 0..LINES {
            writeln!(stdin, "{at}").unwrap();
        }
    });
    assert_eq!(listens.receive()["payload"]["type"], "user_joined");
    for at in 0..LINES {
        assert_eq!(listens.receive()["payload"]["text"], json!(at.to_string()));
    }
    talking.join().unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
}
