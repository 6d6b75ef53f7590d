//! Publications that one read brings are delivered together, and nobody can tell.

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
