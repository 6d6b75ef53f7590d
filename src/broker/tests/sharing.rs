//! `share_memory`: who gets rings, what he is told, and what they count as.

use super::*;
use crate::broker::access::User;
use crate::broker::state::peer::Peer;

const RING_BYTES: usize = 64 << 10;
const RINGS_BYTES: usize = 2 * RING_BYTES + 4_096;

fn limits() -> Limits {
    Limits::default().shared_memory(true).ring_bytes(RING_BYTES)
}

fn unix() -> Peer {
    Peer::Unix { user: Some(User { uid: 1_000, gid: 100 }), pid: None }
}

/// Connects a client with the extension `call`.
fn connected(world: &mut World, peer: Peer, id: &str) -> ConnectionKey {
    let key = world.broker.accept_from(peer).expect("there is room");
    let connect = json!({"action": "connect", "connection_id": id, "extensions": ["call"]});
    world.send(key, &message("app", "request", "system", "c", &connect));
    assert_eq!(world.take(key)[0]["payload"]["status"], "connected");
    key
}

fn ask(id: &str) -> Value {
    message("app", "request", "system", id, &json!({"action": "share_memory", "version": 1}))
}

fn expect_shared(world: &mut World, key: ConnectionKey, id: &str) {
    let answer = world.take(key).pop().expect("an answer");
    assert_eq!(answer["reply_to"], id);
    let shared = json!({"status": "shared", "version": 1, "ring_bytes": RING_BYTES});
    assert_eq!(answer["payload"], shared);
}

#[test]
fn whoever_asks_on_a_unix_socket_goes_over_behind_the_answer_and_gives_the_memory_back_in_the_end()
{
    let mut world = World::new(limits());
    let key = connected(&mut world, unix(), "me");
    let before = world.broker.core.memory_bytes();
    world.send(key, &ask("s"));
    let (shared, turnover) = world.shared[0];
    assert_eq!((shared, turnover.before_bytes), (key, 0));
    assert_eq!(turnover.answer_bytes, world.received[&key].len());
    expect_shared(&mut world, key, "s");
    let stats = world.broker.core.stats();
    assert_eq!(stats.memory_bytes, before + RINGS_BYTES);
    assert_eq!(stats.counters.memory_shared, 1);
    assert!(world.broker.wants_read(key));
    world.send(key, &message("app", "request", "system", "p", &json!({"action": "ping"})));
    assert_eq!(world.take(key)[0]["payload"]["status"], "pong");
    world.send(key, &ask("again"));
    world.expect_error(key, "bad_message", "again");
    world.broker.check_agreement().unwrap();
    world.broker.hang_up(key, HangUp::Reset);
    world.act();
    assert!(world.broker.core.memory_bytes() < before);
    assert_eq!(world.broker.core.budget.rings_bytes, 0);
    world.broker.check_agreement().unwrap();
}

#[test]
fn what_is_queued_before_the_answer_goes_over_the_socket() {
    let mut world = World::new(limits());
    let key = connected(&mut world, unix(), "me");
    world.subscribe(key, "app", "news");
    let publisher = connected(&mut world, unix(), "other");
    world.stalled.push(key);
    world.send(publisher, &message("app", "publish", "news", "n", &json!("one")));
    let queued = world.broker.queued_bytes(key);
    assert!(queued > 0);
    world.send(key, &ask("s"));
    let (_, turnover) = world.shared[0];
    assert_eq!(turnover.before_bytes, queued);
    assert_eq!(turnover.before_bytes + turnover.answer_bytes, world.broker.queued_bytes(key));
    world.send(publisher, &message("app", "publish", "news", "n", &json!("two")));
    assert!(world.broker.queued_bytes(key) > turnover.before_bytes + turnover.answer_bytes);
}

