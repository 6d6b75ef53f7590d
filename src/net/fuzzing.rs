//! The fuzz target for rings: one end against a peer that is nothing but bytes in the shared memory.
//!
//! Whatever the peer writes there, at any step, the end reads what is in the memory, writes to no other place than its
//! own, and wakes the peer up only if that seems to sleep. With a peer that keeps the rules it is a queue.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use arbitrary::{Arbitrary, Unstructured};
use ipc_framework_rings::{Broken, End, RING_BYTES_MIN};
use rustix::event::{Timespec, epoll};
use rustix::fs::FallocateFlags;

/// The places of the memory, as PROTOCOL.md has them: the words of the ring to the server, then those of the ring to
/// the client, and the bytes of both.
const WORDS_BYTES: usize = 512;
const TAIL: usize = 0;
const HEAD: usize = 128;
const READER_SLEEPS: usize = 256;
const WRITER_WAITS: usize = 384;
const RINGS_START: usize = 4096;
const RING_BYTES: usize = RING_BYTES_MIN;
/// Enough to fill a ring, to empty it, and to wrap.
const ACTS_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Act {
    /// What the end does.
    Read {
        bytes: u16,
    },
    Write {
        slices: [u16; 2],
        first: u8,
    },
    Sleep,
    Awake,
    /// What a peer does that keeps the rules.
    PeerWrites {
        bytes: u16,
        first: u8,
    },
    PeerReads {
        bytes: u16,
    },
    PeerSleeps,
    PeerWaits,
    /// What another one does.
    Word {
        at: u8,
        value: Value,
    },
    Bytes {
        at: u16,
        bytes: [u8; 3],
    },
    Hole {
        at: u8,
    },
}

/// A word, mostly near those that the end goes by.
#[derive(Arbitrary, Debug)]
enum Value {
    NearOwnHead(i16),
    NearOwnTail(i16),
    Any(u32),
}

/// Where the words and the bytes of a ring lie.
#[derive(Clone, Copy)]
struct Place {
    words: usize,
    start: usize,
}

impl Place {
    fn of(ring: usize) -> Self {
        Self { words: ring * WORDS_BYTES, start: RINGS_START + ring * RING_BYTES }
    }

    fn byte(self, index: u32) -> usize {
        self.start + index as usize % RING_BYTES
    }
}

struct Peer {
    end: End,
    memory: File,
    /// What tells that the end has woken the peer up.
    wakes: OwnedFd,
    is_server: bool,
    input: Place,
    output: Place,
    /// What the end goes by, according to the results of its calls.
    head: u32,
    tail: u32,
    waits: bool,
    /// The peer's own, as long as it keeps the rules for that ring.
    honest_tail: Option<u32>,
    honest_head: Option<u32>,
    _sockets: (UnixStream, UnixStream),
}

/// One end with a hostile peer.
pub(crate) fn rings(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(is_server) = bool::arbitrary(&mut input) else { return };
    let mut peer = Peer::new(is_server).expect("memory and descriptors");
    for _ in 0..ACTS_MAX {
        if input.is_empty() {
            return;
        }
        let Ok(act) = Act::arbitrary(&mut input) else { return };
        if peer.act(act) == Err(Broken) {
            return;
        }
    }
}

impl Peer {
    fn new(is_server: bool) -> io::Result<Self> {
        let sockets = UnixStream::pair()?;
        let (server, descriptors) = End::create(RING_BYTES)?;
        let memory = File::from(descriptors.memory.try_clone()?);
        let (end, wakes) = if is_server {
            (server, descriptors.to_client)
        } else {
            let wakes = descriptors.to_server.try_clone()?;
            (End::open(descriptors, RING_BYTES, &sockets.1)?, wakes)
        };
        let [input, output] = if is_server { [0, 1] } else { [1, 0] }.map(Place::of);
        Ok(Self {
            end,
            memory,
            wakes,
            is_server,
            input,
            output,
            head: 0,
            tail: 0,
            waits: false,
            honest_tail: Some(0),
            honest_head: Some(0),
            _sockets: sockets,
        })
    }

