//! The marks of the memory budget, to the byte, and what a shortage leaves as it was.

use super::*;
use crate::MemoryPressure;
use crate::broker::state::budget::{CALL_BYTES, CHANNEL_BYTES, REQUEST_BYTES, SUBSCRIPTION_BYTES};

const BUDGET_BYTES: usize = 16 << 20;

fn short_world(idle_timeout: Option<Duration>) -> World {
    World::new(Limits { memory_bytes_max: BUDGET_BYTES, idle_timeout, ..Limits::default() })
}

impl World {
    /// Takes as much for the transport of a connection as makes this the memory of all.
    fn hold(&mut self, key: ConnectionKey, all_bytes: usize) {
        // Free buffers are memory, too, and are given back when it is short.
        self.broker.core.pool.trim();
        let bytes = all_bytes - self.broker.core.memory_bytes();
        self.broker.add_transport_bytes(key, bytes);
        self.pass(Duration::ZERO);
        assert_eq!(self.broker.core.memory_bytes(), all_bytes, "nothing else changes");
    }

    fn shortage(&self) -> (MemoryPressure, u64) {
        (self.broker.core.budget.pressure, self.broker.core.counters.memory_sheds)
    }

    /// Begins a message of which so much is kept as the budget allows.
    fn begin_long(&mut self, key: ConnectionKey) {
        self.deliver(key, &(16_u32 << 20).to_be_bytes());
        self.deliver(key, &vec![b' '; 64 << 10]);
    }

    fn held_bytes(&self, key: ConnectionKey) -> usize {
        flow::memory::held_bytes(self.connection(key))
    }
}

#[test]
fn each_stage_begins_with_the_byte_beyond_its_mark() {
    let mut world = short_world(None);
    let holder = world.connected("app", "holder");
    world.begin_long(holder);
    let key = world.connected("app", "transport");
    for (all_bytes, pressure, sheds) in [
        (BUDGET_BYTES / 4 * 3, MemoryPressure::None, 0),
        (BUDGET_BYTES / 4 * 3 + 1, MemoryPressure::Refusing, 0),
        (BUDGET_BYTES / 8 * 7, MemoryPressure::Refusing, 0),
        (BUDGET_BYTES / 8 * 7 + 1, MemoryPressure::Pausing, 0),
        (BUDGET_BYTES, MemoryPressure::Pausing, 0),
    ] {
        world.hold(key, all_bytes);
        assert_eq!(world.shortage(), (pressure, sheds), "{all_bytes}");
        assert_eq!(world.broker.wants_read(holder), pressure != MemoryPressure::Pausing);
    }
    world.broker.add_transport_bytes(key, 1);
    world.pass(Duration::ZERO);
    assert_eq!(world.shortage().1, 1, "the one that holds something");
    world.expect_error(holder, "limit_exceeded", Value::Null);
    // All is given back with the connection.
    world.hang_up(key);
    world.hang_up(holder);
    assert_eq!(world.shortage().0, MemoryPressure::None);
    assert_eq!(world.broker.core.budget.tables_bytes, 0);
}

/// Nobody can say anything while it is not read.
#[test]
fn a_pause_is_no_silence() {
    let mut world = short_world(Some(Duration::from_secs(10)));
    let holder = world.connected("app", "holder");
    let key = world.connected("app", "transport");
    world.begin_long(holder);
    world.pass(Duration::from_secs(6));
    world.hold(key, BUDGET_BYTES / 8 * 7 + 1);
    assert!(!world.broker.wants_read(holder));
    world.pass(Duration::from_secs(2));
    world.hang_up(key);
    assert!(world.broker.wants_read(holder));
    for _ in 0..9 {
        world.pass(Duration::from_secs(1));
        assert_eq!(world.closed, [key], "it could say nothing until two seconds ago");
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.closed, [key, holder]);
}

#[test]
fn those_who_were_paused_go_on_in_their_order() {
    let mut world = short_world(None);
    let key = world.connected("app", "transport");
    let holders = ["a", "b", "c"].map(|id| world.connected("app", id));
    for key in holders {
        world.begin_long(key);
    }
    world.hold(key, BUDGET_BYTES / 8 * 7 + 1);
    world.broker.hang_up(key, HangUp::Reset);
    let actions: Vec<Action> = std::iter::from_fn(|| world.broker.next_action()).collect();
    let resumed = actions.iter().filter_map(|action| match action {
        Action::Resume(key) => Some(*key),
        _ => None,
    });
    assert_eq!(resumed.collect::<Vec<_>>(), holders);
}

