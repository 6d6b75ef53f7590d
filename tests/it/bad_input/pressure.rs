//! Peers that do not read. That a subscriber which is slow for longer than its grace period is
//! closed, and that nothing else is lost, is tested in `attacks::slow_consumer`.

use std::time::Duration;

use ipc_framework::Limits;
use serde_json::json;

use super::Bystanders;
use crate::support::{TestServer, frame, serve_limited};

fn serve_impatient() -> TestServer {
    let limits = Limits::default()
        .queue_high_water_bytes(64 << 10)
        // A busy machine keeps a healthy reader from reading for a much shorter time.
        .slow_consumer_grace(Duration::from_secs(3));
    serve_limited(limits)
}

#[test]
fn a_subscriber_that_is_slow_for_less_than_its_grace_loses_nothing() {
    const MESSAGES: usize = 1_500;
    let limits = Limits::default().queue_high_water_bytes(64 << 10);
    let limits = limits.slow_consumer_grace(crate::support::HANG);
    let server = serve_limited(limits);
    let mut bystanders = Bystanders::of(&server);
    let mut slow = server.connected("app", "slow").subscribed("news");
    slow.read_nothing_early(64 << 10);
    let mut publisher = server.connected("app", "fast");
    let padding = "x".repeat(2_000);
    let publishing = std::thread::spawn(move || {
        for at in 0..MESSAGES {
            publisher.send("publish", "news", json!({"at": at, "padding": padding}));
        }
        publisher.fence();
    });
    server.wait_until("a publisher held", |stats| stats.counters.publishers_held > 0);
    // The pressure does not affect a second publisher on another channel.
    bystanders.go_on();
    for at in 0..MESSAGES {
        assert_eq!(slow.receive()["payload"]["at"], at);
    }
    publishing.join().unwrap();
    slow.fence();
    assert_eq!(server.stats().counters.slow_consumers, 0);
}

#[test]
fn whoever_does_not_read_its_answers_is_bounded() {
    let server = serve_impatient();
    let mut bystanders = Bystanders::of(&server);
    let mut deaf = server.connected("app", "deaf");
    deaf.read_nothing_early(64 << 10);
    let request = deaf.message("request", "echo", &json!("x".repeat(10_000)));
    let bytes = frame(request.to_string().as_bytes()).repeat(100);
    let buffered_bytes = bystanders.peak_of_a_flood(&server, &deaf, bytes);
    let stats = server.wait_until("its end", |stats| stats.total_connections == 3);
    assert_eq!((stats.counters.slow_consumers, stats.buffered_bytes), (1, 0));
    // The high-water mark and a frame, and as much again of requests that were read and not
    // answered.
    assert!(buffered_bytes > 32 << 10, "the mark was never near: {buffered_bytes} bytes");
    assert!(buffered_bytes <= 256 << 10, "{buffered_bytes} bytes");
    bystanders.go_on();
}
