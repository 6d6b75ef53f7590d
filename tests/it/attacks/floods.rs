//! Many messages that cost their sender next to nothing.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::peak_while;
use crate::bad_input::Bystanders;
use crate::support::{Peer, code, frame};

/// Each frame of four bytes is answered with an error of three hundred. If the client reads the
/// answers, all frames are answered; if not, the server stops reading. Either costs the others no
/// more than turns.
#[test]
fn a_flood_of_empty_frames_is_answered_as_far_as_it_is_read() {
    flood(b"", "bad_frame");
}

/// This is the smallest object in JSON.
#[test]
fn a_flood_of_tiny_frames_is_answered_as_far_as_it_is_read() {
    flood(b"{}", "bad_message");
}

fn flood(body: &'static [u8], expected: &'static str) {
    const FRAMES: usize = 20_000;
    let (server, mut bystanders) = Bystanders::of_echo();
    let mut reading = server.connected("app", "reading");
    let mut answers = reading.reader();
    let writing = std::thread::spawn(move || {
        reading.stream.write_all(&frame(body).repeat(FRAMES)).unwrap();
        reading
    });
    let counting = std::thread::spawn(move || {
        for _ in 0..FRAMES {
            let error = answers.receive();
            assert_eq!(code(&error), expected);
        }
    });
    // This client reads nothing and sends without end.
    let is_over = Arc::new(AtomicBool::new(false));
    let deaf = server.connected("app", "deaf");
    deaf.read_nothing_early(4 << 10);
    let ending = is_over.clone();
    let flooding = std::thread::spawn(move || {
        deaf.stream.set_nonblocking(true).unwrap();
        let bytes = frame(body).repeat(4_000);
        let mut written = 0_usize;
        while !ending.load(Ordering::Relaxed) {
            // Skips the bytes of the last frame that were written, so that the stream stays in
            // step.
            let from = written % bytes.len();
            match (&deaf.stream).write(&bytes[from..]) {
                Ok(count) => written += count,
                Err(_) => std::thread::yield_now(),
            }
        }
        deaf
    });
    let rounds = Cell::new(0);
    let peak_bytes = peak_while(
        &server,
        || counting.is_finished() && rounds.get() > 100,
        || {
            bystanders.go_on();
            rounds.set(rounds.get() + 1);
        },
    );
    counting.join().expect("every frame is answered");
    is_over.store(true, Ordering::Relaxed);
    let mut reading: Peer = writing.join().unwrap();
    reading.fence();
    // Two queues are over their mark of 1 MiB by the errors of a turn, with room to grow.
    assert!(peak_bytes <= 2 * (1 << 20) + (512 << 10), "{peak_bytes} bytes");
    let deaf = flooding.join().unwrap();
    drop((deaf, reading));
    let stats = server.wait_until("their end", |stats| stats.total_connections == 3);
    assert_eq!(stats.buffered_bytes, 0);
    assert!(stats.counters.yields > 0, "nobody ever gave up a turn");
    bystanders.go_on();
}
