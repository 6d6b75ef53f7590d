//! A server that is behind with reading: nobody's time is over before what he sent has been read.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);

impl World {
    /// A turn that begins at this time, when all sockets were read up to the moment `read_up_to`.
    fn turn_at(&mut self, time: Duration, read_up_to: Duration) {
        self.now = Now { monotonic: time, unix: time };
        self.broker.begin_turn(self.now);
        self.broker.core.turn.judged = read_up_to;
        self.broker.advance();
        self.act();
    }
}

/// The timer of a connection or stream is not set anew by each of its messages. When it expires, what
/// came meanwhile counts, and only up to the moment until which sockets were read.
#[test]
fn silence_is_judged_up_to_what_was_read() {
    let limits =
        Limits { idle_timeout: Some(TIMEOUT), request_timeout: Some(TIMEOUT), ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"stream": 9}));
    let got = world.take_one(worker);
    world.pass(Duration::from_secs(20));
    world.part(worker, &got, &json!(0), &json!({"seq": 0}));
    world.notify(asks, &json!(null));
    world.take(asks);

    // Both may speak again until 50 s. They did, perhaps, and it is 55 s.
    let (late, read_up_to) = (Duration::from_secs(55), TIMEOUT + Duration::from_secs(1));
    world.turn_at(late, read_up_to);
    assert!(world.closed.is_empty(), "{:?}", world.closed);
    assert!(world.take(asks).is_empty(), "the stream goes on");
    world.part(worker, &got, &json!(1), &json!({"seq": 1}));
    assert_eq!(world.take(asks).len(), 1);
    world.turn_at(late, late);
    assert_eq!(world.closed, [asks], "only it had said nothing when all was read");
}

/// The same of timers that are set once.
#[test]
fn no_timer_expires_that_was_due_after_what_was_read() {
    let limits = Limits {
        handshake_timeout: TIMEOUT,
        slow_consumer_grace: TIMEOUT,
        request_timeout: Some(TIMEOUT),
        queue_high_water_bytes: 16 << 10,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    let handshake = world.accept();
    world.call(asks, "plain", &json!({}));
    world.call(asks, "bounded", &json!({"ttl": TIMEOUT.as_millis() as u64}));
    world.stalled.push(slow);
    world.send(worker, &message("app", "publish", "news", "p", &json!("x".repeat(32 << 10))));

    let late = TIMEOUT + Duration::from_millis(50);
    world.turn_at(late, Duration::from_millis(29_999));
    assert!(world.closed.is_empty() && world.take(asks).is_empty(), "{:?}", world.closed);
    assert_eq!(world.broker.core.requests.len(), 2);
    world.turn_at(late, TIMEOUT);
    assert_eq!(world.broker.core.requests.len(), 0);
    world.closed.sort_unstable();
    let mut expected = [slow, handshake];
    expected.sort_unstable();
    assert_eq!(world.closed, expected);
}
