//! Limits that change while connections are in the middle of something.

use super::*;
use crate::MemoryPressure;

const GRACE: Duration = Duration::from_secs(5);

impl World {
    fn reload(&mut self, limits: Limits) {
        flow::reload::reconfigure(&mut self.broker.core, limits, Access::default());
        flow::upkeep::settle(&mut self.broker.core);
        self.act();
    }

    fn pressure(&mut self) -> (MemoryPressure, u64) {
        let stats = self.broker.context().stats();
        (stats.memory_pressure, stats.counters.memory_sheds)
    }
}

fn publication(bytes: usize) -> Value {
    message("app", "publish", "news", "p", &json!("x".repeat(bytes)))
}

fn with_frames(frame_bytes_max: usize) -> Limits {
    Limits { frame_bytes_max, ..Limits::default() }
}

fn with_memory(memory_bytes_max: usize) -> Limits {
    Limits { memory_bytes_max, ..Limits::default() }
}

/// Begun is a frame of which any byte is there: of its header, of its body, or all of it, where
/// it waits behind others.
#[test]
fn a_frame_ends_under_the_limit_it_began_with() {
    let large = framed(&publication(10_000));
    for begun in [1, 3, 4, 5, 5_000, large.len() - 1] {
        let mut world = World::new(with_frames(20_000));
        let listener = world.connected("app", "listener");
        world.subscribe(listener, "app", "news");
        let sender = world.connected("app", "sender");
        world.deliver(sender, &large[..begun]);
        world.reload(with_frames(2_000));
        // Again, before that has ended.
        world.reload(with_frames(1_500));
        world.deliver(sender, &large[begun..]);
        assert_eq!(world.take(listener).len(), 1, "after {begun} bytes");
        assert_eq!(world.connection(sender).begun_bytes, 0);
        world.send(sender, &publication(1_000));
        assert_eq!(world.take(listener).len(), 1);
        world.deliver(sender, &large);
        world.expect_error(sender, "frame_too_large", Value::Null);
    }
}

#[test]
fn what_had_not_begun_does_not() {
    let mut world = World::new(with_frames(20_000));
    let sender = world.connected("app", "sender");
    world.reload(with_frames(2_000));
    world.deliver(sender, &framed(&publication(10_000)));
    world.expect_error(sender, "frame_too_large", Value::Null);
    // The frame that was begun keeps to the limit of that time.
    let sender = world.connected("app", "another");
    world.deliver(sender, &1_999_u32.to_be_bytes()[..2]);
    world.reload(with_frames(1_000));
    world.deliver(sender, &[0xff, 0xff]);
    world.expect_error(sender, "frame_too_large", Value::Null);
}

/// A publisher that is held back has whole frames waiting, and they are taken when it goes on.
#[test]
fn frames_that_wait_are_taken_under_the_limit_they_came_with() {
    let limits =
        |frame_bytes_max| Limits { queue_high_water_bytes: 4_000, ..with_frames(frame_bytes_max) };
    let mut world = World::new(limits(20_000));
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    let sender = world.connected("app", "sender");
    world.stalled.push(slow);
    let large = framed(&publication(10_000));
    world.deliver(sender, &[&large[..], &large[..], &large[..9_000]].concat());
    assert!(world.is_parked(sender));
    world.reload(limits(2_000));
    for _ in 0..2 {
        world.relieve(slow);
        world.act();
        assert_eq!(world.take(slow).len(), 1);
    }
    world.deliver(sender, &large[9_000..]);
    world.relieve(slow);
    world.act();
    assert_eq!(world.take(slow).len(), 1);
    world.deliver(sender, &large);
    world.expect_error(sender, "frame_too_large", Value::Null);
}

