//! What patterns, histories, last values, replays and conflated publications take counts towards the budget, as
//! everything else does.

use std::time::Duration;

use ipc_framework::broker::{ConnectionKey, Limits};
use ipc_framework::{HistoryRule, Verdict};

use super::budget::{Hoard, assert_counted_with, name};

const TOPIC: &str = r#","extensions":["topic"]"#;

/// Channels `h.…` keep some messages, each of them for some time.
fn limits() -> Limits {
    let rule = HistoryRule::new("app", "h.*").messages(100).age(Duration::from_secs(3_600));
    Limits::default().histories([rule]).retained_values_max(100_000)
}

fn assert_counted(
    what: &str,
    prepare: impl FnOnce(&mut Hoard) -> Vec<ConnectionKey>,
    hoard: impl FnOnce(&mut Hoard, &[ConnectionKey]),
) {
    assert_counted_with(limits(), what, prepare, hoard);
}

fn few(held: &mut Hoard) -> Vec<ConnectionKey> {
    (0..3).map(|_| held.connect_with("app", TOPIC)).collect()
}

/// One that does not read, and one that publishes.
fn stalled_and_publisher(held: &mut Hoard) -> Vec<ConnectionKey> {
    let keys = measured(held);
    held.stalled.insert(keys[0]);
    keys
}

/// The histograms of channels have a bound of their own, up to which they are taken before. The tables have
/// just grown then.
fn measured(held: &mut Hoard) -> Vec<ConnectionKey> {
    let peers = few(held);
    for n in 0..1_026 {
        let channel = format!("m.{n}");
        held.tell(peers[1], "subscribe", &channel, "{}");
        held.tell(peers[2], "publish", &channel, "1");
    }
    peers
}

/// Numbers of entries with which tables have just grown, as they do at powers of two, and between those.
const COUNTS: [usize; 3] = [1_500, 2_050, 2_740];

