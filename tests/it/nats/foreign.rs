//! Others on the bridge's subjects, who write what they like.

use ipc_framework::NatsStats;
use serde_json::json;

use super::nats_server::NatsServer;
use super::stranger::Stranger;
use super::{joined, next_heard, until_heard, until_served};
use crate::support::TestServer;

fn nats_stats(server: &TestServer) -> NatsStats {
    server.stats().nats.expect("it joins others")
}

#[test]
fn what_strangers_write_is_refused_and_harms_nobody() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let mut worker = there.connected("app", "worker").serving("work");
    let answering = std::thread::spawn(move || {
        while let Ok(task) = worker.try_receive() {
            worker.answer(&task, "done");
        }
    });
    let mut subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    let mut stranger = Stranger::new(&nats);
    until_heard(&mut publishes, "news", &subscriber);
    assert_eq!(until_served(&mut publishes, "work", &json!(1)), "done");
    // One message of each kind that the two have sent.
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    while !(seen.iter().any(|(subject, _)| subject.starts_with("ipc-pub."))
        && seen.iter().any(|(subject, _)| subject == "ipc-all"))
    {
        let (subject, payload) = stranger.next().expect("no fence is under way");
        if !seen.iter().any(|(known, _)| *known == subject) {
            seen.push((subject, payload));
        }
    }
    let before = nats_stats(&there).refused;
    let mut sent = 0;
    for (_, payload) in &seen {
        let mut forged = vec![Vec::new(), b"{\"hello\": 1}".to_vec(), vec![0xff; 100_000]];
        // Not its number, in the bytes 28 to 35: who may write as an origin may also number for it.
        for at in (0..payload.len().min(64)).filter(|at| !(28..36).contains(at)) {
            // Cut short, and each byte of the head changed.
            forged.push(payload[..at].to_vec());
            let mut changed = payload.clone();
            changed[at] ^= 0x5a;
            forged.push(changed);
        }
        for (other, _) in &seen {
            for payload in &forged {
                stranger.publish(other, payload);
                sent += 1;
            }
        }
        stranger.publish("ipc-pub.app", payload);
        stranger.publish("ipc-pub.other.news", payload);
    }
    stranger.fence();
    assert!(sent > 100);
    there.wait_until("the refusals", |stats| {
        stats.nats.as_ref().is_some_and(|nats| nats.refused > before)
    });
    // The forged origins are unknown, or told from the real one; the real one still speaks.
    until_heard(&mut publishes, "news", &subscriber);
    publishes.send("publish", "news", json!("still here"));
    assert_eq!(last_heard(&mut subscriber), "still here");
    assert_eq!(until_served(&mut publishes, "work", &json!(1)), "done");
    drop(there);
    answering.join().unwrap();
}

/// Returns the first payload that is the test's own.
fn last_heard(subscriber: &mut crate::support::Peer) -> serde_json::Value {
    loop {
        let heard = next_heard(subscriber);
        if heard == "still here" {
            return heard;
        }
    }
}

/// NATS' limit holds for publications. It is told and counted, and nothing else is lost by it.
#[test]
fn publications_over_the_limit_of_nats_are_counted_and_requests_are_cut() {
    let settings = "max_payload: 65536\n";
    let nats = NatsServer::start_with(super::nats_server::Version::Newest, settings);
    let (here, there) = (joined(&nats), joined(&nats));
    let mut subscriber = there.connected("app", "subscriber").subscribed("news");
    let mut local = here.connected("app", "local").subscribed("news");
    let mut publishes = here.connected("app", "publishes");
    until_heard(&mut publishes, "news", &subscriber);
    let large = "x".repeat(100_000);
    publishes.send("publish", "news", json!(large));
    publishes.send("publish", "news", json!("small"));
    assert_eq!(next_heard(&mut local), json!(large));
    assert_eq!(next_heard(&mut subscriber), "small");
    assert_eq!((nats_stats(&here).too_large, nats_stats(&here).max_payload), (1, 65_536));
    let mut worker = there.connected("app", "worker").serving("length");
    let answering = std::thread::spawn(move || {
        while let Ok(task) = worker.try_receive() {
            let payload = task["payload"].clone();
            worker.answer(&task, payload);
        }
    });
    assert_eq!(until_served(&mut publishes, "length", &json!(large)), json!(large));
    drop(there);
    answering.join().unwrap();
}
