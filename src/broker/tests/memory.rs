//! The memory budget, stage by stage.

use super::*;
use crate::MemoryPressure;
use crate::broker::state::budget::{CHANNEL_BYTES, REQUEST_BYTES};

const BUDGET_BYTES: usize = 16 << 20;

fn short_world() -> World {
    World::new(Limits { memory_bytes_max: BUDGET_BYTES, ..Limits::default() })
}

impl World {
    fn stats(&mut self) -> Stats {
        self.broker.context().stats()
    }

    /// Connections that hold nothing yet.
    fn hoarders(&mut self, count: usize) -> Vec<ConnectionKey> {
        (0..count).map(|at| self.connected("app", &format!("hoarder {at}"))).collect()
    }

    /// Each begins a message, and with so much of it is given a sixteenth of the budget.
    fn hoard(&mut self, hoarders: &[ConnectionKey]) {
        for key in hoarders {
            self.deliver(*key, &(16_u32 << 20).to_be_bytes());
            self.deliver(*key, &vec![b' '; 64 << 10]);
            assert_eq!(self.connection(*key).recv.capacity(), BUDGET_BYTES / 16);
        }
    }
}

#[test]
fn first_nothing_new_comes_in_and_everything_else_goes_on() {
    let mut world = short_world();
    let bystander = world.connected("app", "bystander");
    world.subscribe(bystander, "app", "news");
    let other = world.connected("app", "other");
    let hoarders = world.hoarders(12);
    world.hoard(&hoarders[..11]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::None);
    world.hoard(&hoarders[11..]);
    let stats = world.stats();
    assert_eq!(stats.memory_pressure, MemoryPressure::Refusing, "{stats:?}");
    assert_eq!((stats.max_memory, stats.counters.memory_refusals), (BUDGET_BYTES, 0));

    let newcomer = world.accept();
    world.act();
    world.expect_error(newcomer, "server_full", Value::Null);
    world.send(other, &message("app", "subscribe", "unheard of", "s1", &json!({})));
    world.expect_error(other, "limit_exceeded", "s1");
    world.send(other, &message("app", "subscribe", "news", "s2", &json!({})));
    world.expect_error(other, "limit_exceeded", "s2");
    let serve = json!({"action": "serve", "channel": "new"});
    world.send(other, &message("app", "request", "system", "s3", &serve));
    world.expect_error(other, "limit_exceeded", "s3");
    assert_eq!(world.stats().total_channels, stats.total_channels, "nothing of it is left");
    // Existing subscriptions go on, and subscribing once more adds nothing.
    world.subscribe(bystander, "app", "news");
    world.send(other, &message("app", "publish", "news", "p", &json!(1)));
    assert_eq!(payloads(&world.take(bystander)), [json!(1)]);
    let stats = world.stats();
    assert_eq!(stats.counters.memory_refusals, 4);
    assert_eq!((stats.counters.memory_pauses, stats.counters.memory_sheds), (0, 0));

    world.hang_up(hoarders[0]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::None);
    world.subscribe(other, "app", "unheard of");
    assert!(world.take(other).is_empty());
}

#[test]
fn a_message_that_does_not_end_makes_room_for_newcomers_and_one_that_does_is_left_alone() {
    let mut world = short_world();
    let hoarders = world.hoarders(13);
    world.hoard(&hoarders[..11]);
    let grace = Limits::default().slow_consumer_grace;
    // Not short: as long as it takes.
    world.pass(grace * 10);
    world.hoard(&hoarders[11..12]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Refusing);
    world.deliver(hoarders[0], b" ");
    world.pass(grace);
    let stats = world.stats();
    assert_eq!(stats.counters.memory_sheds, 11, "that a byte comes now and then is no help");
    assert_eq!(stats.memory_pressure, MemoryPressure::None);
    world.expect_error(hoarders[0], "limit_exceeded", Value::Null);

    // Short from here on: each message has its time from its begin.
    let more = world.hoarders(11);
    world.hoard(&more);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Refusing);
    world.pass(grace * 4);
    assert_eq!(world.stats().counters.memory_sheds, 11);
    world.pass(grace * 2);
    assert_eq!(world.stats().counters.memory_sheds, 23);
    world.pass(grace);
    assert_eq!(world.broker.next_deadline(), None, "there is nothing left to wait for");
}

