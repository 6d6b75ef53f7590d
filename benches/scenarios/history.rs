//! Publications on a channel that keeps its newest ones, and their recovery.

use ipc_framework::{HistoryRule, Limits};

use super::memory::Memory;
use super::messages::{frame, framed, small};
use super::{Scenario, Work};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        to_plain("history/192B_to_1", 1),
        to_plain("history/192B_to_10", 10),
        to_topical("history/192B_to_10_with_places", Some(MESSAGES)),
        // The same subscribers, where nothing is kept.
        to_topical("history/192B_to_10_without_history", None),
        Scenario::new("history/recovery_of_1000", Work::Frames(MESSAGES), recovery),
    ]
}

const MESSAGES: usize = 1_000;
const SUBSCRIBERS: usize = 10;

fn to_plain(name: &'static str, subscribers: usize) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers), move || {
        let mut memory = keeping(Some(MESSAGES));
        for at in 0..subscribers {
            memory.subscriber(&format!("subscriber-{at}"), "news");
        }
        let read = framed(&small("publish", "news"));
        publishes(memory, move |sent| sent == subscribers * read.len())
    })
}

fn to_topical(name: &'static str, messages: Option<usize>) -> Scenario {
    Scenario::new(name, Work::Frames(SUBSCRIBERS), move || {
        let mut memory = keeping(messages);
        for at in 0..SUBSCRIBERS {
            let key = memory.with_extension(&format!("subscriber-{at}"), "topic");
            memory.subscribe(key, "news", r#"{"ack":true}"#);
        }
        let plain = SUBSCRIBERS * framed(&small("publish", "news")).len();
        publishes(memory, move |sent| if messages.is_some() { sent > plain } else { sent == plain })
    })
}

fn keeping(messages: Option<usize>) -> Memory {
    let rule = |messages| HistoryRule::new("app", "news").messages(messages);
    Memory::with_limits(Limits::default().histories(messages.map(rule).as_slice()))
}

/// Publishes on a channel whose history is full, so that each publication displaces one.
fn publishes(mut memory: Memory, is_expected: impl Fn(usize) -> bool) -> impl FnMut() {
    let publisher = memory.connected("publisher");
    let read = framed(&small("publish", "news"));
    let mut publish = move || assert!(is_expected(memory.turn(publisher, &read)));
    // Until the ring of chunks has turned, too.
    (0..3 * MESSAGES).for_each(|_| publish());
    publish
}

/// One client that gets all that is kept.
fn recovery() -> impl FnMut() {
    let mut memory = keeping(Some(MESSAGES));
    let publisher = memory.connected("publisher");
    let publication = framed(&small("publish", "news"));
    (0..MESSAGES).for_each(|_| _ = memory.turn(publisher, &publication));
    let reader = memory.with_extension("reader", "topic");
    memory.subscribe(reader, "news", r#"{"ack":true}"#);
    let mut read = frame("unsubscribe", "news", "{}");
    read.extend(frame("subscribe", "news", r#"{"last":1000}"#));
    move || {
        let mut sent = memory.turn(reader, &read);
        let mut turns = 0;
        while sent <= MESSAGES * publication.len() {
            sent += memory.turn(reader, b"");
            turns += 1;
            assert!(turns < MESSAGES, "{sent} bytes came");
        }
    }
}
