//! One publication to many queues.

use super::memory::Memory;
use super::messages::{framed, small, text};
use super::{Scenario, Work};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("fan_out/192B_to_1", 1, small("publish", "news")),
        scenario("fan_out/192B_to_10", 10, small("publish", "news")),
        scenario("fan_out/192B_to_100", 100, small("publish", "news")),
        scenario("fan_out/192B_to_1000", 1_000, small("publish", "news")),
        // Over the size up to which a frame is copied into each queue.
        scenario("fan_out/16KiB_to_100", 100, text("publish", "news", 16 << 10)),
        pipelined("fan_out/32_of_192B_to_100", 100, 32),
    ]
}

fn scenario(name: &'static str, subscribers: usize, body: String) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers), move || published(subscribers, framed(&body)))
}

/// Many publications in one read, so that each subscriber's leave as one piece.
fn pipelined(name: &'static str, subscribers: usize, publications: usize) -> Scenario {
    Scenario::new(name, Work::Frames(subscribers * publications), move || {
        published(subscribers, framed(&small("publish", "news")).repeat(publications))
    })
}

fn published(subscribers: usize, read: Vec<u8>) -> impl FnMut() {
    let mut memory = Memory::new();
    for at in 0..subscribers {
        memory.subscriber(&format!("subscriber-{at}"), "news");
    }
    let publisher = memory.connected("publisher");
    move || assert_eq!(memory.turn(publisher, &read), subscribers * read.len())
}
