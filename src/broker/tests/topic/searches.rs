//! The search for what is kept of the channels that a new pattern matches, turn by turn.

use super::*;
use crate::Verdict;
use crate::broker::flow::topic::keeping::ROOM_LOOKS;
use crate::broker::flow::topic::searches::LOOKS_PER_TURN;

/// More channels than a search looks at in two turns.
const CHANNELS: usize = 2 * LOOKS_PER_TURN + 100;

fn keeping_all() -> Limits {
    Limits::default().retained_values_max(100_000).queue_high_water_bytes(64 << 20)
}

fn retained(channel: &str, value: usize) -> Value {
    let mut publication = message("app", "publish", channel, "p", &json!(value));
    publication["meta"] = json!({"retain": true});
    publication
}

fn name(at: usize) -> String {
    format!("v.{at}")
}

/// A world in which each of the channels keeps its number, and who publishes there.
fn filled() -> (World, ConnectionKey) {
    let mut world = World::new(keeping_all());
    let from = world.topical("from");
    let frames: Vec<u8> = (0..CHANNELS).flat_map(|at| framed(&retained(&name(at), at))).collect();
    world.deliver(from, &frames);
    assert_eq!(world.broker.core.router.holding, CHANNELS);
    (world, from)
}

/// The first turn of a subscribe to the pattern, with these messages behind it.
fn begin(world: &mut World, key: ConnectionKey, behind: &[Value]) {
    let ask = json!({"pattern": true, "last": 1, "ack": true});
    let mut frames = framed(&message("app", "subscribe", "v.*", "s", &ask));
    frames.extend(behind.iter().flat_map(framed));
    world.broker.begin_turn(world.now);
    let before = world.broker.core.turn.work_done();
    world.broker.receive(key, &frames);
    assert_bounded(world, before);
    world.act_once();
}

/// No search does more in a turn than look at its channels and begin their replays.
fn assert_bounded(world: &World, before: u64) {
    let work = world.broker.core.turn.work_done() - before;
    assert!(work < 2 * LOOKS_PER_TURN as u64, "{work} deliveries' work in one step");
}

/// Runs one turn. Returns whether there was anything to do.
fn turn(world: &mut World) -> bool {
    world.act_once();
    let resumed = std::mem::take(&mut world.resumed);
    world.broker.end_turn(|| Duration::ZERO);
    world.broker.begin_turn(world.now);
    for key in &resumed {
        let before = world.broker.core.turn.work_done();
        world.broker.receive(*key, &[]);
        assert_bounded(world, before);
    }
    !resumed.is_empty()
}

/// Runs turns to the end of all that is under way, and returns their number.
fn run(world: &mut World) -> usize {
    let mut turns = 0;
    while turn(world) {
        turns += 1;
    }
    turns
}

/// The numbers that a connection was sent on each channel, in order.
fn by_channel(world: &mut World, key: ConnectionKey) -> BTreeMap<String, Vec<u64>> {
    let mut heard = BTreeMap::<_, Vec<u64>>::new();
    for message in world.take(key) {
        if message["message_type"] == "publish" {
            let channel = message["channel_id"].as_str().unwrap().to_owned();
            heard.entry(channel).or_default().push(message["payload"].as_u64().unwrap());
        }
    }
    heard
}

#[test]
fn a_search_takes_several_turns_and_others_are_served_in_each() {
    let (mut world, _) = filled();
    let (reader, asks) = (world.topical("reader"), world.connected("app", "asks"));
    begin(&mut world, reader, &[]);
    let ping = message("app", "request", "system", "p", &json!({"action": "ping"}));
    world.broker.receive(asks, &framed(&ping));
    world.act_once();
    assert_eq!(world.take_one(asks)["payload"]["status"], "pong");
    assert_eq!(world.broker.core.router.searches.running, 1);
    assert!(run(&mut world) > 2);
    let heard = by_channel(&mut world, reader);
    assert_eq!(heard.len(), CHANNELS);
    assert!((0..CHANNELS).all(|at| heard[&name(at)] == [at as u64]));
    assert_eq!(world.broker.core.router.searches.running, 0);
}

#[test]
fn what_is_published_during_a_search_comes_once_and_behind_what_was_kept() {
    let (mut world, from) = filled();
    let reader = world.topical("reader");
    begin(&mut world, reader, &[]);
    assert!(turn(&mut world));
    assert_eq!(world.broker.core.router.searches.running, 1);
    // On the first channel, which was looked at and sent, on the last one, which was not yet, and on one that
    // is new; twice on each.
    for (channel, value) in
        [(name(0), 1_000_000), (name(CHANNELS - 1), 1_000_001), ("v.new".to_owned(), 1_000_002)]
    {
        for value in [value, value + 10] {
            world.broker.receive(from, &framed(&retained(&channel, value)));
        }
    }
    run(&mut world);
    let heard = by_channel(&mut world, reader);
    let last = CHANNELS - 1;
    assert_eq!(heard[&name(0)], [0, 1_000_000, 1_000_010]);
    assert_eq!(heard[&name(last)], [last as u64, 1_000_001, 1_000_011]);
    assert_eq!(heard["v.new"], [1_000_002, 1_000_012]);
    assert_eq!(heard.len(), CHANNELS + 1);
    let once = heard.iter().filter(|(_, values)| values.len() == 1).count();
    assert_eq!(once, CHANNELS - 2);
}

