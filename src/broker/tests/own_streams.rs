//! Answers in parts that come from another thread of the process, without the threads.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{HandlerError, PartError, PartSender};

type Senders = Arc<Mutex<Vec<PartSender>>>;

/// A world with a handler of `work` that leaves its answer to whoever takes the sender.
fn streaming() -> (World, Senders) {
    let mut world = World::new(Limits::default());
    let senders = Senders::default();
    let kept = senders.clone();
    world.broker.application("app", "The App").channel("work").on_request(move |request| {
        let (reply, sender) = request.stream()?;
        kept.lock().unwrap().push(sender);
        Ok(reply)
    });
    (world, senders)
}

impl World {
    fn run_posted(&mut self) {
        self.broker.begin_turn(self.now);
        while self.broker.run_mailbox().has_more {}
        self.act();
    }
}

#[test]
fn parts_need_credit_and_are_numbered() {
    let (mut world, senders) = streaming();
    let asks = world.extended("asks");
    world.call(asks, "q", &json!({"stream": 2}));
    let mut sender = senders.lock().unwrap().pop().expect("a stream");
    assert!(sender.try_send("one").unwrap() && sender.try_send("two").unwrap());
    assert!(!sender.try_send("three").unwrap(), "there is no credit for it");
    world.run_posted();
    let parts = world.take(asks);
    let metas: Vec<_> = parts.iter().map(|part| part["meta"].clone()).collect();
    assert_eq!(metas, [json!({"seq": 0}), json!({"seq": 1})]);
    assert_eq!(payloads(&parts), [json!("one"), json!("two")]);
    let counters = &world.broker.core.counters;
    assert_eq!((counters.stream_parts, counters.credit_stalls), (2, 1));

    let credit = json!({"action": "credit", "message_id": "q", "n": 1});
    world.notify(asks, &credit);
    assert!(sender.wait(Duration::ZERO).unwrap());
    assert!(sender.try_send("three").unwrap());
    assert!(!sender.try_send("four").unwrap(), "it is told of its credit once");
    sender.end();
    world.run_posted();
    let parts = world.take(asks);
    assert_eq!(parts[0]["payload"], "three");
    assert_eq!((&parts[1]["meta"], parts.len()), (&json!({"seq": 3, "end": true}), 2));
    assert!(parts.iter().all(|part| part["reply_to"] == "q" && part["channel_id"] == "work"));
    assert_eq!(world.broker.core.requests.len(), 0);
}

#[test]
fn the_thread_is_told_how_its_request_ended() {
    for (how, reason) in [(0, "caller"), (1, "gone"), (2, "deadline")] {
        let (mut world, senders) = streaming();
        let asks = world.extended("asks");
        world.call(asks, "q", &json!({"stream": 1, "ttl": 1_000}));
        let mut sender = senders.lock().unwrap().pop().expect("a stream");
        let called = Arc::new(Mutex::new(0));
        let count = called.clone();
        sender.on_cancel(move || *count.lock().unwrap() += 1);
        assert!(!sender.is_cancelled());
        match how {
            0 => world.cancel(asks, "q"),
            1 => world.hang_up(asks),
            _ => world.pass(Duration::from_secs(1)),
        }
        assert!(sender.is_cancelled(), "{reason}");
        assert_eq!(*called.lock().unwrap(), 1, "{reason}");
        assert!(matches!(sender.try_send("late"), Err(PartError::Cancelled)), "{reason}");
        sender.on_cancel({
            let count = called.clone();
            move || *count.lock().unwrap() += 1
        });
        assert_eq!(*called.lock().unwrap(), 2, "one that comes later is called at once");
        assert_eq!(world.broker.core.counters.cancelled, BTreeMap::from([(reason, 1)]));
        assert_eq!(world.broker.core.requests.len(), 0);
    }
}

/// Whoever asks for no stream gets an array.
#[test]
fn parts_for_others_are_collected() {
    let (mut world, senders) = streaming();
    let asks = world.connected("app", "asks");
    for parts in [json!([]), json!([1]), json!(["one", {"two": 2}, null])] {
        world.request(asks, "q", &json!(1));
        let mut sender = senders.lock().unwrap().pop().expect("a stream");
        for part in parts.as_array().unwrap() {
            assert!(sender.wait(Duration::ZERO).unwrap());
            assert!(sender.try_send(part).unwrap());
        }
        sender.end();
        world.run_posted();
        assert_eq!(payloads(&world.take(asks)), [parts]);
    }
    world.request(asks, "q", &json!(1));
    let sender = senders.lock().unwrap().pop().expect("a stream");
    sender.fail(HandlerError::app("own", "no"));
    world.run_posted();
    world.expect_error(asks, "app:own", "q");
    world.request(asks, "q", &json!(1));
    drop(senders.lock().unwrap().pop());
    world.run_posted();
    world.expect_error(asks, "handler_failed", "q");
}

/// Up to the limit for a frame, and no more.
#[test]
fn collected_parts_are_no_longer_than_a_frame() {
    let (mut world, senders) = streaming();
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    let mut sender = senders.lock().unwrap().pop().expect("a stream");
    let part = "x".repeat(1 << 20);
    let mut sent = 0;
    let error = loop {
        match sender.try_send(&part) {
            Ok(taken) => assert!(taken),
            Err(error) => break error,
        }
        sent += 1;
        assert!(sent <= 16);
    };
    assert!(matches!(error, PartError::TooLarge), "{error:?}");
    assert_eq!(sent, 15, "of a limit of 16 MiB");
    world.run_posted();
    world.expect_error(asks, "limit_exceeded", "q");
}
