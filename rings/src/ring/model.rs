//! All orders in which the steps of both sides can happen, as weakly ordered as the memory model allows.

use std::collections::VecDeque;

use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;

const RING_BYTES: usize = 4;
const RING: Ring = Ring { words: 0, start: 0, bytes: RING_BYTES };
const WORDS: [usize; 4] = [Ring::TAIL, Ring::HEAD, Ring::READER_SLEEPS, Ring::WRITER_WAITS];

/// The common memory of one ring, and an event for each side.
#[derive(Debug)]
struct Shared {
    words: [AtomicU32; WORDS.len()],
    bytes: [AtomicU8; RING_BYTES],
    to_reader: Event,
    to_writer: Event,
}

/// An eventfd: it counts, and a wait takes the count.
#[derive(Debug)]
struct Event {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Event {
    fn new() -> Self {
        Self { count: Mutex::new(0), changed: Condvar::new() }
    }

    fn add(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    /// Returns how often it was added to; waits until that is not zero.
    fn wait(&self) -> u32 {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.changed.wait(count).unwrap();
        }
        std::mem::take(&mut count)
    }
}

#[derive(Debug)]
struct Side {
    shared: Arc<Shared>,
    is_reader: bool,
}

impl Side {
    fn word(&self, word: usize) -> &AtomicU32 {
        &self.shared.words[WORDS.iter().position(|known| *known == word).unwrap()]
    }

    fn own(&self) -> &Event {
        if self.is_reader { &self.shared.to_reader } else { &self.shared.to_writer }
    }
}

impl Common for Side {
    fn load(&self, word: usize) -> u32 {
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u32) {
        self.word(word).store(value, Ordering::Release);
    }

    fn take(&self, word: usize) -> u32 {
        self.word(word).swap(0, Ordering::AcqRel)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_in(&self, at: usize, from: &[u8]) {
        for (byte, from) in self.shared.bytes[at..].iter().zip(from) {
            byte.store(*from, Ordering::Relaxed);
        }
    }

    fn copy_out(&self, at: usize, into: &mut [u8]) {
        for (byte, into) in self.shared.bytes[at..].iter().zip(into) {
            *into = byte.load(Ordering::Relaxed);
        }
    }

    fn wake(&self) {
        let shared = &self.shared;
        if self.is_reader { shared.to_writer.add() } else { shared.to_reader.add() }
    }
}

fn sides() -> (std::sync::Arc<Reading<Side>>, std::sync::Arc<Writing<Side>>) {
    let shared = Arc::new(Shared {
        words: std::array::from_fn(|_| AtomicU32::new(0)),
        bytes: std::array::from_fn(|_| AtomicU8::new(0)),
        to_reader: Event::new(),
        to_writer: Event::new(),
    });
    let side = |is_reader| std::sync::Arc::new(Side { shared: Arc::clone(&shared), is_reader });
    let reading = Reading::new(side(true), RING);
    let writing = Writing::new(side(false), RING);
    (reading.into(), writing.into())
}

/// Reads so many bytes, at most `read_bytes_max` at once, and sleeps whenever there are none. Returns them, and
/// how often it was woken and how often it slept.
fn read_all(
    reading: &std::sync::Arc<Reading<Side>>,
    bytes: usize,
    read_bytes_max: usize,
) -> (VecDeque<u8>, u32, u32) {
    let mut reader = Reader::new(std::sync::Arc::clone(reading));
    let (mut got, mut woken, mut slept) = (VecDeque::new(), 0, 0);
    while got.len() < bytes {
        let mut room = vec![0; read_bytes_max];
        let read = reader.read(&mut room).unwrap();
        got.extend(&room[..read]);
        if read == 0 {
            reading.announce_sleep();
            if reading.has_bytes() {
                reading.end_sleep();
            } else {
                slept += 1;
                woken += reading.common.own().wait();
            }
        }
    }
    (got, woken, slept)
}

/// Writes the bytes in pieces, and sleeps whenever there is no room.
fn write_all(writing: &std::sync::Arc<Writing<Side>>, pieces: &[&[u8]]) {
    let mut writer = Writer::new(std::sync::Arc::clone(writing));
    for piece in pieces {
        let mut left = *piece;
        while !left.is_empty() {
            left = &left[writer.write(&[IoSlice::new(left)]).unwrap()..];
            if !left.is_empty() && !writing.has_room_again() {
                writing.common.own().wait();
            }
        }
    }
}

/// Runs both sides in all orders with at most so many places where one interrupts the other.
fn explore(preemptions_max: usize, pieces: &'static [&'static [u8]], read_bytes_max: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions_max);
    model.check(move || {
        let (reading, writing) = sides();
        let writer = thread::spawn(move || write_all(&writing, pieces));
        let sent = pieces.concat();
        let (got, woken, slept) = read_all(&reading, sent.len(), read_bytes_max);
        assert_eq!(got, sent);
        // An event of a sleep that has ended by itself may come late.
        assert!(woken <= slept + 1, "woken {woken} times for {slept} sleeps");
        writer.join().unwrap();
    });
}

#[test]
fn a_reader_that_sleeps_gets_every_byte_once_and_in_order() {
    explore(3, &[b"a", b"b"], 1);
}

#[test]
fn a_writer_that_waits_for_room_is_woken() {
    explore(3, &[b"abcdef"], 4);
}

#[test]
fn small_reads_wake_a_writer_that_waits() {
    explore(2, &[b"abcdefg"], 1);
}
