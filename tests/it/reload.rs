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
