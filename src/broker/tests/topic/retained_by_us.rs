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

#[test]
fn only_the_operator_has_the_server_forget() {
    let mut world = World::new(keeping(10));
    world.broker.core.server.uid = Some(7);
    let before = world.memory();
    let from = world.topical("from");
    for channel in ["h.a", "h.b", "v"] {
        world.retain(from, channel, &json!(1));
        world.retain(from, channel, &json!(2));
    }
    world.hang_up(from);
    let unix = |uid| crate::Peer::Unix { user: Some(crate::User { uid, gid: 7 }), pid: None };
    let purge = |world: &mut World, peer, action: &str, payload: &Value| {
        let key = world.broker.accept_from(peer).unwrap();
        let connect = json!({"action": "connect", "connection_id": "op"});
        world.send(key, &message("app", "request", "system", "c", &connect));
        let mut payload = payload.clone();
        payload["action"] = json!(action);
        world.send(key, &message("app", "request", "system", "q", &payload));
        let answers = world.take(key);
        world.hang_up(key);
        answers.last().unwrap()["payload"].clone()
    };
    let all = json!({"app": "app"});
    for peer in [unix(8), crate::Peer::Unknown, crate::Peer::Unix { user: None, pid: None }] {
        for action in ["purge_retained", "purge_history"] {
            assert_eq!(purge(&mut world, peer, action, &all)["code"], "forbidden");
        }
    }
    for bad in [json!({}), json!({"app": 1}), json!({"app": "app", "channel": 1})] {
        assert_eq!(purge(&mut world, unix(7), "purge_history", &bad)["code"], "bad_message");
    }
    for (action, payload, messages) in [
        ("purge_history", json!({"app": "app", "channel": "h.a"}), 2),
        ("purge_history", json!({"app": "app", "channel": "h.a"}), 0),
        ("purge_history", json!({"app": "nobody"}), 0),
        ("purge_history", all.clone(), 2),
        ("purge_retained", json!({"app": "app", "channel": "v"}), 1),
        ("purge_retained", all, 2),
    ] {
        let expected = json!({"status": "purged", "messages": messages});
        assert_eq!(purge(&mut world, unix(7), action, &payload), expected, "{action} {payload}");
    }
    assert_eq!((world.memory(), world.broker.core.router.channels.len()), (before, 0));
}
