//! Publications that one read brings are delivered together, and nobody can tell.

use proptest::prelude::*;

use super::*;

/// Whether the read is whole or cut, the subscribers get the same messages, errors and answers in
/// the same order, and the counters agree.
#[test]
fn what_is_delivered_together_is_what_was_published() {
    let publication = |channel: &str, at: usize| {
        framed(&message(
            "app",
            "publish",
            channel,
            &format!("m{at}"),
            &json!([at, "x".repeat(500)]),
        ))
    };
    let mut read = Vec::new();
    // More than a run may have, two channels that take turns, and one that nobody hears.
    (0..60).for_each(|at| read.extend(publication("a", at)));
    (60..70).for_each(|at| read.extend(publication(["a", "b"][at % 2], at)));
    (70..80).for_each(|at| read.extend(publication("unheard", at)));
    (80..85).for_each(|at| read.extend(publication("a", at)));
    // An error, a message that is no publication, and one that cannot be read.
    read.extend(framed(&message("other", "publish", "a", "foreign", &json!(0))));
    (85..90).for_each(|at| read.extend(publication("a", at)));
    read.extend(framed(&message("app", "request", "system", "ping", &json!({"action": "ping"}))));
    (90..95).for_each(|at| read.extend(publication("b", at)));
    read.extend([0, 0, 0, 2, b'{', b'{']);
    (95..100).for_each(|at| read.extend(publication("b", at)));

    let mut worlds = Vec::new();
    for cut in [read.len(), read.len() / 2, 700, 1] {
        let mut world = World::new(Limits::default());
        let publisher = world.connected("app", "publisher");
        world.subscribe(publisher, "app", "a");
        world.subscribe(publisher, "app", "b");
        let other = world.connected("app", "other");
        world.subscribe(other, "app", "b");
        let before = world.broker.core.counters.clone();
        read.chunks(cut).for_each(|part| world.deliver(publisher, part));
        let mut own = world.take(publisher);
        for message in &mut own {
            if message["message_type"] == "response" {
                // The server's own words carry a fresh id and the time.
                message["message_id"] = json!("");
                message["timestamp"] = json!(0);
            }
        }
        let counters = &world.broker.core.counters;
        assert_eq!(counters.publications - before.publications, 100);
        assert_eq!(counters.publications_unheard - before.publications_unheard, 10);
        let counts =
            (counters.deliveries - before.deliveries, counters.frames_out, counters.bytes_out);
        worlds.push((own, world.take(other), counts));
    }
    let (own, other, _) = &worlds[0];
    let order: Vec<String> = own.iter().map(|m| m["payload"][0].to_string()).collect();
    assert_eq!(own.len(), 90 + 3);
    assert_eq!(own[75]["payload"]["code"], "forbidden", "behind what came before it: {order:?}");
    assert_eq!(own[81]["payload"]["status"], "pong");
    assert_eq!(own[87]["payload"]["code"], "bad_frame");
    assert_eq!(other.len(), 15);
    for other_world in &worlds[1..] {
        assert_eq!(&worlds[0], other_world);
    }
}

/// A publication that puts a subscriber over its high-water mark holds back the next one, unless
/// both are small beside the mark.
#[test]
fn a_run_is_small_beside_the_high_water_mark() {
    let mut world = World::new(Limits::default());
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    let publisher = world.connected("app", "publisher");
    let publication = framed(&message("app", "publish", "feed", "m", &json!("x".repeat(1_000))));
    let high_water_bytes = Limits::default().queue_high_water_bytes;
    while !world.is_parked(publisher) {
        let queued_before = world.connection(slow).send.len();
        assert!(queued_before <= high_water_bytes, "its publisher was not held back");
        world.deliver(publisher, &publication.repeat(50));
    }
    let queued = world.connection(slow).send.len();
    let most = high_water_bytes + Limits::default().run_bytes_max() + 2 * publication.len();
    assert!((high_water_bytes..=most).contains(&queued), "{queued} of {most}");
}

/// A subscriber whose queue is just below its high-water mark, and does not drain.
fn nearly_behind(limits: Limits) -> (World, ConnectionKey, ConnectionKey) {
    let high_water_bytes = limits.queue_high_water_bytes;
    let mut world = World::new(limits);
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.subscribe(slow, "app", "other");
    world.stalled.push(slow);
    let publisher = world.connected("app", "publisher");
    let filler = publication("feed", 900);
    while world.connection(slow).send.len() + filler.len() <= high_water_bytes {
        world.deliver(publisher, &filler);
    }
    assert!(!world.is_parked(publisher));
    (world, slow, publisher)
}

fn publication(channel: &str, payload_bytes: usize) -> Vec<u8> {
    framed(&message("app", "publish", channel, "m", &json!("x".repeat(payload_bytes))))
}

/// However small the limit on frames is, a subscriber that falls behind has its grace: no run takes
/// its queue from below the high-water mark to the bound at which it is closed.
#[test]
fn a_run_does_not_close_a_subscriber_that_its_publisher_could_wait_for() {
    let limits = Limits { frame_bytes_max: 4 << 10, ..Limits::default() };
    let (mut world, slow, publisher) = nearly_behind(limits);
    let mut read = publication("feed", 900).repeat(4);
    read.extend(publication("feed", 3_900));
    world.deliver(publisher, &read);
    assert!(world.closed.is_empty(), "closed without a grace");
    assert!(world.connection(slow).congested.is_some());
    assert!(world.is_parked(publisher), "the rest of the read waits");
}