    fn act(&mut self, act: Act) -> Result<(), Broken> {
        let bytes = |bytes: u16| usize::from(bytes) % (2 * RING_BYTES);
        match act {
            Act::Read { bytes: room } => self.read(bytes(room))?,
            Act::Write { slices, first } => self.write(slices.map(bytes), first)?,
            Act::Sleep => self.sleep(),
            Act::Awake => {
                let mut expected = self.memory();
                self.end.watch().awake();
                put(&mut expected, self.input.words + READER_SLEEPS, 0);
                self.expect(&expected, false);
            }
            Act::PeerWrites { bytes: wanted, first } => self.peer_writes(bytes(wanted), first),
            Act::PeerReads { bytes: wanted } => self.peer_reads(bytes(wanted)),
            Act::PeerSleeps => self.set(self.output.words + READER_SLEEPS, 1),
            Act::PeerWaits => self.set(self.input.words + WRITER_WAITS, 1),
            Act::Word { at, value } => {
                let ring = Place::of(usize::from(at) % 2);
                let word = [TAIL, HEAD, READER_SLEEPS, WRITER_WAITS][usize::from(at / 2) % 4];
                let value = match value {
                    Value::NearOwnHead(by) => self.head.wrapping_add_signed(by.into()),
                    Value::NearOwnTail(by) => self.tail.wrapping_add_signed(by.into()),
                    Value::Any(value) => value,
                };
                self.set(ring.words + word, value);
                self.notice(ring.words + word);
            }
            Act::Bytes { at, bytes } => {
                let at = RINGS_START + usize::from(at) % (2 * RING_BYTES - bytes.len());
                self.memory
                    .write_all_at(&bytes, at as u64)
                    .expect("it is not sealed against writes");
            }
            Act::Hole { at } => {
                let at = usize::from(at) % 3 * RING_BYTES;
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.memory, flags, at as u64, RING_BYTES as u64)
                    .expect("it is not sealed against holes");
                if at == 0 {
                    self.notice(self.input.words + TAIL);
                    self.notice(self.output.words + HEAD);
                }
            }
        }
        let (unread, room) = (self.end.watch().unread_bytes(), self.end.room());
        assert!(unread <= RING_BYTES && room <= RING_BYTES, "{unread} to read, room for {room}");
        Ok(())
    }

    fn read(&mut self, bytes: usize) -> Result<(), Broken> {
        let before = self.memory();
        let used = word(&before, self.input.words + TAIL).wrapping_sub(self.head) as usize;
        let mut room = vec![0; bytes];
        let Ok(read) = self.end.read(&mut room) else {
            assert!(used > RING_BYTES, "the index of the writer is fine");
            return Err(Broken);
        };
        assert!(read <= bytes && read <= RING_BYTES, "{read} of {bytes} bytes");
        if let Some(tail) = self.honest_tail {
            assert_eq!(read, bytes.min(tail.wrapping_sub(self.head) as usize));
        }
        for (byte, index) in room[..read].iter().zip(0..) {
            assert_eq!(*byte, before[self.input.byte(self.head.wrapping_add(index))]);
        }
        self.head = self.head.wrapping_add(read as u32);
        let mut expected = before;
        if read > 0 {
            put(&mut expected, self.input.words + HEAD, self.head);
        }
        let waits = self.input.words + WRITER_WAITS;
        // It looks only now and then whether the writer waits.
        let woken = word(&expected, waits) != 0 && word(&self.memory(), waits) == 0;
        if woken {
            put(&mut expected, waits, 0);
        }
        self.expect(&expected, woken);
        Ok(())
    }

    fn write(&mut self, slices: [usize; 2], first: u8) -> Result<(), Broken> {
        let bytes = counted(slices[0] + slices[1], first);
        let (one, other) = bytes.split_at(slices[0]);
        let mut expected = self.memory();
        let Ok(written) = self.end.write(&[one, other].map(IoSlice::new)) else {
            assert_eq!(self.honest_head, None, "the index of the reader is fine");
            return Err(Broken);
        };
        // A peer that says it has read what it was not told of gets more than a ring.
        assert!(written <= bytes.len(), "{written} of {}", bytes.len());
        if let Some(head) = self.honest_head {
            let used = self.tail.wrapping_sub(head) as usize;
            assert_eq!(written, bytes.len().min(RING_BYTES - used));
        }
        for (byte, index) in bytes[..written].iter().zip(0..) {
            expected[self.output.byte(self.tail.wrapping_add(index))] = *byte;
        }
        self.tail = self.tail.wrapping_add(written as u32);
        let sleeps = self.output.words + READER_SLEEPS;
        let woken = written > 0 && word(&expected, sleeps) != 0;
        if written > 0 {
            put(&mut expected, self.output.words + TAIL, self.tail);
            put(&mut expected, sleeps, 0);
        }
        let is_short = written < bytes.len();
        if is_short || self.waits {
            put(&mut expected, self.output.words + WRITER_WAITS, is_short.into());
        }
        self.waits = is_short;
        self.expect(&expected, woken);
        Ok(())
    }

    fn sleep(&mut self) {
        let mut expected = self.memory();
        let has_bytes = word(&expected, self.input.words + TAIL) != self.head;
        let slept = self.end.watch().sleep();
        assert!(!(slept && has_bytes), "it sleeps beside bytes");
        assert!(slept || has_bytes || self.waits, "it does not sleep, and has nothing to do");
        put(&mut expected, self.input.words + READER_SLEEPS, slept.into());
        self.expect(&expected, false);
    }

    fn peer_writes(&mut self, wanted: usize, first: u8) {
        let Some(tail) = self.honest_tail else { return };
        let room = RING_BYTES - tail.wrapping_sub(self.head) as usize;
        let mut memory = self.memory();
        for (byte, index) in counted(wanted.min(room), first).into_iter().zip(0..) {
            memory[self.input.byte(tail.wrapping_add(index))] = byte;
        }
        let tail = tail.wrapping_add(wanted.min(room) as u32);
        put(&mut memory, self.input.words + TAIL, tail);
        self.memory.write_all_at(&memory, 0).expect("it is not sealed against writes");
        self.honest_tail = Some(tail);
    }

    fn peer_reads(&mut self, wanted: usize) {
        let Some(head) = self.honest_head else { return };
        let used = self.tail.wrapping_sub(head) as usize;
        let head = head.wrapping_add(wanted.min(used) as u32);
        self.set(self.output.words + HEAD, head);
        self.honest_head = Some(head);
    }

    /// The peer has written anything into this word.
    fn notice(&mut self, at: usize) {
        if at == self.input.words + TAIL {
            self.honest_tail = None;
        }
        if at == self.output.words + HEAD {
            self.honest_head = None;
        }
    }

    fn set(&self, at: usize, value: u32) {
        let bytes = value.to_ne_bytes();
        self.memory.write_all_at(&bytes, at as u64).expect("it is not sealed against writes");
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; End::memory_bytes(RING_BYTES)];
        self.memory.read_exact_at(&mut bytes, 0).expect("its size is sealed");
        bytes
    }

    /// Asserts what is in the memory after a call, and whether that has woken the peer up.
    fn expect(&self, expected: &[u8], woken: bool) {
        let memory = self.memory();
        let differs = memory.iter().zip(expected).position(|(byte, other)| byte != other);
        assert_eq!(differs, None, "the end has written to this place, or left it");
        assert_eq!(self.is_woken(), woken, "woken up");
    }

    fn is_woken(&self) -> bool {
        if self.is_server {
            let mut events = Vec::with_capacity(1);
            let room = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&self.wakes, room, Some(&Timespec::default())).expect("an epoll") > 0
        } else {
            // It fails if the count is zero.
            rustix::io::read(&self.wakes, &mut [0; 8]).is_ok()
        }
    }
}

/// Bytes that tell their places.
fn counted(bytes: usize, first: u8) -> Vec<u8> {
    (0..bytes).map(|at| first.wrapping_add(at as u8)).collect()
}

fn word(memory: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(memory[at..at + 4].try_into().expect("four bytes"))
}

fn put(memory: &mut [u8], at: usize, value: u32) {
    memory[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}
