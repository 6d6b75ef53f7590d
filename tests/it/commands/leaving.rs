//! Subcommands whose server goes away, or that are asked for too much.

use std::io::{BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::{Demo, Live, ping, spawn};
use crate::cli::{Running, assert_fails, ipc, serve};
use crate::client::scripted::{Scripted, refuse};
use crate::scratch::Scratch;
use crate::support::{reserved_port, until};

/// The time that is missed begins while messages still wait for the slow reader.
#[test]
fn a_subscriber_whose_output_nobody_reads_says_what_it_missed() {
    let demo = Demo::start();
    let mut subscriber = Live::start(demo.command(&["subscribe", "news"]));
    let mut publisher = demo.0.connected("bench", "publishes");
    let begin = Instant::now();
    let large = json!("x".repeat(100_000));
    // More than pipes and sockets hold.
    for _ in 0..200 {
        publisher.send("publish", "news", large.clone());
    }
    // The publisher waits until the server has closed the slow subscriber.
    publisher.fence();
    let waited = begin.elapsed().as_secs();
    assert!(waited >= 3, "{waited} s");
    let mut stdout = subscriber.child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let told = subscriber.read_error();
    assert!(told.contains("perhaps because its messages were read too slowly"), "{told}");
    let told = subscriber.read_error();
    let (_, missed) = told.split_once("parts of the last ").expect(&told);
    let seconds = missed.split('s').next().unwrap().parse::<u64>().unwrap();
    assert!(seconds >= 3, "{told}");
    subscriber.signal("INT");
    reader.join().unwrap().unwrap();
}

/// A server that ends tells every connection. That notice is no message of a channel.
#[test]
fn the_servers_last_word_is_no_work_and_no_news() {
    let demo = Demo::start();
    let mut subscriber = Live::start(demo.command(&["subscribe", "news", "--json"]));
    demo.0.signal("TERM");
    assert!(subscriber.read_error().contains("is gone"));
    subscriber.signal("INT");
    let (code, stdout, stderr) = subscriber.end();
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
}

#[test]
fn a_subscriber_subscribes_again_when_the_server_is_back() {
    let port = reserved_port();
    let mut demo = Demo::start_at(port);
    let mut subscriber = Live::start(demo.command(&["subscribe", "news", "other"]));
    for round in 0..2 {
        drop(demo);
        assert!(subscriber.read_error().contains("the server is gone; waiting for it"));
        demo = Demo::start_at(port);
        let told = subscriber.read_error();
        assert!(told.contains("subscribed again; what was published in "), "{told}");
        for channel in ["other", "news"] {
            demo.prints(&["publish", channel, &round.to_string()]);
            let shown = subscriber.read_line();
            assert!(shown.ends_with(&format!(" {channel} {round}")), "{shown}");
        }
    }
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

/// Feeds lines to `ipc publish news --lines --json`.
fn feed(demo: &Demo) -> Live {
    feed_by(demo.command(&["publish", "news", "--lines", "--json"]))
}

fn feed_by(command: Command) -> Live {
    let mut child = spawn(command);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    Live { child, stderr }
}

fn receipt(feed: &mut Live) -> Value {
    serde_json::from_str(&feed.read_line()).unwrap()
}

fn expect_confirmed(feed: &mut Live, line: u64) {
    let told = receipt(feed);
    let expected = json!({"channel": "news", "type": "publish", "line": line, "confirmed": true});
    assert_eq!(told, expected);
}

#[test]
fn a_feed_goes_on_when_the_server_is_back_and_loses_no_line_in_between() {
    let port = reserved_port();
    let mut demo = Demo::start_at(port);
    let mut feed = feed(&demo);
    for line in 1..4 {
        let mut peer = demo.0.connected("bench", "listens").subscribed("news");
        feed.say(line.to_string());
        if line > 1 {
            let told = feed.read_error();
            assert!(told.contains("the server is gone, no line is lost; waiting"), "{told}");
            assert!(feed.read_error().contains("the server is there again, after "));
        }
        // The receipt comes before the next line is there.
        expect_confirmed(&mut feed, line);
        assert_eq!(peer.receive()["payload"], line);
        drop(demo);
        demo = Demo::start_at(port);
    }
    let (code, rest, _) = feed.end();
    assert_eq!((code, rest.as_str()), (Some(0), ""));
}

/// Bytes that the kernel holds for the connections of the server on this port.
fn unread_bytes(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let of_server = sockets.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let queues = words.get(4).filter(|_| words[1].ends_with(&port))?;
        u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
    });
    of_server.sum()
}

