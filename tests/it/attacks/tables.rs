//! Tables as full as they may be.

use std::io::Write;

use serde_json::{Value, json};

use super::{Held, connected, count, stats, wait_until};
use crate::descriptors::ServerProcess;
use crate::support::{Peer, code, frame};

/// Writes many messages without waiting for any, then waits until they are done. Returns the
/// errors among the answers.
fn send_all(peer: &mut Peer, messages: impl Iterator<Item = Value>) -> Vec<Value> {
    let bytes: Vec<u8> = messages.flat_map(|m| frame(m.to_string().as_bytes())).collect();
    let mut reader = peer.reader();
    let mut writer = peer.stream.try_clone().unwrap();
    let fence = peer.message("request", "system", &json!({"action": "ping"}));
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.write_all(&frame(fence.to_string().as_bytes())).unwrap();
    });
    let mut errors = Vec::new();
    loop {
        let answer = reader.receive();
        if answer["payload"]["status"] == "pong" {
            break;
        }
        errors.push(answer);
    }
    writing.join().unwrap();
    errors
}

/// One message more per name, made of the peer's own template.
fn each(peer: &mut Peer, kind: &str, names: impl Iterator<Item = String>) -> Vec<Value> {
    let own = json!({"connection_id": peer.connection_id});
    names.map(|name| peer.message(kind, &name, &own)).collect()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn sixty_thousand_channels_fit_and_the_table_ends_where_it_says() {
    const OWNERS: usize = 15;
    const EACH: usize = 4_000;
    const CHANNELS_MAX: usize = 65_536;
    /// The channel, its two names, its places in two tables and in its owner's list.
    const CHANNEL_BYTES: usize = 1 << 10;
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let unused = count(&stats(&mut bystander), "total_channels");
    let before = Held::by(&server);
    let mut owners: Vec<Peer> =
        (0..OWNERS).map(|at| connected(&server, &format!("owner-{at}"))).collect();
    for (at, owner) in owners.iter_mut().enumerate() {
        let messages = each(owner, "publish", (0..EACH).map(|n| format!("channel-{at}-{n}")));
        assert_eq!(send_all(owner, messages.into_iter()), Vec::<Value>::new());
    }
    let channels = count(&stats(&mut bystander), "total_channels") - unused;
    assert_eq!(channels, OWNERS * EACH);
    let grown = Held::by(&server).resident_bytes - before.resident_bytes;
    println!("{channels} channels: {} bytes each", grown / channels);
    assert!(grown <= channels * CHANNEL_BYTES, "{grown} bytes");

    // Two more owners: the table is full before they have their share.
    let mut refused = 0;
    for at in 0..2 {
        let mut owner = connected(&server, &format!("late-{at}"));
        let messages = each(&mut owner, "publish", (0..EACH).map(|n| format!("late-{at}-{n}")));
        let errors = send_all(&mut owner, messages.into_iter());
        assert!(errors.iter().all(|error| code(error) == "limit_exceeded"));
        refused += errors.len();
        owners.push(owner);
    }
    assert_eq!(count(&stats(&mut bystander), "total_channels"), CHANNELS_MAX);
    assert_eq!(refused, OWNERS * EACH + 2 * EACH + unused - CHANNELS_MAX);
    assert_eq!(bystander.request("echo", json!("well")), "well");
    drop(owners);
    wait_until(&mut bystander, "their end", |stats| count(stats, "total_channels") == unused);
    server.stop();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_million_subscriptions_cost_a_known_sum_and_leave_nothing() {
    const SUBSCRIBERS: usize = 250;
    const EACH: usize = 4_000;
    /// An entry in the channel's list and one in the subscriber's map, with room to grow.
    const SUBSCRIPTION_BYTES: usize = 64;
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let unused = count(&stats(&mut bystander), "total_channels");
    let mut first = connected(&server, "first");
    let messages = each(&mut first, "subscribe", (0..EACH).map(|n| format!("channel-{n}")));
    assert_eq!(send_all(&mut first, messages.into_iter()), Vec::<Value>::new());
    let before = Held::by(&server);
    let mut subscribers = vec![first];
    for at in 1..SUBSCRIBERS {
        let mut peer = connected(&server, &format!("subscriber-{at}"));
        let messages = each(&mut peer, "subscribe", (0..EACH).map(|n| format!("channel-{n}")));
        assert_eq!(send_all(&mut peer, messages.into_iter()), Vec::<Value>::new());
        subscribers.push(peer);
    }
    let subscriptions = (SUBSCRIBERS - 1) * EACH;
    let grown = Held::by(&server).resident_bytes - before.resident_bytes;
    println!("{subscriptions} subscriptions: {} bytes each", grown / subscriptions);
    assert!(grown <= subscriptions * SUBSCRIPTION_BYTES, "{grown} bytes");
    assert_eq!(count(&stats(&mut bystander), "total_channels"), unused + EACH);

    let last = format!("channel-{}", EACH - 1);
    bystander.send("publish", &last, json!("to all"));
    for peer in &mut subscribers {
        assert_eq!(peer.receive()["payload"], "to all");
    }
    assert_eq!(count(&stats(&mut bystander), "deliveries"), SUBSCRIBERS);
    drop(subscribers);
    // The one that published is the only one left that uses a channel of theirs.
    wait_until(&mut bystander, "their end", |stats| {
        count(stats, "total_channels") <= unused + 1 && count(stats, "total_connections") == 1
    });
    server.stop();
}
