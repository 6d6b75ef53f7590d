//! Many connections that do not complete their handshake.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits, UnixSocket};
use serde_json::json;

use super::{peak_while, reset_on_close};
use crate::bad_input::Bystanders;
use crate::scratch::Scratch;
use crate::support::{Peer, frame, install_echo, serve, serve_limited};

const STRANGERS: usize = 300;

/// Silent connections, and connections that send a byte at a time, have the time of the handshake
/// and no more. Each holds at most a buffer of the smallest size.
#[test]
fn many_who_are_silent_and_many_who_trickle_are_closed_together() {
    const SMALLEST_BUFFER_BYTES: usize = 4 << 10;
    let limits = Limits::default().handshake_timeout(Duration::from_secs(2));
    let server = serve_limited(limits);
    let mut bystanders = Bystanders::of(&server);
    let mut silent: Vec<Peer> = (0..STRANGERS).map(|_| server.peer()).collect();
    let mut trickling: Vec<Peer> = (0..STRANGERS).map(|_| server.peer()).collect();
    let trickle = std::thread::spawn(move || {
        // At this pace the body would take a minute and a half.
        let bytes = frame(&vec![b' '; 9_000]);
        let mut given = 0;
        while !trickling.is_empty() {
            trickling.retain_mut(|peer| peer.stream.write_all(&bytes[given..=given]).is_ok());
            given += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        given
    });
    let peak_bytes = peak_while(&server, || trickle.is_finished(), || bystanders.go_on());
    let given = trickle.join().unwrap();
    silent.iter_mut().for_each(Peer::expect_end);
    assert!(given < 9_000, "all of it was waited for");
    assert!(peak_bytes <= STRANGERS * SMALLEST_BUFFER_BYTES + (64 << 10), "{peak_bytes} bytes");
    let stats = server.stats();
    assert_eq!((stats.total_connections, stats.buffered_bytes), (3, 0));
    bystanders.go_on();
}

/// Connections that have not completed their handshake take all places, and more come all the time.
/// A client that completes its handshake gets a place all the same, long before the others time
/// out.
#[test]
fn strangers_who_take_every_place_keep_nobody_out() {
    const PLACES: usize = 100;
    let handshake_timeout = Duration::from_secs(60);
    let limits = Limits::default().connections_max(PLACES).handshake_timeout(handshake_timeout);
    let server = serve_limited(limits);
    let is_over = Arc::new(AtomicBool::new(false));
    let ending = is_over.clone();
    let address = server.address;
    let mut strangers: Vec<_> = (0..PLACES).map(|_| TcpStream::connect(address).unwrap()).collect();
    let begin = Instant::now();
    let strangers = std::thread::spawn(move || {
        while !ending.load(Ordering::Relaxed) {
            strangers.extend(TcpStream::connect(address));
            std::thread::sleep(Duration::from_millis(20));
        }
        strangers.len()
    });
    server.wait_until("the flood", |stats| stats.counters.accepted >= PLACES as u64);
    let mut tries = 0;
    let mut known = Vec::new();
    while known.len() < 10 {
        tries += 1;
        assert!(begin.elapsed() < handshake_timeout, "{} came in", known.len());
        let mut peer = server.peer().called("app", &format!("known-{tries}"));
        match peer.introduce(None) {
            Ok(answer) if answer["payload"]["status"] == "connected" => known.push(peer),
            // All places were taken at that moment.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    println!("10 came in among {} strangers with {tries} tries", strangers.join().unwrap());
    for peer in &mut known {
        assert_eq!(peer.request("echo", json!(1)), 1);
    }
}

/// Clients send the largest frames that are allowed before the handshake, over and over, and do not
/// read the answers.
#[test]
fn strangers_with_the_largest_frames_hold_a_read_and_a_few_errors_each() {
    const STRANGERS: usize = 50;
    /// One read, of which nothing is processed while the errors are unread.
    const READ_BYTES: usize = 64 << 10;
    /// The unread errors that are allowed before the handshake, and the error that exceeded them.
    const ERRORS_BYTES: usize = 8 << 10;
    let limits = Limits::default().handshake_timeout(Duration::from_secs(3));
    let server = serve_limited(limits);
    let mut bystanders = Bystanders::of(&server);
    let floods: Vec<_> = (0..STRANGERS)
        .map(|_| {
            let mut peer = server.peer();
            peer.read_nothing_early(4 << 10);
            std::thread::spawn(move || {
                let bytes = frame(&vec![b'x'; 16 << 10]);
                while peer.stream.write_all(&bytes).is_ok() {}
            })
        })
        .collect();
    let is_over = || floods.iter().all(std::thread::JoinHandle::is_finished);
    let peak_bytes = peak_while(&server, is_over, || bystanders.go_on());
    let stats = server.wait_until("empty buffers", |stats| stats.buffered_bytes == 0);
    let errors = stats.counters.errors["bad_frame"];
    assert!(errors >= STRANGERS as u64, "only {errors} frames were read");
    assert!(peak_bytes > STRANGERS * ERRORS_BYTES / 2, "{peak_bytes} bytes: nothing waits");
    assert!(
        peak_bytes <= STRANGERS * (READ_BYTES + ERRORS_BYTES) + (64 << 10),
        "{peak_bytes} bytes"
    );
    assert_eq!(stats.total_connections, 3);
    bystanders.go_on();
}

/// The flood keeps the TCP listener's backlog full. Clients of the Unix socket are accepted all the
/// same.
#[test]
fn a_flood_on_one_listener_does_not_keep_newcomers_from_another() {
    const FLOODS: usize = 3;
    const NEWCOMERS: usize = 20;
    let scratch = Scratch::new("flood");
    let path = scratch.socket();
    let config = Config::default().unix(UnixSocket::at(&path));
    let server = serve(config, install_echo);
    let address = server.address;
    let is_over = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..FLOODS)
        .map(|_| {
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let together: Vec<TcpStream> =
                        (0..200).filter_map(|_| TcpStream::connect(address).ok()).collect();
                    together.iter().for_each(reset_on_close);
                }
            })
        })
        .collect();
    server.wait_until("the flood", |stats| stats.counters.accepted > 1_000);
    for at in 0..NEWCOMERS {
        let mut newcomer = Peer::over_unix(&path).unwrap();
        newcomer.connect("app", &format!("newcomer-{at}"));
        newcomer.fence();
    }
    is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    server.wait_until("their ends", |stats| stats.total_connections == 0);
}