/// It is looked at again and again, until there is somebody to close or the memory comes back.
#[test]
fn a_shortage_of_which_no_connection_holds_anything_has_another_grace() {
    let grace = Limits::default().slow_consumer_grace;
    let mut world = short_world(None);
    let key = world.connected("app", "transport");
    let holder = world.connected("app", "holder");
    world.hold(key, BUDGET_BYTES / 8 * 7 + 1);
    world.pass(grace);
    assert_eq!(world.shortage(), (MemoryPressure::Pausing, 0));
    world.begin_long(holder);
    assert!(!world.broker.wants_read(holder));
    // One after another is short.
    world.pass(grace / 10);
    assert_eq!(world.shortage(), (MemoryPressure::Pausing, 1), "and the rest is the transport's");
    assert_eq!(world.closed, [holder]);
}

/// A whole that is lowered again, in the middle of a grace, gives a whole grace again.
#[test]
fn a_grace_begins_anew_when_the_whole_is_lowered_again() {
    let grace = Limits::default().slow_consumer_grace;
    let mut world = short_world(None);
    let holder = world.connected("app", "holder");
    world.begin_long(holder);
    let reload = |world: &mut World, memory_bytes_max: usize| {
        let limits = Limits { memory_bytes_max, ..Limits::default() };
        flow::reload::reconfigure(&mut world.broker.core, limits, Access::default());
        world.pass(Duration::ZERO);
    };
    reload(&mut world, 1 << 20);
    assert_eq!(world.shortage(), (MemoryPressure::Pausing, 0));
    world.pass(grace / 2);
    reload(&mut world, 1 << 19);
    // To the moment at which the first grace would have ended.
    world.pass(grace / 2);
    assert_eq!(world.shortage(), (MemoryPressure::Pausing, 0));
    world.pass(grace / 2);
    assert_eq!(world.shortage().1, 1);
}

/// A slow reader that holds the most gets no error, which it would not read, and is counted.
#[test]
fn a_long_queue_is_shed_like_a_long_message() {
    let mut world = World::new(Limits {
        memory_bytes_max: 1 << 20,
        queue_high_water_bytes: 1 << 20,
        ..Limits::default()
    });
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "news");
    world.stalled.push(slow);
    let mut published = 0;
    while world.closed.is_empty() {
        let mut context = world.broker.context();
        context.publish("app", "news", &"x".repeat(10_000)).unwrap();
        world.pass(Duration::ZERO);
        published += 1;
        assert!(published < 200);
    }
    assert_eq!((world.closed.clone(), world.shortage().1), (vec![slow], 1));
    assert!(world.take(slow).is_empty());
}

/// By this the one is chosen that is closed, so that all that it has counts.
#[test]
fn all_that_a_connection_has_counts_as_held_by_it() {
    let mut world = World::new(Limits::default());
    world.worker("work");
    let [plain, extended] = [world.connected("app", "plain"), world.extended("extended")];
    let topical = world.accept();
    let connect = json!({"action": "connect", "connection_id": "t", "extensions": ["topic"]});
    world.send(topical, &message("app", "request", "system", "c", &connect));
    world.take(topical);
    for (key, call_bytes) in [(plain, 0), (extended, CALL_BYTES), (topical, CALL_BYTES)] {
        let before = world.held_bytes(key);
        assert_eq!(before, 0, "nothing yet");
        world.subscribe(key, "app", &format!("{key:?}"));
        let subscribed = before + CHANNEL_BYTES + SUBSCRIPTION_BYTES;
        assert_eq!(world.held_bytes(key), subscribed);
        let id = "i".repeat(200);
        world.request(key, &id, &json!(1));
        let asked = subscribed + REQUEST_BYTES + call_bytes + id.len();
        assert_eq!(world.held_bytes(key), asked);
        // What stays in its buffer, and what is queued for it.
        world.deliver(key, &[0, 0]);
        let begun = asked + world.connection(key).recv.capacity();
        assert!(begun > asked);
        assert_eq!(world.held_bytes(key), begun);
        world.stalled.push(key);
        let mut context = world.broker.context();
        context.publish("app", &format!("{key:?}"), &"x".repeat(500)).unwrap();
        world.act();
        let queued = world.connection(key).send.len();
        assert!(queued > 500);
        assert_eq!(world.held_bytes(key), begun + queued);
    }
    // A pattern is a subscription that makes no channel.
    let other = world.accept();
    world.send(other, &message("app", "request", "system", "c", &connect));
    let pattern = json!({"pattern": true});
    world.send(other, &message("app", "subscribe", "sensors/#", "s", &pattern));
    assert_eq!(world.held_bytes(other), SUBSCRIPTION_BYTES);
}