#[test]
fn patterns() {
    for count in COUNTS {
        assert_counted("patterns of one token", few, |held, peers| {
            for (at, peer) in peers.iter().enumerate() {
                for n in 0..count {
                    let pattern = name("p", at * 10_000 + n);
                    held.tell(*peer, "subscribe", &pattern, r#"{"pattern":true}"#);
                }
            }
        });
    }
    assert_counted("patterns of 32 tokens", few, |held, peers| {
        for n in 0..200 {
            let pattern = format!("{n}{}", ".a".repeat(31));
            held.tell(peers[0], "subscribe", &pattern, r#"{"pattern":true}"#);
        }
    });
    assert_counted("patterns whose subscribers conflate", few, |held, peers| {
        for n in 0..2_050 {
            let payload = r#"{"pattern":true,"conflate":true}"#;
            held.tell(peers[0], "subscribe", &format!("{n}.>"), payload);
        }
    });
    let nobody = |_: &mut Hoard| Vec::new();
    assert_counted("clients with a pattern each", nobody, |held, _| {
        for _ in 0..2_050 {
            let peer = held.connect_with("app", TOPIC);
            held.tell(peer, "subscribe", "a.>", r#"{"pattern":true}"#);
        }
    });
}

#[test]
fn channels_that_patterns_match() {
    for patterns in [1, 3, 33, 64] {
        let subscribed = |held: &mut Hoard| {
            let peers = measured(held);
            for n in 0..patterns {
                let tokens = (0..6).map(|at| if n & 1 << at == 0 { "*" } else { "a" });
                let pattern = tokens.collect::<Vec<_>>().join(".") + ".>";
                held.tell(peers[0], "subscribe", &pattern, r#"{"pattern":true}"#);
            }
            peers
        };
        assert_counted(
            &format!("channels that {patterns} patterns match"),
            subscribed,
            |held, peers| {
                for n in 0..1_030 {
                    held.tell(peers[1], "publish", &format!("a.a.a.a.a.a.{n}"), "1");
                }
            },
        );
    }
}

#[test]
fn histories() {
    for count in COUNTS {
        assert_counted("channels with a history of nothing", few, |held, peers| {
            for n in 0..count {
                held.tell(peers[0], "subscribe", &format!("h.{}", name("c", n)), "{}");
            }
        });
        assert_counted("channels with one message each", few, |held, peers| {
            for n in 0..count {
                held.tell(peers[0], "publish", &format!("h.{}", name("c", n)), "1");
            }
        });
    }
    for (messages, bytes) in [(5, 10), (40, 100), (100, 1_000), (100, 20_000)] {
        let payload = format!("\"{}\"", "x".repeat(bytes));
        let what = format!("histories of {messages} messages of {bytes} B");
        assert_counted(&what, few, |held, peers| {
            for n in 0..=(4 << 20) / (messages * (bytes + 200)) {
                for _ in 0..messages {
                    held.tell(peers[0], "publish", &format!("h.{n}"), &payload);
                }
            }
        });
    }
}

#[test]
fn last_values() {
    for (count, bytes) in [(1_500, 1), (2_050, 1), (1_030, 700), (100, 20_000)] {
        assert_counted(&format!("last values of {bytes} B"), few, |held, peers| {
            for n in 0..count {
                held.retain(peers[0], &name("v", n), bytes);
            }
        });
    }
}

/// The queue of one that reads nothing is full, so that all of it waits.
#[test]
fn replays() {
    for count in COUNTS {
        let filled = |held: &mut Hoard| {
            let peers = stalled_and_publisher(held);
            for n in 0..count {
                held.tell(peers[1], "publish", &format!("h.{}", name("c", n)), "1");
            }
            held.fill(peers[0], peers[1]);
            peers
        };
        assert_counted("replays of one pattern", filled, |held, peers| {
            held.tell(peers[0], "subscribe", "h.*", r#"{"pattern":true,"last":1}"#);
        });
        assert_counted("replays of many channels", filled, |held, peers| {
            for n in 0..count {
                let channel = format!("h.{}", name("c", n));
                held.tell(peers[0], "subscribe", &channel, r#"{"last":1}"#);
            }
        });
    }
}

#[test]
fn conflated_publications() {
    for count in COUNTS {
        let subscribed = |held: &mut Hoard| {
            let peers = stalled_and_publisher(held);
            held.tell(peers[0], "subscribe", "p.>", r#"{"pattern":true,"conflate":true}"#);
            for n in 0..count {
                held.tell(peers[1], "subscribe", &format!("p.{}", name("c", n)), "{}");
            }
            held.fill(peers[0], peers[1]);
            peers
        };
        assert_counted("conflated publications", subscribed, |held, peers| {
            for n in 0..count {
                held.tell(peers[2], "publish", &format!("p.{}", name("c", n)), "1");
            }
        });
    }
}

/// A filter is asked about each channel that a connection hears through a pattern.
#[test]
fn verdicts() {
    for channels in [515, 900] {
        let subscribed = |held: &mut Hoard| {
            held.turns.broker.filter(|_| Ok(Verdict::CarryOut));
            let publisher = measured(held)[1];
            for n in 0..channels {
                held.tell(publisher, "subscribe", &format!("v.{}", name("c", n)), "{}");
            }
            for _ in 0..30 {
                let peer = held.connect_with("app", TOPIC);
                held.tell(peer, "subscribe", "v.*", r#"{"pattern":true}"#);
            }
            vec![publisher]
        };
        assert_counted(&format!("verdicts on {channels} channels"), subscribed, |held, peers| {
            for n in 0..channels {
                held.tell(peers[0], "publish", &format!("v.{}", name("c", n)), "1");
            }
        });
    }
}

impl Hoard {
    /// Publishes a value that is kept.
    fn retain(&mut self, from: ConnectionKey, channel: &str, bytes: usize) {
        let value = "x".repeat(bytes);
        let body = format!(
            "{{\"message_id\":\"1\",\"app_id\":\"app\",\"channel_id\":\"{channel}\",\
             \"message_type\":\"publish\",\"payload\":\"{value}\",\"timestamp\":0,\
             \"reply_to\":null,\"meta\":{{\"retain\":true}}}}"
        );
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(body.as_bytes());
        self.say(from, &frame);
    }

    /// Fills the queue of one that does not read up to its mark.
    fn fill(&mut self, stalled: ConnectionKey, publisher: ConnectionKey) {
        self.tell(stalled, "subscribe", "fill", "{}");
        let payload = format!("\"{}\"", "x".repeat(700 << 10));
        self.tell(publisher, "publish", "fill", &payload);
        self.tell(stalled, "unsubscribe", "fill", "{}");
    }
}