#[test]
#[cfg(target_os = "linux")]
fn a_feed_names_the_lines_that_may_be_lost_and_does_not_repeat_them() {
    const LINE_BYTES: usize = 10_000;
    let port = reserved_port();
    let demo = Demo::start_at(port);
    let mut feed = feed(&demo);
    feed.say("1");
    expect_confirmed(&mut feed, 1);
    demo.0.signal("STOP");
    let line = format!("\"{}\"", "x".repeat(LINE_BYTES));
    feed.say(format!("{line}\n{line}"));
    // The kernel takes them for the server, which never reads them.
    until("both lines", || unread_bytes(port), |bytes| *bytes > 2 * LINE_BYTES as u64);
    drop(demo);
    let told = feed.read_error();
    assert!(told.contains("the server is gone, lines 2 to 3 may be lost; waiting"), "{told}");
    for line in 2..4 {
        let told = receipt(&mut feed);
        assert_eq!((&told["line"], &told["confirmed"]), (&json!(line), &json!(false)), "{told}");
        assert!(told["error"].as_str().unwrap().contains("before the server confirmed"), "{told}");
    }
    let demo = Demo::start_at(port);
    let mut peer = demo.0.connected("bench", "listens").subscribed("news");
    assert!(feed.read_error().contains("the server is there again, after "));
    feed.say("4");
    expect_confirmed(&mut feed, 4);
    assert_eq!(peer.receive()["payload"], 4);
    let (code, _, stderr) = feed.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("2 of 4 lines may be lost"), "{stderr}");
}

/// The server did not look at the line, so that it is sent again, and only then.
#[test]
fn a_line_that_a_server_about_to_end_refuses_goes_to_its_successor() {
    let script = Scripted::new();
    let welcome = || {
        let mut side = script.accept_bare();
        let connect = side.receive();
        let id = connect["payload"]["connection_id"].clone();
        let welcome =
            json!({"status": "connected", "connection_id": id, "server": "ipc-framework/0"});
        side.send("response", "system", welcome);
        side
    };
    let mut command = ipc();
    command.args(["publish", "news", "--lines", "--json", "--app", "app"]);
    command.env("IPC_HOST", "127.0.0.1").env("IPC_PORT", script.address().port().to_string());
    let mut feed = feed_by(command);
    let mut side = welcome();
    feed.say("1\n2");
    let lines = [side.receive(), side.receive()];
    let ping = side.receive();
    refuse(&mut side, &lines[1], "shutting_down");
    refuse(&mut side, &ping, "shutting_down");
    expect_confirmed(&mut feed, 1);
    let told = feed.read_error();
    assert!(told.contains("the server is about to end, no line is lost; waiting"), "{told}");
    let mut side = welcome();
    let again = side.receive();
    assert_eq!((&again["payload"], &again["message_id"]), (&json!(2), &lines[1]["message_id"]));
    let ping = side.receive();
    side.answer(&ping, json!({"status": "pong"}));
    assert!(feed.read_error().contains("the server is there again, after "));
    expect_confirmed(&mut feed, 2);
    // It closes its end, and waits for the server to do the same.
    drop(feed.child.stdin.take());
    side.expect_end();
    drop(side);
    assert_eq!(feed.end().0, Some(0));
}

#[test]
fn a_chat_goes_on_when_the_server_is_back() {
    let port = reserved_port();
    let demo = Demo::start_at(port);
    let mut ada = Live::start(demo.command(&["chat", "Ada"]));
    drop(demo);
    assert!(ada.read_error().contains("the server is gone; waiting for it"));
    let demo = Demo::start_at(port);
    let mut listens = demo.0.connected("chat_app", "listens").subscribed("general");
    assert!(ada.read_error().contains("there again"));
    ada.say("hello");
    let texts = std::iter::from_fn(|| Some(listens.receive()["payload"]["text"].clone()));
    assert!(texts.take(2).any(|text| text == "hello"));
    assert_eq!(ada.end().0, Some(0));
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
