//! Patterns, last values and histories on the command line.

use serde_json::{Value, json};

use super::{Demo, Live, documents};
use crate::cli::{Running, assert_fails, ipc, serve};
use crate::client::attachments::welcome;
use crate::client::scripted::{Scripted, Side};
use crate::scratch::Scratch;
use crate::support::reserved_port;

#[test]
fn a_pattern_shows_many_channels_and_a_name_only_one() {
    let demo = Demo::start();
    let mut prices = Live::start(demo.command(&["subscribe", "prices.*", "--pattern"]));
    let mut all = Live::start(demo.command(&["subscribe", "--all", "--json"]));
    let mut literal = Live::start(demo.command(&["subscribe", "prices.*"]));
    let note = literal.read_error();
    assert!(
        note.contains("prices.* is the name of one channel") && note.contains("--pattern"),
        "{note}"
    );
    for (channel, payload) in [("prices.tea", "1"), ("prices.tea.green", "2"), ("prices.*", "3")] {
        demo.prints(&["publish", channel, payload]);
    }
    assert!(prices.read_line().ends_with(" prices.tea 1"));
    assert!(prices.read_line().ends_with(" prices.* 3"));
    assert!(literal.read_line().ends_with(" prices.* 3"));
    let channels: Vec<Value> = (0..3)
        .map(|_| serde_json::from_str::<Value>(&all.read_line()).unwrap()["channel"].clone())
        .collect();
    assert_eq!(channels, ["prices.tea", "prices.tea.green", "prices.*"]);
    for live in [prices, all, literal] {
        live.signal("INT");
        assert_eq!(live.end().0, Some(0));
    }
    for (arguments, expected) in [
        (&["subscribe"][..], "<CHANNEL>"),
        (&["subscribe", "a", "--all"], "--all"),
        (&["subscribe", "a", "--last", "0"], "--last"),
        (&["subscribe", "a", "--since", "7"], "EPOCH:OFFSET"),
        (&["subscribe", "a", "b", "--since", "e:7"], "one channel"),
        (&["subscribe", "a.*", "--pattern", "--since", "e:7"], "--since"),
        (&["publish", "a", "--lines", "--ack"], "--ack"),
    ] {
        assert_fails(demo.command(arguments), 2, expected);
    }
    assert_fails(demo.command(&["subscribe", "a.>.b", "--pattern"]), 1, "no pattern");
}

/// Answers a subscribe, and returns what it asked for.
fn confirm(side: &mut Side, answer: &Value) -> Value {
    let asked = side.receive();
    assert_eq!(asked["message_type"], "subscribe", "{asked}");
    side.answer(&asked, answer.clone());
    let mut payload = asked["payload"].clone();
    payload.as_object_mut().unwrap().remove("connection_id");
    payload
}

fn publish(side: &mut Side, offset: u64) {
    let mut message = side.message("publish", "orders", &json!(offset));
    message["meta"] = json!({"epoch": "e", "offset": offset});
    side.send_message(&message);
}

/// By a server that loses its history at one restart, and a part of it at another.
#[test]
fn a_subscriber_goes_on_where_it_was_and_says_what_it_missed() {
    let script = Scripted::new();
    let welcome = welcome(&["call", "binary", "topic"]);
    let mut command = ipc();
    let port = script.address().port().to_string();
    command.args(["subscribe", "orders", "--json", "--since", "e:4", "--app", "app"]);
    command.args(["--host", "127.0.0.1", "--port", &port]);
    let started = std::thread::spawn(move || Live::start(command));
    let mut side = script.accept_as(&welcome);
    let subscribed = |newest: Value, recovered: bool| {
        let mut answer = json!({"status": "subscribed", "recovered": recovered});
        answer.as_object_mut().unwrap().extend(newest.as_object().unwrap().clone());
        answer
    };
    let asked = confirm(&mut side, &subscribed(json!({"epoch": "e", "offset": 5}), true));
    assert_eq!(asked, json!({"ack": true, "since": {"epoch": "e", "offset": 4}}));
    let mut live = started.join().unwrap();
    let mut document = || serde_json::from_str::<Value>(&live.read_line()).unwrap();
    let resumed = document();
    assert_eq!((&resumed["type"], &resumed["channel"]), (&json!("resumed"), &json!("orders")));
    publish(&mut side, 5);
    let shown = document();
    assert_eq!(
        (&shown["payload"], &shown["epoch"], &shown["offset"]),
        (&json!(5), &json!("e"), &json!(5))
    );

    drop(side);
    let mut side = script.accept_as(&welcome);
    let asked = confirm(&mut side, &subscribed(json!({"epoch": "e", "offset": 6}), true));
    assert_eq!(asked["since"], json!({"epoch": "e", "offset": 5}));
    publish(&mut side, 6);
    let (resumed, shown) = (document(), document());
    assert_eq!((&resumed["type"], &shown["payload"]), (&json!("resumed"), &json!(6)));

    drop(side);
    let mut side = script.accept_as(&welcome);
    confirm(&mut side, &subscribed(json!({"epoch": "e", "offset": 16}), false));
    let gap = document();
    let expected =
        json!({"channel": "orders", "type": "gap", "seen": "e:6", "newest": "e:16", "missed": 10});
    assert_eq!(gap, expected);

    drop(side);
    let mut side = script.accept_as(&welcome);
    let asked = confirm(&mut side, &subscribed(json!({"epoch": "f", "offset": 1}), false));
    assert_eq!(asked["since"], json!({"epoch": "e", "offset": 16}));
    let gap = document();
    assert_eq!((&gap["missed"], &gap["newest"]), (&Value::Null, &json!("f:1")));
    let told: Vec<String> = (0..7).map(|_| live.read_error()).collect();
    for (at, expected) in [
        (0, "orders where it was; nothing is missed"),
        (1, "the server is gone"),
        (2, "orders where it was; nothing is missed"),
        (4, "orders; 10 publications are missed"),
        (6, "whose history has begun anew"),
    ] {
        assert!(told[at].contains(expected), "{told:?}");
    }
    live.signal("INT");
    let (code, _, stderr) = live.end();
    assert_eq!(code, Some(0));
    assert!(stderr.contains("to go on after this: --since f:1"), "{stderr}");
    drop(side);
}

