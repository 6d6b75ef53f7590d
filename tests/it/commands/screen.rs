//! The output on a terminal: colours, indented JSON, and the screen of `ipc top`.

use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};

use super::Demo;
use super::terminal::Terminal;
use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::support::HANG;

#[test]
fn json_is_indented_and_coloured_on_a_terminal_alone() {
    let demo = Demo::start();
    let mut command = demo.command(&["request", "echo", "{\"a\":[1,true]}"]);
    let plain = Terminal::run(&command);
    let lines = plain.wait_until("the answer", |text| text.contains('}'));
    let lines: Vec<&str> = lines.lines().map(str::trim_end).collect();
    assert_eq!(lines, ["{", "  \"a\": [", "    1,", "    true", "  ]", "}"]);
    assert!(!plain.has_colours(), "NO_COLOR says so");
    assert_eq!(plain.end().0, Some(0));
    command.env("NO_COLOR", "");
    let coloured = Terminal::run(&command);
    coloured.wait_until("the answer", |text| text.contains('}'));
    assert!(coloured.has_colours());
    let machine = demo.command(&["request", "echo", "{\"a\":[1]}", "--json"]);
    let machine = Terminal::run(&machine);
    machine.wait_until("one line", |text| text.trim_end() == "{\"a\":[1]}");
    command.arg("--what");
    let failed = Terminal::run(&command);
    assert_eq!(failed.end().0, Some(2));
}

/// It is no error, and programs are not told.
#[test]
fn a_person_is_told_that_nobody_listens() {
    let demo = Demo::start();
    let _peers = [
        demo.0.connected("bench", "listens").subscribed("news"),
        demo.0.connected("bench", "works").serving("sort"),
    ];
    let applications = "; other applications here are bench, chat_app, ";
    for (arguments, says) in [
        (["publish", "nwes", "1", "--app", "bench"], "nobody subscribes to channel nwes of"),
        (["publish", "nwes", "1", "--app", "bench"], "; other channels there are echo, news"),
        (["publish", "sort", "1", "--app", "bench"], "nobody subscribes to channel sort of"),
        (["notify", "srot", "1", "--app", "bench"], "nobody serves channel srot of"),
        (["notify", "srot", "1", "--app", "bench"], "; other channels there are echo, sort"),
        (["notify", "news", "1", "--app", "bench"], "nobody serves channel news of"),
        (["publish", "news", "1", "--app", "bensch"], applications),
        (["notify", "sort", "1", "--app", "bensch"], applications),
    ] {
        let command = demo.command(&arguments);
        let (code, screen) = Terminal::run(&command).end();
        assert!(code == Some(0) && screen.contains(says), "{arguments:?}: {screen}");
        let Output { status, stderr, .. } = output(command);
        assert!(status.success() && stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [["publish", "news", "1"], ["notify", "sort", "1"], ["notify", "echo", "1"]] {
        let (code, screen) = Terminal::run(&demo.command(&arguments)).end();
        assert_eq!((code, &*screen), (Some(0), ""), "{arguments:?}");
    }
    let none = Running::start(serve(&["--port=0"]));
    let port = none.address().port().to_string();
    let mut lonely = ipc();
    lonely.args(["publish", "news", "1", "--port", &port]);
    let (code, screen) = Terminal::run(&lonely).end();
    assert_eq!(code, Some(0));
    assert_eq!(screen.trim_end(), "nobody subscribes to channel news of application bench");
}

#[test]
fn whoever_joins_an_application_that_nobody_uses_is_told_which_ones_are_used() {
    let demo = Demo::start();
    let note = |app: &str| format!("application {app} had no channels before; other applications");
    for arguments in [&["subscribe", "news"][..], &["worker", "sort", "--", "cat"]] {
        let mut command = demo.command(arguments);
        command.env("IPC_APP", "bensch");
        let terminal = Terminal::run(&command);
        let screen = terminal.wait_until("the note", |text| text.contains(&note("bensch")));
        assert!(screen.contains("stop with Ctrl-C") && screen.contains("chat_app"), "{screen}");
        let mut terminal = terminal;
        terminal.press("\x03");
        assert_eq!(terminal.end().0, Some(0));
        command.env("IPC_APP", "bench");
        let mut known = Terminal::run(&command);
        known.wait_until("its start", |text| text.contains("stop with Ctrl-C"));
        known.press("\x03");
        let (code, screen) = known.end();
        assert!(code == Some(0) && !screen.contains("other applications"), "{screen}");
    }
}

#[test]
fn bench_shows_how_far_it_is() {
    let demo = Demo::start();
    let arguments = ["bench", "--warmup", "0", "--duration", "1s"];
    let terminal = Terminal::run(&demo.command(&arguments));
    terminal.wait_until("the bar", |text| text.contains("a second"));
    let result = terminal.wait_until("the result", |text| text.contains("p99.9"));
    assert!(result.starts_with("request: 1 connection"), "the bar is gone:\n{result}");
}

/// Returns the words of the line that begins with this channel.
fn row<'a>(screen: &'a str, channel: &str) -> Option<Vec<&'a str>> {
    let lines = screen.lines().map(|line| line.trim_matches([' ', '│']));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.into_iter().find(|words| words.first() == Some(&channel))
}

