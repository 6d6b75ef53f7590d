//! One request, one answer, and how failures are reported.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Output;

use serde_json::json;

use super::{Demo, documents, feed, spawn};
use crate::cli::{Running, assert_fails, ipc, serve};
use crate::scratch::Scratch;
use crate::support::reserved_port;

#[test]
fn a_request_shows_the_answer_as_it_came() {
    let demo = Demo::start();
    for payload in ["{\"a\":1}", "1e400", "[1,  2]", "\"\\ud800\"", "{\"a\":1,\"a\":2}"] {
        let shown = demo.prints(&["request", "echo", payload, "--app", "bench"]);
        assert_eq!(shown, format!("{payload}\n"));
        assert_eq!(demo.prints(&["request", "echo", payload, "--json"]), shown);
    }
    assert_eq!(demo.prints(&["request", "echo"]), "null\n");
}

#[test]
fn a_payload_comes_from_a_file_or_standard_input() {
    let (demo, scratch) = (Demo::start(), Scratch::new("payloads"));
    let file = scratch.file("order.json", 0o600, "{\"apples\": 3}\n");
    assert_eq!(demo.prints(&["request", "echo", &format!("@{file}")]), "{\"apples\": 3}\n");
    let Output { status, stdout, .. } = feed(demo.command(&["request", "echo", "-"]), " [7]\n");
    assert!(status.success());
    assert_eq!(stdout, b"[7]\n");
    assert_fails(demo.command(&["request", "echo", "@/does/not/exist"]), 2, "cannot read");
    let mut child = spawn(demo.command(&["request", "echo", "--lines"]));
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    for line in ["[1]", "{\"a\":  2}"] {
        writeln!(stdin, "{line}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("{line}\n"), "answered before the next is there");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn exit_codes_say_whose_fault_it_is() {
    let demo = Demo::start();
    assert_fails(demo.command(&["request", "nobody", "{}"]), 1, "(no_handler)");
    assert_fails(demo.command(&["request", "system", "{}"]), 1, "(bad_message)");
    assert_fails(demo.command(&["request", "echo", "hello"]), 2, "quotes of its own");
    assert_fails(demo.command(&["request", "echo", "{"]), 2, "not JSON");
    assert_fails(demo.command(&["request", ""]), 2, "channel_id");
    assert_fails(demo.command(&["request", "echo", "1", "--timeout", "0"]), 2, "500ms");
    let missing = "arguments were not provided: <CHANNEL>; see `ipc request --help`";
    assert_fails(demo.command(&["request"]), 2, missing);
    assert_fails(demo.command(&["requst"]), 2, "'request'; see `ipc --help`");
    assert_fails(demo.command(&["subscribe"]), 2, "<CHANNEL>");
    assert_fails(demo.command(&["worker", "square"]), 2, "<COMMAND>");
    let unused = reserved_port().to_string();
    for arguments in [
        &["request", "echo", "1"][..],
        &["publish", "news", "1"],
        &["notify", "news", "1"],
        &["subscribe", "news"],
        &["worker", "square", "--", "cat"],
        &["ping"],
        &["stats"],
        &["channels"],
        &["bench"],
        &["chat", "Ada"],
        &["top", "--json"],
    ] {
        let mut command = demo.command(arguments);
        command.env("IPC_PORT", &unused);
        let start = format!("start it with `ipc serve --port {unused}`");
        let says = format!("nothing listens on 127.0.0.1:{unused}; {start}");
        assert_fails(command, 3, &says);
    }
    let mut nowhere = ipc();
    nowhere.args(["ping", "--unix", "/does/not/exist"]);
    assert_fails(nowhere, 3, "ipc serve --unix");
}

#[test]
fn a_wrong_name_is_shown_beside_those_that_exist() {
    let demo = Demo::start();
    let channel = "nobody serves requests on channel \"ecko\" of application \"bench\", which serves \
                   \"echo\"; check";
    assert_fails(demo.command(&["request", "ecko", "1"]), 1, channel);
    let _worker = demo.0.connected("bench", "w").serving("square");
    let both = "which serves \"echo\", \"square\"; check";
    assert_fails(demo.command(&["request", "ecko", "1", "--stream"]), 1, both);
    assert_fails(demo.command(&["bench", "--channel", "ecko"]), 1, both);
    let app = "application \"bensch\", which serves no channel; check both names";
    let others = "other applications here are \"bench\", \"chat_app\", ";
    for says in [app, others] {
        assert_fails(demo.command(&["request", "echo", "1", "--app", "bensch"]), 1, says);
    }
}

#[test]
fn who_does_not_answer_in_time_is_four() {
    let demo = Demo::start();
    let _worker = demo.0.connected("bench", "sleeps").serving("slow");
    // The timeout includes connecting, so it is not too short for that.
    let asks = ["request", "slow", "1", "--timeout", "3s"];
    assert_fails(demo.command(&asks), 4, "within 3s");
    // This listener takes connections and sends nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut command = demo.command(&["request", "echo", "1", "--timeout", "200ms"]);
    command.env("IPC_PORT", silent.local_addr().unwrap().port().to_string());
    assert_fails(command, 4, "welcome");
}

#[test]
fn what_is_published_and_notified_arrives() {
    let demo = Demo::start();
    let mut peer = demo.0.connected("monitoring", "listens").subscribed("alerts");
    peer.subscribe("news");
    assert_eq!(demo.prints(&["publish", "news", "\"now\"", "--app", "monitoring"]), "");
    assert_eq!(peer.receive()["payload"], "now");
    let metric = "{\"metric\": \"cpu_usage\", \"value\": 93}";
    assert_eq!(demo.prints(&["notify", "metrics", metric, "--app", "monitoring"]), "");
    assert_eq!(peer.receive()["payload"]["type"], "high_cpu_alert");
    // A publication that the server refuses is reported.
    let narrow = Running::start(serve(&["--port", "0", "--max-frame-bytes", "1KiB"]));
    let large = format!("\"{}\"", "x".repeat(2_000));
    for command in ["publish", "notify"] {
        let mut refused = demo.command(&[command, "news", &large]);
        refused.env("IPC_HOST", "localhost").env("IPC_PORT", narrow.address().port().to_string());
        assert_fails(refused, 1, "(frame_too_large)");
    }
}

#[test]
fn variables_stand_for_flags_and_flags_go_before_them() {
    let (demo, scratch) = (Demo::start(), Scratch::new("variables"));
    let _worker = demo.0.connected("other", "sleeps").serving("slow");
    let ask = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = demo.command(arguments);
        command.envs(variables.iter().copied());
        command
    };
    let other = [("IPC_APP", "other"), ("IPC_TIMEOUT", "3s")];
    assert_fails(ask(&["request", "slow"], &other), 4, "within 3s");
    assert_fails(ask(&["request", "slow", "--app", "bench"], &other), 1, "(no_handler)");
    assert_fails(ask(&["request", "slow", "--timeout", "2s"], &other), 4, "within 2s");
    let nowhere = scratch.0.join("no.sock");
    let nowhere = nowhere.to_str().unwrap();
    assert_fails(ask(&["ping"], &[("IPC_UNIX", nowhere)]), 3, nowhere);
    let port = demo.0.address().port().to_string();
    let typed = ask(&["request", "echo", "1", "--port", &port], &[("IPC_UNIX", nowhere)]).output();
    assert_eq!(typed.unwrap().stdout, b"1\n", "what is typed goes before IPC_UNIX");
    assert_fails(ask(&["ping", "--unix", nowhere, "--port", &port], &[]), 2, "one or the other");
    assert_fails(ask(&["ping"], &[("IPC_PORT", "many")]), 2, "IPC_PORT");
    assert_fails(ask(&["ping"], &[("IPC_TIMEOUT", "soon")]), 2, "500ms");
}

#[test]
fn every_line_of_a_feed_is_a_message() {
    let demo = Demo::start();
    let mut peer = demo.0.connected("bench", "listens").subscribed("news");
    peer.fence();
    let lines = ["publish", "news", "--lines", "--json"];
    let Output { status, stdout, .. } = feed(demo.command(&lines), "1\n\n {\"a\": 2} \n\"last\"");
    assert!(status.success());
    let told = documents(&String::from_utf8(stdout).unwrap());
    let receipt =
        |line| json!({"channel": "news", "type": "publish", "line": line, "confirmed": true});
    assert_eq!(told, [1, 2, 3].map(receipt));
    for payload in [json!(1), json!({"a": 2}), json!("last")] {
        assert_eq!(peer.receive()["payload"], payload);
    }
    // The lines before a wrong one have arrived.
    let Output { status, stderr, .. } = feed(demo.command(&lines[..3]), "7\nwrong\n8\n");
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("line 2 of standard input is not JSON"), "{stderr}");
    assert_eq!(peer.receive()["payload"], 7);
    // The same holds for one that is too large, which is named.
    let large = format!("8\n\"{}\"\n9\n", "x".repeat(17 << 20));
    let Output { status, stdout, stderr } = feed(demo.command(&lines), &large);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("line 2 cannot be sent: the message has 17"), "{stderr}");
    let mut told = documents(&String::from_utf8(stdout).unwrap());
    told.sort_by_key(|receipt| receipt["line"].as_u64());
    assert_eq!(told.len(), 2);
    assert_eq!((&told[0], &told[1]["confirmed"]), (&receipt(1), &json!(false)));
    assert_eq!(peer.receive()["payload"], 8);
    let [told] = &demo.documents(&["notify", "news", "1", "--json"])[..] else { panic!("one") };
    assert_eq!((&told["type"], &told["sent"]), (&json!("notification"), &json!(1)));
    assert_fails(demo.command(&["publish", "news"]), 2, "<JSON>");
    assert_fails(demo.command(&["publish", "news", "1", "--lines"]), 2, "--lines");
}

