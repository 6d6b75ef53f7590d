//! Tables that are filled to their limit, the memory that they take, and the memory that is counted
//! for them.

use std::io::Write;

use ipc_framework::Limits;
use serde_json::{Value, json};

use super::{Held, connected, count, wait_until};
use crate::descriptors::ServerProcess;
use crate::memory::SLACK_BYTES;
use crate::support::{Peer, code, frames};

/// Sends a message to each of the channels, all written without waiting. Returns the errors among
/// the answers when all messages are processed.
fn send_each(peer: &mut Peer, kind: &str, channels: impl Iterator<Item = String>) -> Vec<Value> {
    let own = json!({"connection_id": peer.connection_id});
    let mut messages: Vec<Value> = channels.map(|name| peer.message(kind, &name, &own)).collect();
    messages.push(peer.message("request", "system", &json!({"action": "ping"})));
    let mut writer = peer.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&frames(&messages)).unwrap());
    let answers = std::iter::from_fn(|| Some(peer.receive()));
    let errors = answers.take_while(|answer| answer["payload"]["status"] != "pong").collect();
    writing.join().unwrap();
    errors
}

/// The growth of a server process from here on, held and counted.
struct Growth {
    held: Held,
    counted_bytes: usize,
}

impl Growth {
    fn begin(server: &ServerProcess, bystander: &mut Peer) -> Self {
        let counted_bytes = count(&bystander.stats(), "memory_bytes");
        Self { held: Held::by(server), counted_bytes }
    }

    /// Checks that each of so many things costs at most so much, and that the counted memory covers
    /// all of it.
    fn end(
        &self,
        server: &ServerProcess,
        bystander: &mut Peer,
        what: &str,
        number: usize,
        each_max: usize,
    ) {
        let counted = count(&bystander.stats(), "memory_bytes") - self.counted_bytes;
        let grown = Held::by(server).resident_bytes.saturating_sub(self.held.resident_bytes);
        println!("{number} {what}: {} bytes each, {} counted", grown / number, counted / number);
        assert!(grown <= number * each_max, "{what}: {grown} bytes");
        assert!(grown <= counted + SLACK_BYTES, "{what}: {counted} counted, {grown} resident");
    }
}

/// A client that wants all channels gets its own share. It is told of every channel that is
/// refused, and the others are not affected. Many clients together fill the table.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn sixty_thousand_channels_are_too_many_for_one_and_the_table_ends_where_it_says() {
    const WANTED: usize = 60_000;
    const OWNERS: usize = 14;
    const EACH: usize = 4_000;
    /// The channel, its two names, its places in two tables and in its owner's list, and the owner's
    /// subscription, without which it would be forgotten.
    const CHANNEL_BYTES: usize = (1 << 10) + 128;
    let Limits { channels_max, channels_per_connection_max: share, .. } = Limits::default();
    let server = ServerProcess::start(None);
    let mut bystander = connected(&server, "bystander");
    let unused = count(&bystander.stats(), "total_channels");
    let growth = Growth::begin(&server, &mut bystander);
    let mut greedy = connected(&server, "greedy");
    let flood = std::thread::spawn(move || {
        let channels = (0..WANTED).map(|n| format!("greedy-{n}"));
        let refused = send_each(&mut greedy, "subscribe", channels);
        (greedy, refused)
    });
    while !flood.is_finished() {
        assert_eq!(bystander.request("echo", json!("well")), "well");
    }
    let (greedy, refused) = flood.join().unwrap();
    assert_eq!(refused.len(), WANTED - share);
    for (error, at) in refused.iter().zip(share..) {
        // Ids count from 1, and the connect took the first.
        let id = format!("greedy-{}", at + 2);
        assert_eq!((code(error), &error["reply_to"]), ("limit_exceeded", &json!(id)));
        assert_eq!(error["channel_id"], format!("greedy-{at}"));
    }
    // It may use its own channels.
    let mut owners = vec![greedy.subscribed("greedy-0")];
    for at in 0..OWNERS {
        let mut owner = connected(&server, &format!("owner-{at}"));
        let channels = (0..EACH).map(|n| format!("channel-{at}-{n}"));
        assert_eq!(send_each(&mut owner, "subscribe", channels), Vec::<Value>::new());
        owners.push(owner);
    }
    let channels = count(&bystander.stats(), "total_channels") - unused;
    assert_eq!(channels, share + OWNERS * EACH);
    growth.end(&server, &mut bystander, "channels", channels, CHANNEL_BYTES);

    // Two more owners fill the table before they reach their own share.
    let mut refused = 0;
    for at in 0..2 {
        let mut owner = connected(&server, &format!("late-{at}"));
        let channels = (0..EACH).map(|n| format!("late-{at}-{n}"));
        let errors = send_each(&mut owner, "subscribe", channels);
        assert!(errors.iter().all(|error| code(error) == "limit_exceeded"));
        refused += errors.len();
        owners.push(owner);
    }
    assert_eq!(count(&bystander.stats(), "total_channels"), channels_max);
    assert_eq!(refused, unused + channels + 2 * EACH - channels_max);
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
    let unused = count(&bystander.stats(), "total_channels");
    let subscriber = |at: usize| {
        let mut peer = connected(&server, &format!("subscriber-{at}"));
        let channels = (0..EACH).map(|n| format!("channel-{n}"));
        assert_eq!(send_each(&mut peer, "subscribe", channels), Vec::<Value>::new());
        peer
    };
    // The first subscriber creates the channels.
    let mut subscribers = vec![subscriber(0)];
    let growth = Growth::begin(&server, &mut bystander);
    subscribers.extend((1..SUBSCRIBERS).map(subscriber));
    let subscriptions = (SUBSCRIBERS - 1) * EACH;
    growth.end(&server, &mut bystander, "subscriptions", subscriptions, SUBSCRIPTION_BYTES);
    assert_eq!(count(&bystander.stats(), "total_channels"), unused + EACH);

    let last = format!("channel-{}", EACH - 1);
    bystander.send("publish", &last, json!("to all"));
    for peer in &mut subscribers {
        assert_eq!(peer.receive()["payload"], "to all");
    }
    assert_eq!(count(&bystander.stats(), "deliveries"), SUBSCRIBERS);
    drop(subscribers);
    // Only the publisher still uses one of their channels.
    wait_until(&mut bystander, "their end", |stats| {
        count(stats, "total_channels") <= unused + 1 && count(stats, "total_connections") == 1
    });
    server.stop();
}
