//! Reloading the settings of a running server: what changes, and what stays as it was.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits, Server};
use serde_json::json;

use crate::cli::{Running, serve};
use crate::scratch::Scratch;
use crate::support::{self, code, frame, until};

/// Writes these settings and has the server read them.
fn reload(running: &Running, config: &str, text: &str) -> String {
    fs::write(config, text).unwrap();
    let said = running.reload();
    assert!(said.contains("were read again"), "{said}");
    said
}

#[test]
fn limits_that_make_no_sense_are_refused_from_the_start_and_later() {
    let server = support::serve(Config::default(), support::install_echo);
    let mut peer = server.connected("app", "there already");
    for (limits, says) in [
        (Limits::default().connections_max(0), "at least one"),
        (Limits::default().frame_bytes_max(10), "between 1KiB and 1GiB"),
        (Limits::default().memory_bytes_max(16 << 20), "raise it to 67108864"),
        (Limits::default().request_timeout(Duration::ZERO), "time to answer"),
        (Limits::default().slow_consumer_grace(Duration::ZERO), "time to catch up"),
        (Limits::default().queue_high_water_bytes(0), "a few messages wait"),
        (Limits::default().queue_high_water_bytes(2 << 30), "lower it to 1073741824"),
    ] {
        let config = Config::default().port(0).limits(limits);
        let problems = config.problems();
        assert!(matches!(&problems[..], [one] if one.to_string().contains(says)), "{problems:?}");
        let refused = server.handle.reload(&config).unwrap_err();
        assert_eq!(refused.to_string(), problems[0].to_string());
        assert_eq!(Server::bind(config).unwrap_err().to_string(), problems[0].to_string());
    }
    assert_eq!(peer.stats()["max_connections"], Limits::default().connections_max);
}

#[test]
fn what_had_begun_ends_under_the_limit_it_began_with() {
    let scratch = Scratch::new("begun");
    let config = scratch.file("ipc.toml", 0o600, "max-frame-bytes = \"1MiB\"\n");
    let running = Running::start(serve(&["--port=0", "--demo", "--config", &config]));
    let mut began = running.connected("bench", "began");
    let mut listener = running.connected("bench", "listener").subscribed("news");
    let message = began.message("publish", "news", &json!("x".repeat(300_000)));
    let large = frame(message.to_string().as_bytes());
    began.stream.write_all(&large[..200_000]).unwrap();
    // The server itself has read it, and not only its kernel.
    let held = || listener.stats()["memory_bytes"].as_u64();
    until("the begin of the frame", held, |held| *held >= Some(200_000));
    reload(&running, &config, "max-frame-bytes = \"64KiB\"\n");
    began.stream.write_all(&large[200_000..]).unwrap();
    assert_eq!(listener.receive()["payload"], message["payload"]);
    began.fence();
    // The next frame begins under the new limit.
    began.stream.write_all(&large).unwrap();
    assert_eq!(code(&began.receive()), "frame_too_large");
}

#[test]
fn less_memory_begins_with_pausing_and_its_grace() {
    let scratch = Scratch::new("less");
    let config =
        scratch.file("ipc.toml", 0o600, "max-memory = \"64MiB\"\nmax-frame-bytes = \"256KiB\"\n");
    let running = Running::start(serve(&["--port=0", "--demo", "--config", &config]));
    let mut watcher = running.connected("bench", "watcher");
    let mut holder = running.connected("bench", "holder");
    for at in 0..4_000 {
        holder.send("subscribe", &format!("channel {at}"), json!({}));
    }
    holder.fence();
    let held = watcher.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held > 2 << 20, "{held}");
    let began = Instant::now();
    reload(&running, &config, "max-memory = \"2MiB\"\nmax-frame-bytes = \"256KiB\"\n");
    let now = watcher.stats();
    assert_eq!(now["max_memory"], 2 << 20);
    // No connection is closed within the grace period. If the machine was too slow to look within
    // it, nothing can be concluded.
    let grace = Duration::from_secs(5);
    if began.elapsed() < grace {
        assert_eq!(now["memory_pressure"], "pausing", "{now}");
        assert_eq!(now["counters"]["memory_sheds"], 0, "{now}");
    }
    // Then the largest holder is closed, as always when memory is short.
    assert_eq!(code(&holder.receive()), "limit_exceeded");
    assert!(began.elapsed() >= grace, "closed after {:?}", began.elapsed());
    watcher.fence();
    assert_eq!(watcher.stats()["memory_pressure"], "none");
}