fn position(screen: &str, channel: &str) -> Option<usize> {
    screen.lines().position(|line| row(line, channel).is_some())
}

#[test]
fn top_shows_rates_channels_and_latencies() {
    let demo = Demo::start();
    let mut peer = demo.0.connected("bench", "asks").subscribed("news");
    peer.request("echo", json!(1));
    let mut top = Terminal::run(&demo.command(&["top", "--interval", "200ms"]));
    let first = top.wait_until("the table", |text| row(text, "echo").is_some());
    let head = first.lines().next().unwrap();
    assert!(head.contains(&format!("127.0.0.1:{}", demo.0.address().port())), "{first}");
    assert!(first.contains("2 of 10000 connections") && first.contains("buffered"), "{first}");
    assert!(first.contains("channels of bench"), "{first}");
    let news = row(&first, "news").expect("both channels are there");
    assert_eq!(news[3], "1", "its subscriber: {first}");
    // Traffic shows as a rate, and in the sparklines.
    let begin = Instant::now();
    let busy = loop {
        assert!(begin.elapsed() < HANG, "no rate:\n{}", top.text());
        for _ in 0..50 {
            peer.request("echo", json!(1));
        }
        let text = top.text();
        if row(&text, "echo").is_some_and(|row| row[1] != "-") && text.contains('█') {
            break text;
        }
    };
    let echo = row(&busy, "echo").unwrap();
    assert!(echo.contains(&"µs") || echo.contains(&"ms"), "its latency: {busy}");
    // It is also drawn in the column that the sparklines above do not reach.
    loop {
        peer.request("echo", json!(1));
        let text = top.text();
        assert!(begin.elapsed() < HANG, "nothing is drawn:\n{text}");
        if text.lines().any(|line| line.contains("echo") && line.contains('█')) {
            break;
        }
    }
    // By requests echo is first, by name echo is first as well, in reverse order news is first.
    top.press("c");
    let by_name =
        top.wait_until("echo first", |text| position(text, "echo") < position(text, "news"));
    assert!(position(&by_name, "echo").is_some(), "{by_name}");
    top.press("c");
    top.wait_until("news first", |text| position(text, "news") < position(text, "echo"));
    top.press("n");
    top.wait_until("most subscribers first", |text| {
        position(text, "news") < position(text, "echo")
    });
    top.press(" ");
    top.wait_until("the pause", |text| text.contains("paused"));
    top.press("+");
    top.wait_until("a shorter interval", |text| text.contains("every 100ms"));
    top.press("q");
    let (code, left) = top.end();
    assert_eq!(code, Some(0));
    assert!(!left.contains("channels of"), "the terminal is as it was:\n{left}");
}

#[test]
fn top_answers_keys_while_the_server_stands_still() {
    let demo = Demo::start();
    let mut top = Terminal::run(&demo.command(&["top", "--interval", "100ms"]));
    top.wait_until("the table", |text| row(text, "echo").is_some());
    demo.0.signal("STOP");
    top.wait_until("the trouble", |text| text.contains("the server has not answered for"));
    top.press(" ");
    top.wait_until("the pause", |text| text.contains("paused"));
    // The client has not given the server up yet, so the next sample comes by the same connection.
    demo.0.signal("CONT");
    top.press(" ");
    top.wait_until("the next sample", |text| !text.contains("not answered"));
    demo.0.signal("STOP");
    top.press("q");
    assert_eq!(top.end().0, Some(0));
    demo.0.signal("CONT");
}

#[test]
fn top_waits_for_a_server_that_is_away_and_ends_on_ctrl_c() {
    let demo = Demo::start();
    let mut top = Terminal::run(&demo.command(&["top", "--interval", "100ms"]));
    top.wait_until("the table", |text| row(text, "echo").is_some());
    drop(demo);
    top.wait_until("the trouble", |text| text.contains("start it with `ipc serve --port "));
    top.press("\u{3}");
    assert_eq!(top.end().0, Some(0));
}

#[test]
fn top_is_a_document_a_sample_for_machines() {
    let demo = Demo::start();
    demo.prints(&["request", "echo", "1"]);
    let documents = demo.documents(&["top", "--json", "-n", "2", "-i", "100ms"]);
    let [first, second] = &documents[..] else { panic!("{documents:?}") };
    // There is nothing before the first sample with which it could be compared.
    assert_eq!((&first["per_second"], &first["connections"]), (&Value::Null, &json!(1)));
    assert_eq!(first["channels"][0]["requests_per_second"], Value::Null);
    assert_eq!(second["channels"][0]["requests_per_second"], 0.0);
    assert_eq!(second["connections"], 1);
    assert!(second["per_second"]["frames_in"].as_f64() > Some(0.0), "it asks itself: {second}");
    assert_eq!(second["channels"][0]["channel"], "echo");
    assert!(second["channels"][0]["latency_us"]["p99.9"].as_f64() > Some(0.0), "{second}");
    assert!(second["rtt_us"].as_f64() > Some(0.0), "{second}");
    assert_fails(demo.command(&["top"]), 2, "--json");
}
