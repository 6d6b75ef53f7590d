//! The end of a slow subscriber, as whoever runs the server is told of it. What it means to the
//! others is in `bad_input::pressure`.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_framework::{Address, Config, Limits, Server};
use serde_json::{Value, json};

use super::{count, read_nothing_early, stats};
use crate::support::{Peer, install_echo};

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
fn a_slow_subscriber_is_closed_after_its_grace_counted_and_logged() {
    const MESSAGES: usize = 500;
    let limits = Limits {
        queue_high_water_bytes: 64 << 10,
        slow_consumer_grace: Duration::from_secs(3),
        ..Limits::default()
    };
    let mut server = Server::bind(Config { port: 0, limits, ..Config::default() }).unwrap();
    install_echo(&mut server);
    let Address::Tcp(address) = server.addresses()[0] else { panic!("TCP was asked for") };
    let handle = server.handle();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let running =
        std::thread::spawn(move || tracing::subscriber::with_default(subscriber, || server.run()));
    let join = |connection_id: &str| {
        let mut peer = Peer::new(address);
        peer.connect("app", connection_id);
        peer
    };
    let (mut slow, mut healthy, mut publisher) = (join("slow"), join("healthy"), join("fast"));
    slow.subscribe("news");
    read_nothing_early(&slow);
    healthy.subscribe("news");
    let reading = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            assert_eq!(healthy.receive()["payload"]["at"], at, "one is lost");
        }
        healthy
    });
    let secret = "x".repeat(8_000);
    for at in 0..MESSAGES {
        publisher.send("publish", "news", json!({"at": at, "secret": secret}));
    }
    publisher.fence();
    let _healthy = reading.join().unwrap();
    let stats = stats(&mut publisher);
    assert!(count(&stats, "publishers_held") > 0, "{stats}");
    assert_eq!(count(&stats, "slow_consumers"), 1);
    assert_eq!(count(&stats, "total_connections"), 2);
    handle.stop();
    running.join().unwrap().unwrap();

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("xxx"), "a payload is in the log");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings: Vec<Value> = lines.filter(|line| line["level"] == "WARN").collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let fields = &warning["fields"];
    assert_eq!(fields["message"], "closed a connection that reads too slowly");
    let queued: usize = fields["queued_bytes"].as_str().unwrap().parse().unwrap();
    // It may have been read from since it was over the mark, but not down to half of it.
    assert!((32 << 10..128 << 10).contains(&queued), "{warning}");
}