/// A queue that was allowed to become long is not its slow reader's fault.
#[test]
fn a_queue_keeps_the_grace_it_began_with() {
    let limits =
        |frame_bytes_max| Limits { queue_high_water_bytes: 4_000, ..with_frames(frame_bytes_max) };
    let mut world = World::new(limits(50_000));
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    world.stalled.push(slow);
    let publish = |world: &mut World, bytes: usize| {
        let mut context = world.broker.context();
        context.publish("app", "news", &"x".repeat(bytes)).unwrap();
        world.pass(Duration::ZERO);
    };
    publish(&mut world, 30_000);
    world.reload(limits(2_000));
    publish(&mut world, 1_000);
    assert!(world.closed.is_empty(), "closed for what it was sent before");
    world.pass(GRACE);
    assert_eq!(world.closed, [slow], "for being slow, after the grace");
}

/// The operator raises the mark for a reader that would be closed otherwise.
#[test]
fn a_queue_within_a_raised_mark_is_no_longer_slow() {
    let limits = |queue_high_water_bytes| Limits { queue_high_water_bytes, ..Limits::default() };
    let mut world = World::new(limits(4_000));
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    let sender = world.connected("app", "sender");
    world.stalled.push(slow);
    world.deliver(sender, &framed(&publication(5_000)).repeat(3));
    assert!(world.is_parked(sender));
    world.reload(limits(5_000));
    assert!(world.is_parked(sender), "it is over the new mark as well");
    world.reload(limits(100_000));
    assert!(!world.is_parked(sender));
    world.pass(GRACE);
    assert!(world.closed.is_empty());
    world.relieve(slow);
    world.act();
    assert_eq!(world.take(slow).len(), 3);
    // Lowered again, it applies to what comes from then on, with a grace from then on.
    world.deliver(sender, &framed(&publication(5_000)));
    world.reload(limits(4_000));
    world.pass(GRACE);
    assert!(world.closed.is_empty());
    world.deliver(sender, &framed(&publication(5_000)));
    world.pass(GRACE);
    assert_eq!(world.closed, [slow]);
}

/// Requests keep the timeout under which they began, in whichever order the timeouts end.
#[test]
fn a_request_keeps_the_timeout_it_began_with() {
    let timeout = |seconds: Option<u64>| Limits {
        request_timeout: seconds.map(Duration::from_secs),
        ..Limits::default()
    };
    let mut world = World::new(timeout(Some(20)));
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "20", &json!(1));
    world.reload(timeout(None));
    world.request(asks, "never", &json!(2));
    world.reload(timeout(Some(5)));
    world.request(asks, "5", &json!(3));
    world.reload(timeout(Some(50)));
    world.request(asks, "50", &json!(4));
    world.reload(timeout(Some(6)));
    world.request(asks, "6", &json!(5));
    world.reload(timeout(None));
    for (seconds, id) in [(5, "5"), (1, "6"), (14, "20"), (30, "50")] {
        world.pass(Duration::from_millis(seconds * 1_000 - 1));
        assert_eq!(world.take(asks), [] as [Value; 0], "before {id} s");
        world.pass(Duration::from_millis(1));
        let late = world.take(asks);
        assert_eq!((late.len(), &late[0]["payload"]["code"]), (1, &json!("timeout")));
        assert_eq!(late[0]["reply_to"], id);
        let text = late[0]["payload"]["error"].as_str().unwrap().to_owned();
        assert!(text.contains(&format!("within {id} s")), "{text}");
    }
    world.pass(Duration::from_secs(1 << 30));
    assert_eq!(world.take(asks), [] as [Value; 0], "it waits as long as it takes");
    let tasks = world.take(worker);
    world.answer(worker, &tasks[1], &json!("done"));
    let answers = world.take(asks);
    assert_eq!(
        (&answers[0]["reply_to"], &answers[0]["payload"]),
        (&json!("never"), &json!("done"))
    );
    // Without a timeout, a request ends with its worker and with its requester.
    world.request(asks, "lost", &json!(6));
    world.hang_up(worker);
    world.expect_error(asks, "worker_lost", "lost");
    let worker = world.worker("work");
    world.request(asks, "gone", &json!(7));
    world.hang_up(asks);
    assert_eq!(world.broker.context().stats().pending_requests, 0);
    assert_eq!(world.take(worker).len(), 1);
}