/// It arrived slowly and is whole by now, so that it waits for others and not for its sender.
#[test]
fn a_whole_message_that_has_to_wait_is_not_unfinished() {
    const HIGH_WATER_BYTES: usize = 4_000;
    let mut world = World::new(Limits {
        memory_bytes_max: BUDGET_BYTES,
        queue_high_water_bytes: HIGH_WATER_BYTES,
        ..Limits::default()
    });
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    let [publisher, other] = ["publisher", "other"].map(|id| world.connected("app", id));
    let hoarders = world.hoarders(12);
    let publication =
        |bytes: usize| framed(&message("app", "publish", "feed", "p", &json!("x".repeat(bytes))));
    let large = publication(80 << 10);
    let (begin, end) = large.split_at(70 << 10);
    world.deliver(publisher, begin);
    world.hoard(&hoarders);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Refusing);
    let grace = Limits::default().slow_consumer_grace;
    world.pass(grace * 28 / 5);
    world.pass(grace / 5);
    world.deliver(other, &publication(HIGH_WATER_BYTES));
    world.deliver(publisher, end);
    assert!(world.is_parked(publisher));
    world.pass(grace * 4 / 5);
    assert_eq!(world.stats().counters.memory_sheds, 12, "those who have not sent the rest");
    assert!(world.is_parked(publisher));
    for _ in 0..2 {
        world.relieve(slow);
        world.act();
        assert_eq!(world.take(slow).len(), 1);
    }
}

#[test]
fn then_unfinished_messages_and_publications_wait_and_small_requests_do_not() {
    let mut world = short_world();
    let bystander = world.connected("app", "bystander");
    let news = message("app", "publish", "news", "p", &json!("late"));
    world.subscribe(bystander, "app", "news");
    let hoarders = world.hoarders(14);
    world.hoard(&hoarders);
    let stats = world.stats();
    assert_eq!(stats.memory_pressure, MemoryPressure::Pausing, "{stats:?}");
    for hoarder in &hoarders {
        assert!(!world.broker.wants_read(*hoarder));
    }
    assert_eq!(stats.counters.memory_pauses, 14);
    let ping = message("app", "request", "system", "ping", &json!({"action": "ping"}));
    let bytes = framed(&ping);
    world.deliver(bystander, &bytes[..4]);
    assert!(world.broker.wants_read(bystander), "what is small is taken whole");
    world.deliver(bystander, &bytes[4..]);
    assert_eq!(world.take(bystander)[0]["payload"]["status"], "pong");
    world.send(bystander, &news);
    assert!(world.take(bystander).is_empty(), "a publication waits");
    assert!(!world.broker.wants_read(bystander));

    // Memory comes back before the grace is over: all go on, and nobody is closed.
    for hoarder in &hoarders[..3] {
        world.hang_up(*hoarder);
    }
    assert_eq!(payloads(&world.take(bystander)), [json!("late")]);
    assert!(world.broker.wants_read(hoarders[3]));
    world.pass(Limits::default().slow_consumer_grace);
    let stats = world.stats();
    assert_eq!(stats.memory_pressure, MemoryPressure::None, "{stats:?}");
    assert_eq!(stats.counters.memory_sheds, 0);
    assert_eq!(world.closed, hoarders[..3], "those who left");
}

