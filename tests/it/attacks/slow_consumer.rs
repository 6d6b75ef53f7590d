//! The end of a slow subscriber: its effect on the others, and the report to the operator.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_framework::{Config, Limits, UnixSocket};
use serde_json::{Value, json};

use crate::bad_input::Bystanders;
use crate::scratch::Scratch;
use crate::support::{Peer, install_echo, serve, serve_by};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_subscriber_is_closed_after_its_grace_and_nobody_else_loses_anything() {
    const MESSAGES: usize = 5_000;
    let limits = Limits::default()
        .queue_high_water_bytes(64 << 10)
        .slow_consumer_grace(Duration::from_secs(3));
    let log = Log::default();
    let writer = log.clone();
    let tracing = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let config = Config::default().port(0).limits(limits);
    let server = serve_by(config, install_echo, |mut server| {
        tracing::subscriber::with_default(tracing, || server.run())
    });
    let mut bystanders = Bystanders::of(&server);
    let mut slow = server.connected("app", "slow").subscribed("news");
    slow.read_nothing_early(64 << 10);
    let readers = [0, 1].map(|at| {
        let mut healthy = server.connected("app", &format!("healthy-{at}")).subscribed("news");
        std::thread::spawn(move || {
            for at in 0..MESSAGES {
                assert_eq!(healthy.receive()["payload"]["at"], at, "one is lost");
            }
            healthy.fence();
        })
    });
    let mut publisher = server.connected("app", "fast");
    let secret = "x".repeat(2_000);
    let publishing = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            publisher.send("publish", "news", json!({"at": at, "secret": secret}));
        }
        publisher.fence();
        publisher
    });
    let held = server.wait_until("a publisher held", |stats| stats.counters.publishers_held > 0);
    assert_eq!(held.counters.slow_consumers, 0, "the grace comes first");
    bystanders.go_on();
    let publisher: Peer = publishing.join().expect("the publisher is held back, not failed");
    for reader in readers {
        reader.join().expect("every message in order");
    }
    let stats = server.stats();
    assert_eq!(stats.counters.slow_consumers, 1);
    assert_eq!(stats.total_connections, 4, "the bystanders and the publisher");
    // It received the beginning, and then the end of the stream.
    let mut received = 0;
    while let Ok(message) = slow.try_receive() {
        assert_eq!(message["payload"]["at"], received);
        received += 1;
    }
    assert!(received < MESSAGES, "it got everything");
    bystanders.go_on();
    drop((publisher, bystanders));
    server.stop();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("xxx"), "a payload is in the log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<Value> = lines.filter(|line| line["level"] == "WARN").collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let fields = &warning["fields"];
    assert_eq!(fields["message"], "closed a connection that reads too slowly");
    let queued = fields["queued_bytes"].as_u64().unwrap();
    // The peer may have read since its queue exceeded the mark, but not down to half of it.
    assert!((32 << 10..128 << 10).contains(&queued), "{warning}");
}

/// A subscriber whose own requests fill its queue again as soon as it has drained. Those who publish to
/// it go on before it asks for more.
#[test]
fn a_subscriber_with_large_answers_does_not_hold_its_publishers_back_for_good() {
    const REQUESTS: usize = 20;
    let scratch = Scratch::new("large-answers");
    let path = scratch.socket();
    let limits = Limits::default().queue_high_water_bytes(64 << 10);
    let server = serve(Config::default().unix(UnixSocket::at(&path)).limits(limits), |server| {
        // More than the socket takes at once.
        let answer = "x".repeat(600 << 10);
        server
            .application("app", "The App")
            .channel("large")
            .on_request(move |request| request.reply(&answer));
    });
    let mut greedy = Peer::over_unix(&path).unwrap();
    greedy.connect("app", "greedy");
    greedy.subscribe("news");
    // Of a size of which the socket still holds some while one is answered.
    let request = greedy.message("request", "large", &json!("x".repeat(40 << 10)));
    let mut writer = greedy.reader();
    let asking = std::thread::spawn(move || {
        (0..REQUESTS).for_each(|_| writer.send_message(&request));
    });
    // Its handshake, its subscription and its first request.
    server.wait_until("an answer", |stats| stats.counters.frames_in == 3);
    let mut publisher = server.connected("app", "publisher");
    publisher.send("publish", "news", json!("at last"));
    server.wait_until("a publisher held", |stats| stats.counters.publishers_held > 0);
    let received: Vec<bool> =
        (0..=REQUESTS).map(|_| greedy.receive()["payload"] == "at last").collect();
    asking.join().unwrap();
    let before = received.iter().position(|is_publication| *is_publication);
    assert!(before.is_some_and(|answers| answers < REQUESTS / 2), "{before:?} of {REQUESTS}");
}