#[test]
fn tokens_come_from_a_file_or_the_environment() {
    let scratch = Scratch::new("command-tokens");
    let token = scratch.file("token", 0o600, "a long secret\n");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let arguments = ["--no-tcp", "--unix", socket, "--token-file", &token, "--demo"];
    let running = Running::start(serve(&arguments));
    let ask = |flags: &[&str], environment: &[(&str, &str)]| {
        let mut command = ipc();
        command.args(["request", "echo", "1", "--unix", socket]).args(flags);
        command.envs(environment.iter().copied());
        command
    };
    let says = "the token of application \"bench\" is missing or wrong; give it with --token-file FILE or \
                in IPC_TOKEN (auth_failed)";
    assert_fails(ask(&[], &[]), 1, says);
    assert_fails(ask(&[], &[("IPC_TOKEN", "wrong")]), 1, says);
    let mut worker = ipc();
    worker.args(["worker", "w", "--unix", socket, "--", "cat"]);
    assert_fails(worker, 1, says);
    for (flags, environment) in [
        (&["--token-file", &token][..], &[][..]),
        (&[], &[("IPC_TOKEN", "a long secret")]),
        (&[], &[("IPC_TOKEN_FILE", &token)]),
    ] {
        assert_eq!(ask(flags, environment).output().unwrap().stdout, b"1\n");
    }
    let open = scratch.file("open", 0o644, "a long secret\n");
    assert_fails(ask(&["--token-file", &open], &[]), 1, "chmod 600");
    drop(running);
}