#[test]
fn what_a_connection_says_behind_its_pattern_waits_for_the_search() {
    let (mut world, from) = filled();
    let reader = world.topical("reader");
    let leave = message("app", "unsubscribe", "v.*", "u", &json!({"pattern": true, "ack": true}));
    let ping = message("app", "request", "system", "p", &json!({"action": "ping"}));
    begin(&mut world, reader, &[leave, ping]);
    run(&mut world);
    let answers: Vec<Value> = world
        .take(reader)
        .into_iter()
        .filter(|message| message["message_type"] == "response")
        .map(|message| message["reply_to"].clone())
        .collect();
    assert_eq!(answers, ["s", "u", "p"]);
    world.put(from, &name(1), &json!(5));
    assert_eq!(world.take(reader), Vec::<Value>::new());
}

#[test]
fn a_search_that_finds_nothing_lets_its_connection_go_on() {
    let (mut world, _) = filled();
    let reader = world.topical("reader");
    let ask = json!({"pattern": true, "last": 1, "ack": true});
    let ping = message("app", "request", "system", "p", &json!({"action": "ping"}));
    let frames = [message("app", "subscribe", "nothing.*", "s", &ask), ping];
    world.broker.receive(reader, &frames.iter().flat_map(framed).collect::<Vec<_>>());
    run(&mut world);
    let answers: Vec<Value> =
        world.take(reader).into_iter().map(|message| message["reply_to"].clone()).collect();
    assert_eq!(answers, ["s", "p"]);
    assert!(!world.connection(reader).is_replaying);
}

#[test]
fn who_leaves_or_is_taken_over_during_its_search_leaves_nothing_behind() {
    for how in 0..3 {
        let (mut world, _) = filled();
        let reader = world.topical("reader");
        begin(&mut world, reader, &[]);
        match how {
            0 => world.hang_up(reader),
            1 => _ = world.topical("reader"),
            _ => {
                world.broker.begin_drain();
                run(&mut world);
                for key in world.broker.connections() {
                    world.broker.exhausted(key);
                }
            }
        }
        run(&mut world);
        let core = &world.broker.core;
        assert_eq!(core.router.searches.running, 0, "{how}");
        assert!(core.connections.get(reader).is_none_or(|found| found.held == Held::No), "{how}");
        assert_eq!(core.router.patterns.nodes.len(), 0, "{how}");
    }
}

#[test]
fn a_filter_is_asked_about_each_channel_that_is_found() {
    let (mut world, _) = filled();
    world.broker.filter(|delivery| {
        let channel = delivery.message().channel_id().raw();
        if channel.ends_with('7') { Err("not this one".into()) } else { Ok(Verdict::CarryOut) }
    });
    let reader = world.topical("reader");
    begin(&mut world, reader, &[]);
    run(&mut world);
    let heard = by_channel(&mut world, reader);
    assert!((0..CHANNELS).all(|at| heard.contains_key(&name(at)) != name(at).ends_with('7')));
}

#[test]
fn room_for_another_channel_is_found_without_a_look_at_all() {
    let limits = keeping_all().channels_max(CHANNELS);
    let mut world = World::new(limits);
    let from = world.topical("from");
    let publish = |world: &mut World, at: usize| {
        world.now.unix += Duration::from_secs(1);
        world.broker.begin_turn(world.now);
        let before = world.broker.core.turn.work_done();
        world.broker.receive(from, &framed(&retained(&name(at), at)));
        world.act();
        world.broker.core.turn.work_done() - before
    };
    for at in 0..CHANNELS {
        publish(&mut world, at);
    }
    for more in 0..20 {
        let work = publish(&mut world, CHANNELS + more);
        assert!(work <= ROOM_LOOKS as u64, "{work} deliveries' work for one channel");
    }
    assert_eq!(world.take(from), Vec::<Value>::new(), "none was refused");
    let router = &world.broker.core.router;
    assert_eq!((router.channels.len(), router.holding), (CHANNELS, CHANNELS));
    // Each time the oldest one of those that were looked at went, and those are others each time.
    let app = router.application("app").unwrap();
    let is_there = |at: usize| router.channel(app, &name(at)).is_some();
    assert!((0..20).all(|more| is_there(CHANNELS + more)));
    assert!((0..5).all(|look| !is_there(look * ROOM_LOOKS)), "they were created in that order");
}
