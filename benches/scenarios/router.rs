//! Finding a channel by its name, and the list of its subscribers.

use super::memory::{Memory, introduction};
use super::messages::{frame, framed, small};
use super::{Scenario, Work};

/// Enough channels for the mean of a look-up not to depend on chance.
const CHANNELS: usize = 1_000;
const SUBSCRIBERS: usize = 100;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("router/same_channel_again", Work::Frames(1), || {
            let mut memory = Memory::new();
            let peer = memory.connected("peer");
            memory.turn(peer, &frame("request", "system", &serve("nobody_listens")));
            let publication = framed(&small("publish", "nobody_listens"));
            move || assert_eq!(memory.turn(peer, &publication), 0)
        }),
        Scenario::new("router/next_of_1000_channels", Work::Frames(1), || {
            let mut memory = Memory::new();
            let peer = memory.connected("peer");
            let publications: Vec<Vec<u8>> = (0..CHANNELS)
                .map(|at| framed(&small("publish", &format!("channel_{at:06}"))))
                .collect();
            // Workers keep a channel that has no subscribers, and a connection serves few.
            for at in 0..CHANNELS {
                let worker = memory.connected(&format!("worker-{at}"));
                let channel = format!("channel_{at:06}");
                memory.turn(worker, &frame("request", "system", &serve(&channel)));
            }
            let mut at = 0;
            move || {
                assert_eq!(memory.turn(peer, &publications[at]), 0);
                at = (at + 1) % CHANNELS;
            }
        }),
        Scenario::new("router/subscribe_and_unsubscribe", Work::Frames(2), || {
            let mut memory = Memory::new();
            for at in 0..SUBSCRIBERS {
                memory.subscriber(&format!("subscriber-{at}"), "news");
            }
            let peer = memory.connected("peer");
            let subscribe = frame("subscribe", "news", r#"{"connection_id":"peer"}"#);
            let unsubscribe = frame("unsubscribe", "news", r#"{"connection_id":"peer"}"#);
            move || {
                memory.turn(peer, &subscribe);
                memory.turn(peer, &unsubscribe);
            }
        }),
        Scenario::new("router/connect_and_leave", Work::Frames(2), || {
            let mut memory = Memory::new();
            memory.connected("stays");
            let introduction = introduction("visitor");
            move || assert_ne!(memory.visit(&introduction), 0)
        }),
    ]
}

fn serve(channel: &str) -> String {
    format!(r#"{{"action":"serve","channel":"{channel}"}}"#)
}
