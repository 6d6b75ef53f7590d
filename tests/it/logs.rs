//! The log as JSON: each line is a document, each fact is in it once and has a type of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;

use serde_json::{Map, Value, json};

use crate::cli::{Running, serve};
use crate::scratch::Scratch;
use crate::support::{Peer, code};

type Line = Map<String, Value>;

/// Parses a line, and checks that it is flat and that no value hides in a string.
fn parsed(line: &str) -> Line {
    let fields: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    for (name, value) in &fields {
        // A parser keeps one of two members of the same name.
        let members = line.matches(&format!("\"{name}\":")).count();
        assert!(
            members == 1 || value.as_str().is_some(),
            "{name} is there {members} times: {line}"
        );
        match value {
            Value::String(text) => {
                let is_disguised = text.starts_with('"')
                    || text.parse::<f64>().is_ok()
                    || text.parse::<bool>().is_ok()
                    || text.starts_with("Some(");
                assert!(!is_disguised, "{name} is no text: {line}");
            }
            Value::Number(_) | Value::Bool(_) => {}
            nested => panic!("{name} is {nested}: {line}"),
        }
    }
    for name in ["timestamp", "level", "message"] {
        assert!(fields.contains_key(name), "{name} is missing: {line}");
    }
    fields
}

fn all(stderr: &str) -> Vec<Line> {
    stderr.lines().map(parsed).collect()
}

/// Returns the first line with this message.
fn said<'a>(lines: &'a [Line], message: &str) -> &'a Line {
    let line = lines.iter().find(|line| line["message"] == message);
    line.unwrap_or_else(|| panic!("{message} is missing: {lines:#?}"))
}

#[test]
fn every_line_is_a_document_that_says_who_it_is_about() {
    let scratch = Scratch::new("json-log");
    let token = scratch.file("token", 0o600, "right\n");
    let socket = scratch.socket();
    let mut command = serve(&["--demo", "--port=0", "--log-format=json", "--token-file", &token]);
    command.arg("--unix").arg(&socket).arg("--max-frame-bytes=1KiB").env("IPC_LOG", "debug");
    let running = Running::start(command);

    let stream = TcpStream::connect(running.address()).unwrap();
    let refused = stream.local_addr().unwrap().to_string();
    let mut peer = Peer::over(stream).called("evil\n\"app\"", "c");
    assert_eq!(code(&peer.introduce(Some("wrong")).unwrap()), "auth_failed");
    peer.expect_end();

    let stream = TcpStream::connect(running.address()).unwrap();
    let closed = stream.local_addr().unwrap().to_string();
    let mut peer = Peer::over(stream).called("bench", "large");
    peer.introduce(Some("right")).unwrap();
    assert_eq!(peer.request("echo", json!(1)), 1);
    peer.send("request", "echo", json!("x".repeat(2_000)));
    assert_eq!(code(&peer.receive()), "frame_too_large");
    peer.expect_end();

    let mut stream = TcpStream::connect(running.address()).unwrap();
    let other = stream.local_addr().unwrap().to_string();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();

    let mut peer = Peer::over_unix(&socket).unwrap().called("local", "u");
    peer.introduce(Some("right")).unwrap();
    for _ in 0..30 {
        let mut peer = running.peer().called("app", "c");
        assert_eq!(code(&peer.introduce(Some("wrong")).unwrap()), "auth_failed");
        peer.expect_end();
    }
    running.signal("USR1");
    running.signal("HUP");
    let mut early = String::new();
    for line in running.stderr_lines() {
        early += &line;
        if early.contains("were read again") && early.contains("\"latency\"") {
            break;
        }
    }
    drop(peer);
    let lines = all(&(early + &running.terminate()));

    let line = said(&lines, "refused a connection");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["code"], "auth_failed");
    assert_eq!(line["peer"], refused);
    assert_eq!(line["application"], "evil\n\"app\"");
    assert!(line["connection"].is_u64(), "{line:?}");
    assert!(!line.contains_key("uid") && !line.contains_key("reason"), "{line:?}");

    // What is no message says so, which an HTTP client at the wrong port needs to know.
    let garbled = lines.iter().find(|line| line.get("peer") == Some(&json!(other))).expect("it");
    assert_eq!(garbled["code"], "frame_too_large");
    let reason = garbled["reason"].as_str().unwrap();
    assert!(reason.contains("check that the peer speaks this protocol"), "{reason}");

    let line = said(&lines, "closed a connection because of what it sent");
    assert_eq!((&line["peer"], &line["application"]), (&json!(closed), &json!("bench")));
    assert!(line["reason"].as_str().unwrap().contains("over the limit of 1024"), "{line:?}");

    let local = |line: &&Line| line["message"] == "connected" && line["application"] == "local";
    let line = lines.iter().find(local).expect("it connected");
    assert_eq!((&line["level"], &line["peer"]), (&json!("DEBUG"), &json!("unix")));
    if cfg!(target_os = "linux") {
        assert_eq!(line["uid"], rustix::process::getuid().as_raw());
        assert_eq!(line["pid"], std::process::id());
    }

    // The report that the signal asked for.
    let line = said(&lines, "statistics");
    assert!(line["connections"].is_u64() && line["uptime_seconds"].is_f64(), "{line:?}");
    assert_eq!(line["draining"], false);
    let counter = |name: &str, kind: Option<&str>| {
        let kind = kind.map(Value::from);
        let mut found = lines.iter().filter(|line| line["message"] == "counter");
        let found = found.find(|line| line["name"] == name && line.get("kind") == kind.as_ref());
        found.expect(name)["value"].as_u64().unwrap()
    };
    assert!(counter("frames_in", None) >= 33);
    assert_eq!(counter("errors", Some("auth_failed")), 31);
    let line = said(&lines, "latency");
    assert_eq!((&line["application"], &line["channel"]), (&json!("bench"), &json!("echo")));
    assert!(line["count"].is_u64() && line["p50_us"].is_f64(), "{line:?}");

    let summary = lines.iter().find(|line| line.get("event").is_some()).expect("a summary");
    assert_eq!(summary["event"], "refused a connection");
    assert!(summary["count"].as_u64().is_some_and(|count| count > 0), "{summary:?}");
    assert!(said(&lines, "draining")["connections"].is_u64());
}