#[test]
fn last_whoever_holds_the_most_is_closed_until_there_is_room() {
    let mut world = short_world();
    let bystander = world.connected("app", "bystander");
    world.subscribe(bystander, "app", "news");
    let hoarders = world.hoarders(14);
    world.hoard(&hoarders);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    world.pass(Limits::default().slow_consumer_grace);
    let stats = world.stats();
    assert_eq!(stats.memory_pressure, MemoryPressure::None, "{stats:?}");
    assert!(stats.memory_bytes <= BUDGET_BYTES / 4 * 3, "{stats:?}");
    assert!((2..=4).contains(&stats.counters.memory_sheds), "{stats:?}");
    let told = hoarders.iter().filter(|key| !world.take(**key).is_empty()).count() as u64;
    assert_eq!(told, stats.counters.memory_sheds, "each is told why");
    world.send(bystander, &message("app", "publish", "news", "p", &json!("on")));
    assert_eq!(payloads(&world.take(bystander)), [json!("on")]);
}

/// A peer that comes back and does the same does not hold the others up as long again.
#[test]
fn the_second_grace_in_a_row_is_short() {
    let grace = Limits::default().slow_consumer_grace;
    let mut world = short_world();
    let hoarders = world.hoarders(20);
    world.hoard(&hoarders[..14]);
    world.pass(grace);
    let shed = world.stats().counters.memory_sheds;
    assert!((2..=4).contains(&shed), "{shed}");
    world.hoard(&hoarders[14..14 + shed as usize]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    world.pass(grace / 10);
    assert_eq!(world.stats().counters.memory_sheds, 2 * shed);
    // Long after that it is as long as ever.
    world.pass(grace * 2);
    world.hoard(&hoarders[17..]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    world.pass(grace / 10);
    assert_eq!(world.stats().counters.memory_sheds, 2 * shed);
}

/// Nothing unfinished is held here: many small things add up.
#[test]
fn what_the_tables_hold_is_counted_and_given_back() {
    let mut world = World::new(Limits::default());
    let empty = world.stats().memory_bytes;
    let key = world.connected("app", "one");
    let one = world.stats().memory_bytes;
    assert!(one - empty >= CONNECTION_BYTES, "{one} {empty}");
    let before = world.stats().memory_bytes;
    let long_id = "x".repeat(200);
    for at in 0..100 {
        world.subscribe(key, "app", &format!("{long_id}{at}"));
    }
    let subscribed = world.stats().memory_bytes;
    assert!(subscribed - before >= 100 * (400 + CHANNEL_BYTES + 64), "{subscribed}");
    let worker = world.worker("work");
    let before = world.stats().memory_bytes;
    for at in 0..50 {
        world.request(key, &format!("{long_id}{at}"), &json!(1));
    }
    let asked = world.stats().memory_bytes;
    assert!(asked - before >= 50 * (200 + REQUEST_BYTES), "{asked}");
    assert_eq!(world.connection(key).session().unwrap().requests.len(), 50);
    world.hang_up(worker);
    world.hang_up(key);
    assert_eq!(world.stats().memory_bytes - world.broker.core.pool.free_bytes(), 0);
    assert_eq!(world.broker.core.budget.tables_bytes, 0);
}

#[test]
fn who_fills_the_tables_is_the_largest_holder_too() {
    let mut world = World::new(Limits { memory_bytes_max: 1 << 20, ..Limits::default() });
    let bystander = world.connected("app", "bystander");
    let greedy = world.connected("app", "greedy");
    let mut named = 0;
    while world.stats().memory_pressure == MemoryPressure::None {
        named += 1;
        world.subscribe(greedy, "app", &format!("{named}"));
    }
    assert!((500..1_500).contains(&named), "{named} channels");
    // The connection that adds the last byte holds far less.
    world.deliver(bystander, &(250_u32 << 10).to_be_bytes());
    world.deliver(bystander, &vec![b' '; 100 << 10]);
    assert_eq!(world.stats().counters.memory_sheds, 1);
    world.expect_error(greedy, "limit_exceeded", Value::Null);
    assert!(matches!(world.connection(bystander).state(), State::Open(_)));
    assert_eq!(world.stats().memory_pressure, MemoryPressure::None);
}

#[test]
fn out_of_memory_the_largest_holder_is_closed_and_nobody_else() {
    const LIMIT_BYTES: usize = 8 << 20;
    let mut world = World::new(Limits {
        memory_bytes_max: LIMIT_BYTES,
        queue_high_water_bytes: LIMIT_BYTES,
        ..Limits::default()
    });
    let ping = message("app", "request", "system", "ping", &json!({"action": "ping"}));
    // It waits with a header and a piece of the body, as published clients are found.
    let halfway = world.connected("app", "halfway");
    let bytes = framed(&ping);
    world.deliver(halfway, &bytes[..4]);
    world.deliver(halfway, &bytes[4..20]);
    let behind = world.connected("app", "behind");
    world.subscribe(behind, "app", "news");
    world.stalled.push(behind);
    let attacker = world.connected("app", "attacker");
    let body_bytes = 16_u32 << 20;
    world.deliver(attacker, &body_bytes.to_be_bytes());
    world.deliver(attacker, &vec![b' '; 2_000 << 10]);
    assert!(world.closed.is_empty() && world.take(attacker).is_empty());
    // Another connection adds the last byte.
    let publisher = world.connected("app", "publisher");
    let text = "x".repeat(30 << 10);
    let mut sent = 0;
    while world.connection(publisher).held != Held::Memory {
        sent += 1;
        assert!(sent * text.len() < LIMIT_BYTES, "nobody is held back");
        world.send(publisher, &message("app", "publish", "news", "p", &json!(text)));
    }
    assert!(world.take(attacker).is_empty(), "the grace comes first");
    world.pass(Limits::default().slow_consumer_grace);
    world.expect_error(attacker, "limit_exceeded", Value::Null);
    world.pass(limits::LINGER);
    assert_eq!(world.closed, [attacker]);
    world.deliver(halfway, &bytes[20..]);
    assert_eq!(world.take(halfway)[0]["payload"]["status"], "pong");
    world.relieve(behind);
    assert_eq!(world.take(behind).len(), sent);
    assert_eq!(world.broker.core.pool.gauge().bytes(), 0);
}

/// Its socket was not read while it waited, and may have come to its end.
#[test]
fn who_is_closed_while_it_waits_for_memory_is_read_again() {
    const LIMIT_BYTES: usize = 8 << 20;
    let mut world = World::new(Limits {
        memory_bytes_max: LIMIT_BYTES,
        queue_high_water_bytes: LIMIT_BYTES,
        ..Limits::default()
    });
    let behind = world.connected("app", "behind");
    world.subscribe(behind, "app", "news");
    world.stalled.push(behind);
    let publisher = world.connected("app", "publisher");
    let text = json!("x".repeat(30 << 10));
    while world.connection(publisher).held != Held::Memory {
        world.send(publisher, &message("app", "publish", "news", "p", &text));
    }
    assert!(!world.broker.wants_read(publisher));
    assert!(world.broker.context().close_connection(publisher));
    let actions: Vec<Action> = std::iter::from_fn(|| world.broker.next_action()).collect();
    assert!(actions.contains(&Action::Flush(publisher)), "{actions:?}");
    assert!(actions.contains(&Action::Resume(publisher)), "{actions:?}");
}

#[test]
fn many_half_frames_are_bounded_together() {
    const LIMIT_BYTES: usize = 1 << 20;
    let mut world = World::new(Limits { memory_bytes_max: LIMIT_BYTES, ..Limits::default() });
    let bystander = world.connected("app", "bystander");
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    world.deliver(bystander, &ping[..4]);
    let attackers: Vec<_> = (0..40).map(|at| world.connected("app", &format!("{at}"))).collect();
    for _ in 0..4 {
        for attacker in &attackers {
            let body_bytes = 16_u32 << 20;
            if world.connection(*attacker).recv.is_empty() {
                world.deliver(*attacker, &body_bytes.to_be_bytes());
            }
            world.deliver(*attacker, &[b' '; 16 << 10]);
            assert!(world.broker.core.memory_bytes() <= LIMIT_BYTES);
        }
    }
    assert!(world.broker.core.counters.errors["limit_exceeded"] > 10);
    // The small buffers of a peer that does nothing wrong are never the largest.
    world.deliver(bystander, &ping[4..]);
    assert_eq!(world.take(bystander)[0]["payload"]["status"], "pong");
}

/// A message that could not go on, because memory was too short for that, has its whole time again.
#[test]
fn the_time_of_a_message_begins_anew_after_a_pause() {
    let mut world = short_world();
    let hoarders = world.hoarders(15);
    let grace = Limits::default().slow_consumer_grace;
    world.hoard(&hoarders[..11]);
    world.pass(grace * 6);
    world.hoard(&hoarders[11..14]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    hoarders[11..14].iter().for_each(|key| world.hang_up(*key));
    assert_eq!(world.stats().memory_pressure, MemoryPressure::None);
    world.hoard(&hoarders[14..]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Refusing);
    world.pass(grace * 5);
    assert_eq!(world.stats().counters.memory_sheds, 0);
    world.pass(grace);
    assert_eq!(world.stats().counters.memory_sheds, 12, "none of them ends");
}

/// Whoever waits goes on only once there is room for more than its next message: otherwise that would
/// be over the mark again at once.
#[test]
fn who_waits_for_memory_goes_on_below_the_lower_mark() {
    let mut world = short_world();
    let bystander = world.connected("app", "bystander");
    let hoarders = world.hoarders(14);
    world.hoard(&hoarders);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    // Below seven eighths, and above three quarters.
    world.hang_up(hoarders[0]);
    let stats = world.stats();
    let (bytes, whole) = (stats.memory_bytes, BUDGET_BYTES);
    assert!((whole / 4 * 3..whole / 8 * 7).contains(&bytes), "{stats:?}");
    assert_eq!(stats.memory_pressure, MemoryPressure::Pausing, "{stats:?}");
    assert!(hoarders[1..].iter().all(|key| !world.broker.wants_read(*key)));
    world.send(bystander, &message("app", "request", "system", "1", &json!({"action": "ping"})));
    assert_eq!(world.take(bystander).len(), 1);
    assert!(hoarders[1..].iter().all(|key| !world.broker.wants_read(*key)), "still");

    world.hang_up(hoarders[1]);
    world.hang_up(hoarders[2]);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::None);
    assert!(hoarders[3..].iter().all(|key| world.broker.wants_read(*key)));
    assert_eq!(world.stats().counters.memory_pauses, 14, "each waited once");
    // On the way up, the same amount keeps nobody waiting.
    let others =
        (0..2).map(|at| world.connected("app", &format!("other {at}"))).collect::<Vec<_>>();
    world.hoard(&others);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Refusing);
    assert!(others.iter().all(|key| world.broker.wants_read(*key)));
}

/// Nobody could give anything back meanwhile.
#[test]
fn a_server_that_was_stopped_gives_its_memory_the_grace_anew() {
    let grace = Limits::default().slow_consumer_grace;
    let mut world = short_world();
    let hoarders = world.hoarders(14);
    world.hoard(&hoarders);
    assert_eq!(world.stats().memory_pressure, MemoryPressure::Pausing);
    world.pass(grace * 10);
    let sheds = |world: &mut World| world.stats().counters.memory_sheds;
    assert_eq!(sheds(&mut world), 0, "the server was away");
    world.pass(grace / 2);
    assert_eq!(sheds(&mut world), 0);
    world.pass(grace / 2);
    assert!(sheds(&mut world) > 0, "they gave nothing back");
}