/// A publication to another channel is held back by the publications before it.
#[test]
fn a_publication_waits_for_a_subscriber_that_the_run_before_it_put_behind() {
    let (mut world, slow, publisher) = nearly_behind(Limits::default());
    let published_before = world.broker.core.counters.publications;
    let read = [publication("feed", 900), publication("other", 900)].concat();
    world.deliver(publisher, &read);
    assert!(world.connection(slow).congested.is_some());
    assert!(world.is_parked(publisher));
    assert_eq!(world.broker.core.counters.publications - published_before, 1);
}

/// A connection that hears its own publications is not answered while they put it behind.
#[test]
fn a_publisher_that_its_own_run_puts_behind_is_not_answered_before_it_reads() {
    let ping = message("app", "request", "system", "ping", &json!({"action": "ping"}));
    let foreign = message("other", "publish", "feed", "foreign", &json!(0));
    for next in [framed(&ping), framed(&foreign), vec![0, 0, 0, 2, b'{', b'{'], vec![0xff; 4]] {
        let (mut world, slow, _) = nearly_behind(Limits::default());
        let own = publication("feed", 900);
        let queued_before = world.connection(slow).send.len();
        world.deliver(slow, &[&own[..], &next].concat());
        assert_eq!(world.connection(slow).send.len(), queued_before + own.len());
        world.stalled.clear();
        world.relieve(slow);
        world.act();
        let messages = world.take(slow);
        let last = messages.last().expect("it is answered once it has read");
        assert_eq!(last["message_type"], "response", "{last}");
    }
}

/// A message of the publisher.
fn said() -> impl Strategy<Value = Vec<u8>> {
    let published = (prop::sample::select(vec!["a", "b"]), 0_usize..800);
    let subscription = (prop::sample::select(vec!["subscribe", "unsubscribe"]), any::<bool>());
    let request = prop::sample::select(vec!["system", "work", "nobody"]);
    prop_oneof![
        12 => published.prop_map(|(channel, bytes)| publication(channel, bytes)),
        1 => subscription.prop_map(|(kind, ack)| {
            framed(&message("app", kind, "a", "s", &json!({"ack": ack})))
        }),
        2 => request.prop_map(|channel| {
            framed(&message("app", "request", channel, "q", &json!({"action": "ping"})))
        }),
        1 => Just(framed(&message("other", "publish", "a", "foreign", &json!(0)))),
        1 => Just(vec![0, 0, 0, 2, b'{', b'{']),
    ]
}

/// Lets a publisher say everything, in reads of these lengths, to a subscriber and worker that
/// reads now and then. Returns the messages that both got and the counters.
fn outcome(said: &[Vec<u8>], cuts: &[usize], stalls: &[bool]) -> (Vec<Value>, Vec<Value>, String) {
    let limits =
        Limits { frame_bytes_max: 1 << 10, queue_high_water_bytes: 8 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let other = world.connected("app", "other");
    world.subscribe(other, "app", "a");
    world.subscribe(other, "app", "b");
    world.serve(other, "app", "work");
    let publisher = world.connected("app", "publisher");
    let bytes = said.concat();
    let (mut rest, mut turn) = (&bytes[..], 0);
    while !rest.is_empty() {
        let stalled =
            |key: ConnectionKey, at: usize| stalls[(turn + at) % stalls.len()].then_some(key);
        world.stalled = stalled(other, 0).into_iter().chain(stalled(publisher, 1)).collect();
        for key in [other, publisher] {
            if !world.stalled.contains(&key) {
                world.relieve(key);
            }
        }
        let (read, behind) = rest.split_at(cuts[turn % cuts.len()].min(rest.len()));
        world.deliver(publisher, read);
        (rest, turn) = (behind, turn + 1);
    }
    world.stalled.clear();
    for _ in 0..said.len() {
        world.relieve(other);
        world.relieve(publisher);
        world.act();
    }
    assert!(world.closed.is_empty(), "somebody was closed without a grace");
    let mut streams = [publisher, other].map(|key| world.take(key));
    for message in streams.iter_mut().flatten() {
        if message["message_type"] != "publish" {
            // The server's own words carry a fresh id and the time.
            message["message_id"] = json!("");
            message["timestamp"] = json!(0);
        }
    }
    let mut counters = world.broker.core.counters.clone();
    assert_eq!(counters.slow_consumers, 0);
    (counters.publishers_held, counters.yields) = (0, 0);
    let [own, others] = streams;
    (own, others, format!("{counters:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    /// Whatever is read at once, and whoever falls behind meanwhile, all get the same.
    #[test]
    fn reads_of_any_length_have_one_outcome(
        said in prop::collection::vec(said(), 1..150),
        cuts in prop::collection::vec(1_usize..20_000, 1..6),
        stalls in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let one_by_one: Vec<usize> = said.iter().map(Vec::len).collect();
        prop_assert_eq!(outcome(&said, &cuts, &stalls), outcome(&said, &one_by_one, &[false]));
    }
}