#[test]
fn timeouts_marks_and_numbers_change_with_a_reload() {
    let scratch = Scratch::new("traffic");
    let first = "request-timeout = \"100ms\"\nmax-subscriptions = 2\nmax-channels = 3\n\
                 queue-high-water = \"1KiB\"\nslow-consumer-grace = \"1h\"\n";
    let config = scratch.file("ipc.toml", 0o600, first);
    // A flag goes before the file, also for these and also later.
    let arguments = ["--port=0", "--config", &config, "--max-channels=4"];
    let running = Running::start(serve(&arguments));
    let mut worker = running.connected("app", "worker");
    let one = json!({"action": "serve", "channel": "work", "concurrency": 1});
    assert_eq!(worker.request("system", one)["status"], "serving");
    let mut asks = running.connected("app", "asks");

    let late = asks.send("request", "work", json!("late"));
    let answer = asks.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("timeout", &json!(late)));
    let text = answer["payload"]["error"].as_str().unwrap();
    assert!(text.contains("within 100 ms"), "{text}");
    let task = worker.receive();

    asks.subscribe("one");
    asks.subscribe("two");
    let ack = json!({"ack": true});
    asks.expect_refusal("subscribe", "three", ack.clone(), "limit_exceeded");
    worker.subscribe("three");
    worker.expect_refusal("subscribe", "four", ack, "limit_exceeded");

    reload(
        &running,
        &config,
        "request-timeout = \"never\"\nmax-subscriptions = 3\nqueue-high-water = \"1KiB\"\n",
    );
    asks.subscribe("three");
    // It had been given up, but its worker does not know, and gets the next when it has answered.
    let patient = asks.send("request", "work", json!("patient"));
    let patient_task = worker.receive();
    // 16 times the mark is kept for the workers of a channel.
    let filler = json!("x".repeat(3_000));
    for _ in 0..10 {
        asks.send("request", "work", filler.clone());
    }
    asks.send("request", "system", json!({"action": "ping"}));
    let refused = (0..10).map(|_| asks.receive()).take_while(|a| a["payload"]["status"] != "pong");
    let codes: Vec<String> = refused.map(|answer| code(&answer).to_owned()).collect();
    assert!((4..8).contains(&codes.len()), "{codes:?}");
    assert!(codes.iter().all(|code| code == "limit_exceeded"), "{codes:?}");

    reload(&running, &config, "request-timeout = \"50ms\"\nmax-subscriptions = 3\n");
    let last = asks.send("request", "work", filler);
    let answer = asks.receive();
    assert_eq!((code(&answer), &answer["reply_to"]), ("timeout", &json!(last)));
    worker.answer(&task, "ignored");
    worker.answer(&patient_task, "done");
    asks.expect_answer(&patient, "done");

    fs::write(&config, "request-timeout = 0").unwrap();
    let said = running.reload();
    assert!(said.contains("stay as they were") && said.contains("or say never"), "{said}");
}

/// A part of the warning.
const OPEN: &str = "without a token";

#[test]
fn that_nobody_is_asked_for_a_token_any_more_is_said() {
    let scratch = Scratch::new("opened");
    let token = scratch.file("token", 0o600, "secret\n");
    let closed = format!("token-file = {token:?}\n[tokens]\nown = \"another\"\n");
    let config = scratch.file("ipc.toml", 0o600, &closed);
    let running = Running::start(serve(&["--port=0", "--config", &config]));
    let reload = |text: &str| reload(&running, &config, text);
    assert!(!reload(&closed).contains(OPEN));
    assert!(!reload(&format!("token-file = {token:?}\n")).contains(OPEN), "the common one is left");
    assert!(reload("[tokens]\nown = \"another\"\n").contains(OPEN), "all but one are open");
    assert!(!reload("[tokens]\nown = \"changed\"\n").contains(OPEN));
    assert!(reload("").contains(OPEN));
    assert!(!reload("").contains(OPEN), "that is no news");
    let _peer = running.connected("own", "anybody");
}
