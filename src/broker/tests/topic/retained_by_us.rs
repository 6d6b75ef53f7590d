//! What the process itself publishes on channels that keep it.

use super::histories::{keeping, numbers};
use super::*;
use crate::SendError;

#[test]
fn the_process_publishes_like_a_peer() {
    let mut world = World::new(keeping(3));
    let reads = world.topical("reads");
    let mut context = world.broker.context();
    assert_eq!(context.position("app", "h.a"), None);
    for number in 1..6 {
        assert_eq!(context.publish("app", "h.a", &number).unwrap(), 0);
    }
    let (epoch, offset) = context.position("app", "h.a").unwrap();
    assert_eq!(offset, 5);
    // An application that nobody has named yet, of which nothing is kept.
    assert_eq!(context.publish("other", "h.a", &1).unwrap(), 0);
    assert!(!context.has_application("other"));
    let (answer, got) = world.join(reads, "h.a", &json!({"last": 2}));
    assert_eq!((&answer["epoch"], numbers(&got)), (&json!(epoch), (4, vec![4, 5])));
    let entry = &world.broker.context().list_channels("app")["h.a"];
    let history = entry.history.as_ref().unwrap();
    assert_eq!((&history.epoch, history.offset, history.messages), (&epoch, 5, 3));
    assert_eq!(entry.retained_age_seconds, None);
    let six = crate::Json::from_serialize(&6).unwrap();
    let message = Message::new(crate::MessageType::Publish, "app", "other", six);
    assert_eq!(world.broker.context().publish_to("app", "h.a", &message).unwrap(), 1);
    world.act();
    assert_eq!(numbers(&world.take(reads)), (6, vec![6]));
}

#[test]
fn the_process_keeps_and_forgets_last_values() {
    let mut world = World::new(Limits::default().retained_values_max(1));
    let before = world.memory();
    let mut context = world.broker.context();
    assert_eq!(context.publish_retained("app", "v", &"old").unwrap(), 0);
    assert_eq!(context.publish_retained("app", "v", &"new").unwrap(), 0);
    let refused = context.publish_retained("app", "w", &1);
    assert!(matches!(refused, Err(SendError::NoRoom(_))), "{refused:?}");
    assert!(!context.has_channel("app", "w"));
    world.pass(Duration::from_secs(5));
    let age = world.broker.context().list_channels("app")["v"].retained_age_seconds;
    assert_eq!(age, Some(5.0));
    let reads = world.topical("reads");
    let (_, got) = world.join(reads, "v", &json!({"last": 1}));
    assert_eq!((&got[0]["payload"], &got[0]["meta"]), (&json!("new"), &json!({"retain": true})));
    let handle = world.broker.handle();
    handle.publish_retained("app", "v", &()).unwrap();
    world.broker.run_mailbox();
    world.act();
    assert_eq!(world.take_one(reads)["payload"], json!(null));
    world.hang_up(reads);
    assert_eq!((world.memory(), world.broker.core.router.channels.len()), (before, 0));
}
