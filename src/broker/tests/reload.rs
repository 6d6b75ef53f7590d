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