/// The operator asks for the report, whatever the level is.
#[test]
fn a_report_ignores_the_level_of_the_log() {
    let mut command = serve(&["--port=0", "--log-format=json"]);
    command.env("IPC_LOG", "error");
    let running = Running::start(command);
    running.signal("USR1");
    let first = running.stderr_lines().next().unwrap();
    assert_eq!(parsed(&first)["message"], "statistics");
    let stderr = running.terminate();
    assert!(!stderr.contains("draining"), "{stderr}");
}

/// The reason why a server ends is a line of its log as well.
#[test]
fn the_last_words_of_a_server_have_the_format_of_its_log() {
    let command = |format: &str| {
        let mut command = serve(&["--port=0", "--latency-log=/dev/full", "--log-format", format]);
        command.env("IPC_LOG", "error");
        command
    };
    let stderr = Running::start(command("json")).end_by_term();
    let last = parsed(stderr.lines().last().expect("its last words"));
    assert_eq!(
        (&last["level"], &last["message"]),
        (&json!("ERROR"), &json!("the server has failed"))
    );
    assert!(last["reason"].as_str().unwrap().contains("latency log"), "{last:?}");
    all(&stderr);
    let stderr = Running::start(command("text")).end_by_term();
    assert!(stderr.lines().last().unwrap().starts_with("ipc: "), "{stderr}");
}

#[test]
fn the_report_of_a_panic_has_the_format_of_the_log() {
    let mut command = serve(&["--port=0", "--log-format=json"]);
    command.env("IPC_TEST_PANIC", "loop").env("RUST_BACKTRACE", "1");
    let running = Running::start(command);
    // The server may have aborted before this is done.
    let _ = TcpStream::connect(running.address()).and_then(|mut stream| stream.read(&mut [0]));
    let (status, stderr) = running.end();
    assert_eq!(status.signal(), Some(6), "{stderr}");
    let lines = all(&stderr);
    let report = said(&lines, "a bug of ipc-framework has ended this server");
    assert_eq!((&report["level"], &report["thread"]), (&json!("ERROR"), &json!("main")));
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let panic = report["panic"].as_str().unwrap();
    assert!(panic.starts_with("a test wants this at src/cli/serve.rs:"), "{panic}");
    assert!(report["backtrace"].as_str().unwrap().contains("run_loop"), "{report:?}");
    let time = report["timestamp"].as_str().unwrap();
    assert!(time.contains('T') && time.ends_with('Z'), "{time}");
}
