use super::*;
use crate::SendError;

#[test]
fn publications_of_the_process_reach_patterns() {
    let mut world = World::new(Limits::default());
    let (reader, plain) = (world.topical("reader"), world.connected("app", "plain"));
    world.want_pattern(reader, "a.*");
    world.want_pattern(reader, "*.b");
    world.subscribe(plain, "app", "a.b");
    let sent = ["a.b", "a.c", "c"]
        .map(|channel| world.broker.context().publish("app", channel, &1).expect("it is JSON"));
    assert_eq!(sent, [2, 1, 0]);
    let missing = world.broker.context().publish("nobody", "a.b", &1).expect("it is JSON");
    assert_eq!(missing, 0);
    world.act();
    assert_eq!(world.heard(reader), heard([("a.b", 1), ("a.c", 1)]));
    assert_eq!(world.heard(plain), heard([("a.b", 1)]));
    let note = Message::new(
        crate::MessageType::Publish,
        "app",
        "a.d",
        crate::Json::from_serialize(&2).unwrap(),
    );
    let sent = world.broker.context().publish_message(&note).expect("it fits");
    world.act();
    assert_eq!((sent, world.heard(reader)), (1, heard([("a.d", 2)])));
    assert_eq!(world.broker.core.router.channels.len(), 1, "no channel is created for that");
}

#[test]
fn other_threads_reach_patterns_and_those_who_conflate() {
    let limits = Limits { queue_high_water_bytes: 4_096, ..Limits::default() };
    let mut world = World::new(limits);
    let (reader, slow) = (world.topical("reader"), world.topical("slow"));
    world.want_pattern(reader, "a.*");
    world.want(slow, "a.b", json!({"conflate": true}));
    let handle = world.broker.handle();
    let publisher = handle.publisher("app", "a.b");
    world.stalled.push(slow);
    for at in 0..10 {
        publisher.publish(&json!([at, "x".repeat(1_000)])).unwrap();
        handle.publish("app", "a.c", &at).unwrap();
    }
    world.broker.run_mailbox();
    world.act();
    assert_eq!(world.heard(reader).len(), 20);
    assert!(world.closed.is_empty());
    world.stalled.clear();
    world.relieve(slow);
    world.act();
    let last = world.heard(slow).pop().unwrap();
    assert_eq!((&*last.0, &last.1[0]), ("a.b", &json!(9)));
}

#[test]
fn what_finds_no_room_for_its_history_is_refused_and_heard_by_nobody() {
    let limits = super::histories::keeping(10).channels_max(1);
    let mut world = World::new(limits);
    let (reader, other) = (world.topical("reader"), world.topical("other"));
    world.want_pattern(reader, ">");
    world.want(other, "taken", json!({}));
    let mut context = world.broker.context();
    let refused = context.publish("app", "h.a", &1);
    assert!(matches!(&refused, Err(SendError::NoRoom(why)) if why.len() > 20), "{refused:?}");
    // Without a history to begin it is delivered.
    assert_eq!(context.publish("app", "n.a", &2).unwrap(), 1);
    world.act();
    assert_eq!(world.heard(reader), heard([("n.a", 2)]));
    world.leave(other, "taken", false);
    assert_eq!(world.broker.context().publish("app", "h.a", &3).unwrap(), 1);
    world.act();
    let got = world.take_one(reader);
    assert_eq!((&got["payload"], &got["meta"]["offset"]), (&json!(3), &json!(1)));
}

#[test]
fn an_application_in_which_nothing_found_room_is_not_there() {
    let mut world = World::new(super::histories::keeping(10).channels_max(1));
    let other = world.topical("other");
    world.want(other, "taken", json!({}));
    let mut context = world.broker.context();
    let refused = context.publish_retained("nobody", "v", &1);
    assert!(matches!(refused, Err(SendError::NoRoom(_))), "{refused:?}");
    assert!(!context.has_application("nobody"));
}
