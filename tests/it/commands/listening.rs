//! Subcommands that run until they are stopped.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{Demo, Live, documents, feed, ping, signal, spawn};
use crate::cli::{assert_fails, ipc};
use crate::support::eventually;

#[test]
fn a_subscriber_shows_what_is_published_until_ctrl_c() {
    let demo = Demo::start();
    let mut people = Live::start(demo.command(&["subscribe", "news", "other"]));
    let mut machine = Live::start(demo.command(&["subscribe", "news", "--json"]));
    demo.prints(&["publish", "news", "{\"a\":1e400}"]);
    demo.prints(&["publish", "other", "[1]"]);
    let line = people.read_line();
    assert!(line.ends_with(" news {\"a\":1e400}"), "{line}");
    assert!(people.read_line().ends_with(" other [1]"));
    let line = machine.read_line();
    assert!(line.contains("\"payload\":{\"a\":1e400},"), "as it was written: {line}");
    demo.prints(&["publish", "news", "\"two\""]);
    let message: Value = serde_json::from_str(&machine.read_line()).unwrap();
    assert_eq!((&message["channel"], &message["type"]), (&json!("news"), &json!("publish")));
    assert_eq!(message["payload"], "two");
    assert!(message["timestamp"].is_f64() && message["message_id"].is_string(), "{message}");
    for (live, name) in [(people, "INT"), (machine, "TERM")] {
        live.signal(name);
        let (code, _, stderr) = live.end();
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_subscriber_stops_after_as_many_as_it_was_told() {
    let demo = Demo::start();
    let live = Live::start(demo.command(&["subscribe", "news", "--json", "-n", "2"]));
    for at in 0..3 {
        demo.prints(&["publish", "news", &at.to_string()]);
    }
    let (code, out, _) = live.end();
    let payloads: Vec<Value> = documents(&out).iter().map(|m| m["payload"].clone()).collect();
    assert_eq!((code, payloads), (Some(0), vec![json!(0), json!(1)]));
}

#[test]
fn ping_measures_as_often_as_it_was_told() {
    let demo = Demo::start();
    let shown = demo.prints(&["ping", "-c", "3", "-i", "0"]);
    let pongs = shown.lines().filter(|line| line.starts_with("pong from 127.0.0.1:")).count();
    assert_eq!(pongs, 3, "{shown}");
    assert!(shown.contains("3 sent, 3 answered, 0 lost"), "{shown}");
    let documents = demo.documents(&["ping", "-c", "2", "-i", "0", "--json"]);
    let [first, second, summary] = &documents[..] else { panic!("{documents:?}") };
    assert_eq!((&first["seq"], &second["seq"]), (&json!(1), &json!(2)));
    assert!(first["rtt_us"].as_f64().unwrap() > 0.0, "{first}");
    assert_eq!((&summary["sent"], &summary["answered"]), (&json!(2), &json!(2)));
    let [min, mean, max] = ["min", "mean", "max"].map(|name| summary["rtt_us"][name].as_f64());
    assert!(Some(0.0) < min && min <= mean && mean <= max, "{summary}");
    let quiet = demo.documents(&["ping", "-c", "5", "-i", "0", "--json", "--quiet"]);
    assert_eq!((quiet.len(), &quiet[0]["sent"]), (1, &json!(5)));
}

#[test]
fn ctrl_c_ends_ping_with_its_summary() {
    let demo = Demo::start();
    let child = ping(&demo, &["--json"]);
    signal(&child, "INT");
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    let rest = String::from_utf8(stdout).unwrap();
    let summary: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert!(summary["answered"].as_u64() >= Some(1), "{rest}");
    assert_eq!(summary["sent"], summary["answered"]);
}

#[test]
fn pings_that_are_not_answered_are_counted() {
    let demo = Demo::start();
    let mut child = ping(&demo, &["--timeout", "300ms"]);
    demo.0.signal("STOP");
    let mut told = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    demo.0.signal("CONT");
    signal(&child, "INT");
    assert!(told.contains("no answer from 127.0.0.1:") && told.contains("300ms"), "{told}");
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let shown = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(!shown.contains(" 0 lost") && shown.contains(" lost"), "{shown}");
}

#[test]
fn a_server_that_stands_still_is_no_server_in_time() {
    let demo = Demo::start();
    let command = demo.command(&["ping", "-c", "2", "-i", "0", "--timeout", "2s", "--json"]);
    let mut live = Live::start(demo.command(&["subscribe", "news"]));
    demo.0.signal("STOP");
    let Output { status, stderr, .. } = feed(command, "");
    demo.0.signal("CONT");
    // The kernel accepts connections for a stopped server.
    assert_eq!(status.code(), Some(4), "{}", String::from_utf8_lossy(&stderr));
    demo.prints(&["publish", "news", "1"]);
    assert!(live.read_line().ends_with("news 1"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_in_silence() {
    let demo = Demo::start();
    let program = env!("CARGO_BIN_EXE_ipc");
    for arguments in [
        "ping -i 0",
        "ping -i 0 --json",
        "top --json -i 100ms",
        "subscribe news --json 2>/dev/null",
        "completions bash",
        "man",
        "demo",
    ] {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", "set -o pipefail; eval \"$0 $1\" | head -n 1"])
            .args([program, arguments])
            .env("IPC_HOST", "127.0.0.1")
            .env("IPC_PORT", demo.0.address().port().to_string())
            .env_remove("IPC_TOKEN");
        let child = spawn(shell);
        if arguments.starts_with("subscribe") {
            // Publishes until it has received two messages. The second one finds no reader.
            let mut peer = demo.0.connected("bench", "tells");
            let mut child = child;
            while child.try_wait().unwrap().is_none() {
                peer.send("publish", "news", json!(1));
                peer.fence();
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            assert!(child.wait_with_output().unwrap().status.success(), "{arguments}");
            continue;
        }
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{arguments}");
    }
}

#[test]
fn a_worker_whose_reader_has_seen_enough_ends_too() {
    let demo = Demo::start();
    let mut worker = Live::start(demo.command(&["worker", "echoes", "--json", "--", "cat"]));
    drop(worker.child.stdout.take());
    demo.prints(&["request", "echoes", "1"]);
    let ended = eventually("its end", || worker.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn two_talk_in_a_chat() {
    let demo = Demo::start();
    let mut ada = Live::start(demo.command(&["chat", "Ada"]));
    let mut bob = Live::start(demo.command(&["chat", "Bob"]));
    assert!(ada.read_line().ends_with("Bob is here"));
    ada.say("hello Bob");
    assert!(bob.read_line().ends_with("Ada: hello Bob"));
    ada.say(b"no \xff text");
    assert!(bob.read_line().ends_with("Ada: no \u{fffd} text"));
    bob.say("hello Ada");
    assert!(ada.read_line().ends_with("Bob: hello Ada"), "nobody hears himself");
    // The message has the form of the published chat program.
    let mut peer = demo.0.connected("chat_app", "published");
    let said = json!({"username": "Eve", "text": "\u{1b}[2Jhi"});
    assert_eq!(peer.request("general", said), json!({"status": "ok"}));
    assert!(ada.read_line().ends_with("Eve: \\u001b[2Jhi"));
    let mut robot = Live::start(demo.command(&["chat", "Robot", "--json"]));
    bob.say("hello Robot");
    let heard: Value = serde_json::from_str(&robot.read_line()).unwrap();
    assert_eq!(
        (&heard["channel"], &heard["payload"]["text"]),
        (&json!("general"), &json!("hello Robot"))
    );
    for chat in [ada, bob, robot] {
        // Its standard input ends.
        assert_eq!(chat.end().0, Some(0));
    }
}

#[test]
fn the_demo_shows_every_pattern_and_what_it_saw() {
    let mut demo = ipc();
    let Output { status, stdout, stderr } = demo.arg("demo").output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let shown = String::from_utf8(stdout).unwrap();
    for part in [
        "Request and answer",
        "Publish and subscribe",
        "Notification",
        "A client that serves",
        "no_handler",
        "request to answer",
        "publish to delivery",
        "in the server",
    ] {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no colours but on a terminal");
    let Output { stdout, .. } = ipc().args(["demo", "--json"]).output().unwrap();
    let documents = documents(&String::from_utf8(stdout).unwrap());
    let [first, .., last] = &documents[..] else { panic!("{documents:?}") };
    assert_eq!(
        (&first["pattern"], &first["who"]),
        (&json!("Request and answer"), &json!("client"))
    );
    assert_eq!(last["measured"], "of a request, in the server");
    assert!(last["latency_us"]["p99.9"].as_f64() > Some(0.0), "{last}");
}

#[test]
fn completions_and_manual_know_every_subcommand() {
    let help = ipc().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = ipc().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(script.stdout).unwrap();
        for name in ["request", "subscribe", "bench", "--token-file"] {
            let name = if shell == "fish" { name.trim_start_matches('-') } else { name };
            assert!(script.contains(name) && help.contains("request"), "{shell}: {name}");
        }
    }
    let page = String::from_utf8(ipc().args(["man", "bench"]).output().unwrap().stdout).unwrap();
    assert!(page.contains(".TH") && page.contains("rate"), "{page}");
    let mut unknown = ipc();
    unknown.args(["man", "nothing"]);
    assert_fails(unknown, 2, "no subcommand");
}
