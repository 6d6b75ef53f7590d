//! From chunks of bytes to frames: the same heartbeats, cut in the ways a stream cuts them.
//!
//! A heartbeat is read, validated and checked, and nothing more, so that the numbers differ by the
//! receive buffer alone.

use std::hint::black_box;

use ipc_framework::proto::frame::{self, Frame};

use super::memory::Memory;
use super::messages::{framed, small, text};
use super::{Scenario, Work};

const KIB: usize = 1 << 10;

pub(super) fn scenarios() -> Vec<Scenario> {
    let heartbeat = framed(&small("notification", "system"));
    let half = heartbeat.len() / 2;
    let mut scenarios = vec![
        Scenario::new("frames/header_decoded", Work::Frames(1), || {
            let bytes = framed(&small("notification", "system"));
            move || match frame::decode(black_box(&bytes), 16 * KIB) {
                Frame::Complete { body, .. } => drop(black_box(body)),
                other => panic!("{other:?}"),
            }
        }),
        fed("frames/one_in_one_read", Work::Frames(1), vec![heartbeat.clone()]),
        fed("frames/one_in_two_reads", Work::Frames(1), cut(&heartbeat, half)),
        fed("frames/header_and_body_apart", Work::Frames(1), split_after_header(&heartbeat)),
        fed("frames/one_byte_by_byte", Work::Frames(1), cut(&heartbeat, 1)),
        fed("frames/32_in_one_read", Work::Frames(32), vec![heartbeat.repeat(32)]),
        // No read ends where a frame ends.
        fed("frames/32_in_1000B_reads", Work::Frames(32), cut(&heartbeat.repeat(32), 1_000)),
    ];
    let large = framed(&text("notification", "system", KIB * KIB));
    let work = Work::Bytes(large.len());
    scenarios.push(fed("frames/1MiB_in_64KiB_reads", work, cut(&large, 64 * KIB)));
    scenarios
}

fn cut(bytes: &[u8], every: usize) -> Vec<Vec<u8>> {
    bytes.chunks(every).map(<[u8]>::to_vec).collect()
}

/// The reads that the published clients cause.
fn split_after_header(frame: &[u8]) -> Vec<Vec<u8>> {
    let (header, body) = frame.split_at(frame::HEADER_BYTES);
    vec![header.to_vec(), body.to_vec()]
}

fn fed(name: &'static str, work: Work, reads: Vec<Vec<u8>>) -> Scenario {
    Scenario::new(name, work, move || {
        let mut memory = Memory::new();
        let peer = memory.connected("peer");
        let reads = reads.clone();
        move || {
            for read in &reads {
                assert_eq!(memory.turn(peer, read), 0, "a heartbeat has no answer");
            }
        }
    })
}