/// The time from one part to the next is that of the limits of the moment.
#[test]
fn streams_get_the_timeout_that_a_reload_sets() {
    let timeout = |seconds: Option<u64>| Limits {
        request_timeout: seconds.map(Duration::from_secs),
        ..Limits::default()
    };
    let mut world = World::new(timeout(Some(20)));
    let worker = world.extended_worker("worker");
    let asks = world.extended("asks");
    world.call(asks, "outlives", &json!({"stream": 9}));
    world.call(asks, "goes on", &json!({"stream": 9}));
    let goes_on = world.take(worker).remove(1);
    world.reload(timeout(None));
    world.call(asks, "never", &json!({"stream": 9}));
    world.take(worker);
    // The first two are looked at when their time is over, and there is none any more.
    world.pass(Duration::from_secs(60));
    world.call(asks, "plain", &json!({}));
    world.take(worker);
    assert_eq!(world.take(asks), [json!(null); 0]);
    world.reload(timeout(Some(10)));
    world.pass(Duration::from_secs(9));
    world.part(worker, &goes_on, &json!(1), &json!({"seq": 0}));
    assert_eq!(world.take(asks).len(), 1, "the part");
    world.pass(Duration::from_secs(1));
    let late = world.take(asks);
    let mut ids: Vec<_> = late.iter().map(|m| m["reply_to"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["never", "outlives"]);
    assert!(late.iter().all(|late| late["payload"]["code"] == "timeout"));
    world.take(worker);
    // One that began with a timeout has its time once, although it is looked at twice.
    world.call(asks, "both", &json!({"stream": 9}));
    world.take(worker);
    world.reload(timeout(None));
    world.reload(timeout(Some(10)));
    world.pass(Duration::from_secs(9));
    world.expect_error(asks, "timeout", "goes on");
    world.pass(Duration::from_secs(1));
    world.expect_error(asks, "timeout", "both");
    world.cancel(asks, "plain");
    world.take(worker);
    world.take(asks);
    assert_eq!(world.broker.next_deadline(), None, "no timer is left");
}

/// It has no end by itself, so that of the drain has to do.
#[test]
fn a_drain_cuts_off_a_request_without_a_timeout() {
    let mut world = World::new(Limits { request_timeout: None, ..Limits::default() });
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    world.request(asks, "q", &json!(1));
    world.broker.begin_drain();
    world.pass(Duration::ZERO);
    assert_eq!(world.take(asks)[0]["payload"]["code"], "shutting_down");
    world.pass(Limits::default().drain_timeout);
    let cut_off = world.take(asks);
    assert_eq!(cut_off[0]["payload"]["code"], "timeout", "{cut_off:?}");
    drop(world.take(worker));
}

/// Nothing that is computed from it overflows.
#[test]
fn the_longest_grace_does_no_harm_where_memory_is_short() {
    let limits = |slow_consumer_grace| Limits { slow_consumer_grace, ..with_memory(16 << 20) };
    let mut world = World::new(limits(GRACE));
    for at in 0..12 {
        let hoarder = world.connected("app", &format!("{at}"));
        world.deliver(hoarder, &(16_u32 << 20).to_be_bytes());
        world.deliver(hoarder, &vec![b' '; 64 << 10]);
    }
    assert_eq!(world.pressure(), (MemoryPressure::Refusing, 0));
    world.reload(limits(Duration::MAX));
    world.pass(GRACE * 10);
    assert_eq!(world.pressure(), (MemoryPressure::Refusing, 0));
}

#[test]
fn silence_counts_from_the_reload_on() {
    let limits =
        |seconds| Limits { idle_timeout: Some(Duration::from_secs(seconds)), ..Limits::default() };
    let mut world = World::new(limits(100));
    let silent = world.connected("app", "silent");
    world.pass(Duration::from_secs(50));
    let talks = world.connected("app", "talks");
    world.reload(limits(10));
    world.pass(Duration::from_secs(9));
    assert!(world.closed.is_empty(), "it did not know that it had to say something");
    world.send(talks, &message("app", "request", "system", "1", &json!({"action": "ping"})));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.closed, [silent]);
    world.pass(Duration::from_secs(9));
    assert_eq!(world.closed, [silent, talks]);
}