#[test]
fn others_are_refused_and_go_on_over_the_socket() {
    let tcp = Peer::Tcp(([127, 0, 0, 1], 7).into());
    let off = limits().shared_memory(false);
    let request = |payload: Value| message("app", "request", "system", "s", &payload);
    let version = |version: Value| request(json!({"action": "share_memory", "version": version}));
    for (limits, peer, asked) in [
        (limits(), tcp, ask("s")),
        (limits(), Peer::Unknown, ask("s")),
        (off, unix(), ask("s")),
        (limits(), unix(), version(json!(2))),
        (limits(), unix(), version(json!("1"))),
        (limits(), unix(), request(json!({"action": "share_memory"}))),
    ] {
        let mut world = World::new(limits);
        let key = connected(&mut world, peer, "me");
        world.send(key, &asked);
        world.expect_error(key, "unsupported", "s");
        assert!(world.shared.is_empty());
        world.send(key, &request(json!({"action": "ping"})));
        assert_eq!(world.take(key)[0]["payload"]["status"], "pong");
    }
}

#[test]
fn a_client_without_extensions_is_refused() {
    let mut world = World::new(limits());
    let key = world.broker.accept_from(unix()).unwrap();
    let connect = json!({"action": "connect", "connection_id": "me"});
    world.send(key, &message("app", "request", "system", "c", &connect));
    world.take(key);
    world.send(key, &ask("s"));
    world.expect_error(key, "unsupported", "s");
}

#[test]
fn whoever_does_not_wait_for_the_answer_stays_on_the_socket() {
    let mut world = World::new(limits());
    let key = connected(&mut world, unix(), "me");
    let mut bytes = framed(&ask("s"));
    let ping = message("app", "request", "system", "p", &json!({"action": "ping"}));
    bytes.extend_from_slice(&framed(&ping));
    world.deliver(key, &bytes);
    let answers = world.take(key);
    let [refused, second] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(
        (&refused["payload"]["code"], &refused["reply_to"]),
        (&json!("bad_message"), &json!("s"))
    );
    assert_eq!(second["payload"]["status"], "pong");
    assert!(world.shared.is_empty());
}

#[test]
fn a_system_without_rings_says_so_and_the_socket_goes_on() {
    let mut world = World::new(limits());
    world.lacks_rings = true;
    let key = connected(&mut world, unix(), "me");
    let before = world.broker.core.memory_bytes();
    world.send(key, &ask("s"));
    world.expect_error(key, "limit_exceeded", "s");
    assert_eq!(world.broker.core.memory_bytes(), before);
    world.lacks_rings = false;
    world.send(key, &ask("t"));
    expect_shared(&mut world, key, "t");
}

#[test]
fn all_rings_together_take_a_quarter_of_the_memory_at_most() {
    let mut world = World::new(limits().frame_bytes_max(64 << 10).memory_bytes_max(2 << 20));
    let keys: Vec<_> =
        (0..4).map(|n| connected(&mut world, unix(), &format!("peer {n}"))).collect();
    for (n, key) in keys.iter().enumerate() {
        world.send(*key, &ask("s"));
        if n < 3 {
            expect_shared(&mut world, *key, "s");
        } else {
            world.expect_error(*key, "limit_exceeded", "s");
        }
    }
    assert_eq!(world.broker.core.budget.rings_bytes, 3 * RINGS_BYTES);
    world.broker.hang_up(keys[0], HangUp::Reset);
    world.act();
    world.send(keys[3], &ask("t"));
    expect_shared(&mut world, keys[3], "t");
    world.broker.check_agreement().unwrap();
}

#[test]
fn whoever_leaves_before_the_rings_are_made_gets_none() {
    let mut world = World::new(limits());
    let key = connected(&mut world, unix(), "me");
    world.broker.receive(key, &framed(&ask("s")));
    assert!(!world.broker.wants_read(key));
    world.broker.check_agreement().unwrap();
    world.broker.hang_up(key, HangUp::Reset);
    world.broker.check_agreement().unwrap();
    world.act();
    assert!(world.shared.is_empty() && world.broker.core.agenda.sharing.is_empty());
}
