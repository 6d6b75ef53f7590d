//! Both sides in any order of operations, against a queue; and one side against memory into which anything is
//! written at any time.
#![cfg(target_os = "linux")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use ipc_framework_rings::{Broken, Descriptors, End, RING_BYTES_MIN};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Side {
    Server,
    Client,
}

#[derive(Clone, Debug)]
enum Act {
    Write(Side, Vec<usize>),
    Read(Side, usize),
    Sleep(Side),
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Server), Just(Side::Client)]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![0..20usize, 0..RING_BYTES_MIN, Just(RING_BYTES_MIN), Just(3 * RING_BYTES_MIN)]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (side(), vec(bytes(), 0..4)).prop_map(|(side, slices)| Act::Write(side, slices)),
        (side(), bytes()).prop_map(|(side, bytes)| Act::Read(side, bytes)),
        side().prop_map(Act::Sleep),
    ]
}

/// Both ends, and a copy of the memory's descriptor.
struct Pair {
    server: End,
    client: End,
    memory: File,
    _sockets: (UnixStream, UnixStream),
}

impl Pair {
    fn new() -> Self {
        let sockets = UnixStream::pair().unwrap();
        let (server, descriptors) = End::create(RING_BYTES_MIN).unwrap();
        let Descriptors { memory, to_server, to_client } = descriptors;
        let copy = memory.try_clone().unwrap().into();
        let descriptors = Descriptors { memory, to_server, to_client };
        let client = End::open(descriptors, RING_BYTES_MIN, &sockets.1).unwrap();
        Self { server, client, memory: copy, _sockets: sockets }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Server => &mut self.server,
            Side::Client => &mut self.client,
        }
    }
}

/// Bytes that tell where they belong.
fn numbered(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|at| (at % 251) as u8).collect()
}

fn write(end: &mut End, from: usize, slices: &[usize]) -> Result<usize, Broken> {
    let all = numbered(from, slices.iter().sum());
    let mut left = &all[..];
    let slices: Vec<_> = slices
        .iter()
        .map(|bytes| {
            let slice;
            (slice, left) = left.split_at(*bytes);
            IoSlice::new(slice)
        })
        .collect();
    end.write(&slices)
}

proptest! {
    #[test]
    fn both_sides_are_queues(acts in vec(act(), 0..200)) {
        let mut pair = Pair::new();
        // To the server and to the client: the bytes that are in the ring, and how many ever were.
        let mut queues = [(VecDeque::new(), 0), (VecDeque::new(), 0)];
        for act in acts {
            match act {
                Act::Write(side, slices) => {
                    let (queue, sent) = &mut queues[usize::from(matches!(side, Side::Server))];
                    let room = RING_BYTES_MIN - queue.len();
                    prop_assert_eq!(pair.end(side).room(), room);
                    let whole: usize = slices.iter().sum();
                    let written = write(pair.end(side), *sent, &slices).unwrap();
                    prop_assert_eq!(written, whole.min(room));
                    queue.extend(numbered(*sent, written));
                    *sent += written;
                    let waits = written < whole;
                    prop_assert_eq!(pair.end(side).watch().has_room_again(), waits && room > RING_BYTES_MIN);
                }
                Act::Read(side, bytes) => {
                    let (queue, _) = &mut queues[usize::from(matches!(side, Side::Client))];
                    let mut room = vec![0; bytes];
                    let read = pair.end(side).read(&mut room).unwrap();
                    prop_assert_eq!(read, bytes.min(queue.len()));
                    let expected: Vec<u8> = queue.drain(..read).collect();
                    prop_assert!(room[..read] == expected, "bytes are others");
                }
                Act::Sleep(side) => {
                    let (queue, _) = &queues[usize::from(matches!(side, Side::Client))];
                    let is_empty = queue.is_empty();
                    let watch = pair.end(side).watch();
                    prop_assert_eq!(watch.has_bytes(), !is_empty);
                    prop_assert_eq!(watch.unread_bytes(), queue.len());
                    prop_assert_eq!(watch.sleep_for_bytes(), is_empty);
                }
            }
        }
    }

    /// The client is a file that anything is written into.
    #[test]
    fn a_hostile_client_gets_garbage_or_an_end_and_harms_nobody(
        acts in vec((act(), vec(scribble(), 0..3)), 0..100),
    ) {
        let mut pair = Pair::new();
        let mut room = vec![0; 4 * RING_BYTES_MIN];
        for (act, scribbles) in acts {
            for (at, bytes) in scribbles {
                pair.memory.write_all_at(&bytes, at).unwrap();
            }
            let server = &mut pair.server;
            let watch = server.watch();
            prop_assert!(server.room() <= RING_BYTES_MIN && watch.unread_bytes() <= RING_BYTES_MIN);
            match act {
                Act::Write(_, slices) => {
                    let whole = slices.iter().sum();
                    if let Ok(written) = write(server, 0, &slices) {
                        prop_assert!(written <= whole);
                    }
                }
                Act::Read(_, bytes) => {
                    if let Ok(read) = server.read(&mut room[..bytes]) {
                        prop_assert!(read <= bytes && read <= RING_BYTES_MIN);
                    }
                }
                Act::Sleep(_) => {
                    let _ = watch.sleep();
                    watch.awake();
                }
            }
        }
    }

    #[test]
    fn an_index_that_is_too_far_away_breaks_the_ring(
        from in 0..RING_BYTES_MIN as u32,
        index in RING_BYTES_MIN as u32 + 1..=u32::MAX,
    ) {
        let mut pair = Pair::new();
        let Pair { server, client, memory, .. } = &mut pair;
        let mut room = vec![0; RING_BYTES_MIN];
        prop_assert_eq!(write(client, 0, &[from as usize]), Ok(from as usize));
        prop_assert_eq!(server.read(&mut room), Ok(from as usize));
        let tail = from.wrapping_add(index);
        memory.write_all_at(&tail.to_ne_bytes(), 0).unwrap();
        prop_assert!(server.has_bytes() && server.watch().is_ready());
        prop_assert_eq!(server.read(&mut room), Err(Broken));
        // The server has written nothing, so any other head is ahead of it or too far behind.
        let head = 0u32.wrapping_sub(index);
        memory.write_all_at(&head.to_ne_bytes(), 512 + 128).unwrap();
        prop_assert_eq!(server.room(), 0);
        prop_assert_eq!(write(server, 0, &[RING_BYTES_MIN]), Ok(RING_BYTES_MIN));
        prop_assert_eq!(write(server, 0, &[1]), Err(Broken));
    }
}

/// A place in the memory, and what is written there: words above all.
fn scribble() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let word = (0..8u64).prop_map(|word| word * 128);
    let near = (0..2u32, 0..3 * RING_BYTES_MIN as u32)
        .prop_map(|(half, value)| value.wrapping_sub(half * RING_BYTES_MIN as u32));
    let value = prop_oneof![near, any::<u32>(), 0..2u32];
    let anywhere = 0..End::memory_bytes(RING_BYTES_MIN) as u64 - 8;
    prop_oneof![
        4 => (word, value).prop_map(|(at, value)| (at, value.to_ne_bytes().to_vec())),
        1 => (anywhere, vec(any::<u8>(), 0..8)),
    ]
}