/// Three connections with a large message unfinished each, and a bystander.
fn hoarding() -> (World, Vec<ConnectionKey>) {
    let mut world = World::new(with_memory(64 << 20));
    let hoarders: Vec<_> = (0..3).map(|at| world.connected("app", &format!("{at}"))).collect();
    for key in &hoarders {
        world.deliver(*key, &(8_u32 << 20).to_be_bytes());
        world.deliver(*key, &vec![b' '; 64 << 10]);
        assert_eq!(world.connection(*key).recv.capacity(), 1 << 20);
    }
    (world, hoarders)
}

#[test]
fn less_memory_than_is_held_begins_with_pausing_and_its_grace() {
    let (mut world, hoarders) = hoarding();
    world.reload(with_memory(2 << 20));
    assert_eq!(world.pressure(), (MemoryPressure::Pausing, 0));
    assert!(hoarders.iter().all(|key| !world.broker.wants_read(*key)));
    world.pass(Duration::from_millis(4_999));
    assert_eq!(world.pressure(), (MemoryPressure::Pausing, 0));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.pressure(), (MemoryPressure::None, 2), "the largest, until there is room");
}

#[test]
fn who_gives_it_back_within_the_grace_spares_the_others() {
    let (mut world, hoarders) = hoarding();
    world.reload(with_memory(2 << 20));
    world.hang_up(hoarders[0]);
    world.hang_up(hoarders[1]);
    assert_eq!(world.pressure(), (MemoryPressure::None, 0));
    world.pass(GRACE);
    assert!(world.broker.wants_read(hoarders[2]));
    // The former whole is forgotten: at the new one there is no grace.
    let others: Vec<_> = (3..5).map(|at| world.connected("app", &format!("{at}"))).collect();
    for key in others {
        world.deliver(key, &(8_u32 << 20).to_be_bytes());
        world.deliver(key, &vec![b' '; 64 << 10]);
    }
    assert!(world.pressure().1 > 0);
}

#[test]
fn until_then_the_former_whole_is_the_most_and_a_raised_one_ends_it() {
    let (mut world, _) = hoarding();
    world.reload(with_memory(2 << 20));
    world.pass(Duration::from_secs(3));
    // Lowered once more it has its grace once more; said again it has not.
    world.reload(with_memory(1 << 20));
    world.pass(Duration::from_secs(3));
    assert_eq!(world.pressure(), (MemoryPressure::Pausing, 0));
    world.reload(with_memory(1 << 20));
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.pressure(), (MemoryPressure::Pausing, 0));
    world.reload(with_memory(64 << 20));
    assert_eq!(world.pressure(), (MemoryPressure::None, 0));
    world.pass(GRACE);
    assert!(world.closed.is_empty());
}

#[test]
fn a_raised_limit_applies_to_a_frame_that_has_begun() {
    let large = framed(&publication(10_000));
    for begun in [1, 3] {
        let mut world = World::new(with_frames(2_000));
        let listener = world.connected("app", "listener");
        world.subscribe(listener, "app", "news");
        let sender = world.connected("app", "sender");
        world.deliver(sender, &large[..begun]);
        world.reload(with_frames(20_000));
        world.deliver(sender, &large[begun..]);
        assert_eq!(world.take(listener).len(), 1, "after {begun} bytes");
    }
}