#[test]
fn what_the_server_tells_is_for_people_or_for_machines() {
    let demo = Demo::start();
    demo.prints(&["request", "echo", "1"]);
    demo.run(&["request", "nobody", "1"]);
    let stats = demo.prints(&["stats"]);
    assert!(stats.contains("ipc-framework 0.1.0 on 127.0.0.1:"), "{stats}");
    assert!(stats.contains("no_handler 1"), "{stats}");
    let [stats] = &demo.documents(&["stats", "--json"])[..] else { panic!("one document") };
    assert_eq!(stats["counters"]["errors"], json!({"no_handler": 1}));
    assert_eq!(stats["counters"]["worker_errors"], json!({}));
    let mut worker = demo.0.connected("bench", "worker").serving("fails");
    let mut asks = demo.0.connected("bench", "asks");
    let id = asks.send("request", "fails", json!(1));
    let task = worker.receive();
    let error = json!({"status": "error", "code": "app:no_tea", "error": "why"});
    worker.answer(&task, error.clone());
    asks.expect_answer(&id, error);
    let stats = demo.prints(&["stats"]);
    let row = |label: &str| stats.lines().find(|line| line.starts_with(label)).map(str::to_owned);
    assert!(row("errors").unwrap().ends_with(" app 1, no_handler 1"), "{stats}");
    assert!(row("those of workers").unwrap().ends_with(" app 1"), "{stats}");
    let channels = demo.prints(&["channels"]);
    let echo = channels.lines().find(|line| line.starts_with("echo")).expect("it is listed");
    let words: Vec<&str> = echo.split_whitespace().collect();
    assert_eq!(words[..4], ["echo", "0", "server", "1"], "{channels}");
    let [channels] = &demo.documents(&["channels", "--json"])[..] else { panic!("one document") };
    assert_eq!(channels["echo"]["has_handler"], true);
    let others = "application new has no channels yet; other applications here are bench, ";
    assert!(demo.prints(&["channels", "--app", "new"]).starts_with(others));
}

#[test]
fn names_of_peers_write_no_commands_to_a_terminal() {
    let demo = Demo::start();
    let mut peer = demo.0.connected("bench", "evil").subscribed("evil\u{1b}[31m\nname");
    peer.fence();
    let channels = demo.prints(&["channels"]);
    assert!(channels.contains("evil\\u001b[31m\\u000aname"), "{channels:?}");
}