#[test]
fn a_publication_is_retained_acknowledged_and_purged() {
    let scratch = Scratch::new("topics");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let settings = "[[history]]\napp = \"bench\"\nchannel = \"orders\"\nmessages = 10\n";
    let settings = scratch.file("ipc.toml", 0o600, settings);
    let port = reserved_port().to_string();
    let arguments = ["--host", "127.0.0.1", "--port", &port, "--unix", socket];
    let config = ["--config", &settings];
    let demo = Demo(Running::start(serve(&[&arguments[..], &config].concat())));
    demo.prints(&["publish", "prices.tea", "3", "--retain"]);
    let first = demo.prints(&["publish", "orders", "\"tea\"", "--ack"]);
    assert!(first.ends_with(":1\n"), "{first}");
    let receipt = demo.documents(&["publish", "orders", "\"milk\"", "--ack", "--json"]);
    assert_eq!(receipt[0]["offset"], 2);
    assert_eq!(demo.prints(&["publish", "prices.milk", "1", "--ack"]), "", "it has no history");
    for (channel, payloads) in [("prices.tea", json!([3])), ("orders", json!(["tea", "milk"]))] {
        let count = payloads.as_array().unwrap().len().to_string();
        let shown = demo.prints(&["subscribe", channel, "--last", "5", "-n", &count, "--json"]);
        let shown: Vec<Value> =
            documents(&shown).into_iter().map(|one| one["payload"].clone()).collect();
        assert_eq!(json!(shown), payloads);
    }
    let since = format!("--since={}", first.trim());
    let shown = demo.documents(&["subscribe", "orders", &since, "-n", "1", "--json"]);
    assert_eq!(shown.last().unwrap()["payload"], "milk");

    assert_fails(demo.command(&["purge", "retained"]), 1, "forbidden");
    let purge = |arguments: &[&str]| {
        let mut command = ipc();
        command.arg("purge").args(arguments).args(["--unix", socket]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(purge(&["retained", "prices.tea"]), "1 last value of prices.tea forgotten\n");
    assert_eq!(purge(&["retained"]), "0 last values forgotten\n");
    assert_eq!(purge(&["history", "orders"]), "2 publications of orders forgotten\n");
    let answer: Value = serde_json::from_str(&purge(&["history", "--json"])).unwrap();
    assert_eq!(answer, json!({"status": "purged", "messages": 0}));
}

#[test]
fn the_lists_show_applications_and_channels_nobody_hears() {
    let demo = Demo::start();
    let _live = Live::start(demo.command(&["subscribe", "news", "--app", "shop"]));
    let shown = demo.prints(&["applications"]);
    assert!(
        shown.lines().any(|line| line.starts_with("shop ") && line.contains(" ago")),
        "{shown}"
    );
    let listed = demo.documents(&["applications", "--json"]);
    assert_eq!(listed[0]["shop"]["channels"], json!(["news"]));
    let channels = demo.prints(&["channels", "--app", "shop"]);
    assert!(channels.contains("history") && channels.contains("last value"), "{channels}");
}

#[test]
fn the_connections_are_for_the_operator_alone() {
    let scratch = Scratch::new("connections");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let arguments = ["--demo", "--host", "127.0.0.1", "--port", "0", "--unix", socket];
    let demo = Demo(Running::start(serve(&arguments)));
    let _worker = demo.0.connected("shop", "a secret id").serving("till");
    let mut listens = demo.0.connected("shop", "another");
    listens.subscribe("news");
    assert_fails(demo.command(&["connections"]), 1, "forbidden");
    let over = |more: &[&str]| {
        let mut command = ipc();
        command.arg("connections").args(["--unix", socket]).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = over(&["--json"]);
    assert!(!text.contains("secret"), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let listed = answer["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 3, "{answer}");
    let worker = listed.iter().find(|one| one["serves"] == json!(["till"])).unwrap();
    assert_eq!((&worker["app"], &worker["user"]), (&json!("shop"), &Value::Null));
    assert!(worker["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{worker}");
    let own = listed.iter().find(|one| one["address"] == "unix").unwrap();
    assert!(own["user"].is_u64() && own["connected_at"].as_f64() > Some(1e9), "{own}");
    assert!(listed.iter().any(|one| one["subscriptions"] == 1), "{answer}");
    let shown = over(&[]);
    assert!(shown.contains(" ago") && shown.contains("till"), "{shown}");
}
