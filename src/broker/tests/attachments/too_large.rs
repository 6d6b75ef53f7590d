//! Requests with attachments that are too large for the worker that is to get them.

use super::*;

impl World {
    /// The time since which a worker has said nothing of what it has.
    fn silent_since(&self, key: ConnectionKey) -> Option<Duration> {
        let session = self.broker.core.connections.session(key).expect("it is there");
        session.worker.as_ref().expect("it serves").silent_since
    }
}

#[test]
fn a_kept_request_that_is_too_large_for_its_worker_is_unsupported() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let busy = world.binary("busy");
    world.serve_with(busy, &json!(1));
    world.received.remove(&busy);
    let asks = world.binary("asks");
    world.request(asks, "first", &json!(1));
    world.got_one(busy);
    let (body, _) = ask("q", &json!({}), 9_000);
    world.send_body(asks, &body);
    let plain = world.connected("app", "plain");
    world.serve_with(plain, &json!(1));
    world.expect_error(asks, "unsupported", "q");
    // The worker did not get it, so it is not silent about it.
    assert_eq!(world.broker.core.counters.forwarded, 1);
    assert_eq!(world.silent_since(plain), None);
    // The worker has room for the next one.
    world.request(asks, "next", &json!(2));
    assert_eq!(*world.got(plain).last().unwrap().payload(), json!(2));
    world.assert_empty(&[busy, plain, asks]);
}

#[test]
fn a_kept_request_that_a_lowered_limit_makes_too_large_is_not_blamed_on_base64() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let busy = world.binary("busy");
    world.serve_with(busy, &json!(1));
    world.received.remove(&busy);
    let asks = world.binary("asks");
    world.request(asks, "first", &json!(1));
    world.got_one(busy);
    let (body, _) = ask("q", &json!({}), 9_000);
    world.send_body(asks, &body);
    let limits = Limits { frame_bytes_max: 5_000, ..Limits::default() };
    flow::reload::reconfigure(&mut world.broker.core, limits, Access::default());
    let native = world.binary("native");
    world.serve_with(native, &json!(1));
    world.expect_error(asks, "limit_exceeded", "q");
    world.assert_empty(&[busy, native, asks]);
}

#[test]
fn a_retry_that_is_too_large_for_its_worker_is_unsupported() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let one = world.binary("one");
    world.serve(one, "app", "work");
    let asks = world.binary("asks");
    let (body, _) = ask("q", &json!({"idempotent": true}), 9_000);
    world.send_body(asks, &body);
    world.got_one(one);
    let plain = world.connected("app", "plain");
    world.serve(plain, "app", "work");
    world.hang_up(one);
    world.expect_error(asks, "unsupported", "q");
    assert!(world.got(plain).is_empty());
    let counters = &world.broker.core.counters;
    assert_eq!((counters.forwarded, counters.retried), (1, 0));
    assert_eq!(world.silent_since(plain), None);
    world.assert_empty(&[plain, asks]);
}

#[test]
fn an_idempotent_request_that_is_too_large_for_its_worker_is_not_forwarded() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let plain = world.connected("app", "plain");
    world.serve(plain, "app", "work");
    let asks = world.binary("asks");
    let (body, _) = ask("q", &json!({"idempotent": true}), 9_000);
    world.send_body(asks, &body);
    world.expect_error(asks, "unsupported", "q");
    assert_eq!(world.broker.core.counters.forwarded, 0);
    assert_eq!(world.silent_since(plain), None);
    world.assert_empty(&[plain, asks]);
}
