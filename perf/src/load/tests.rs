use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::bare::{self, BareKind};
use crate::endpoint::{Endpoint, Listener};
use crate::poller::Wait;
use crate::wire::{Dialect, Ipc, Role, Work};

const PAYLOAD_BYTES: usize = 64;

fn phases() -> Phases {
    Phases { warm_up: Duration::from_millis(20), measure: Duration::from_millis(200), server: None }
}

/// Starts a bare server in this process, which ends with the test.
fn serve(kind: BareKind) -> Endpoint {
    let listener = Listener::bind(&Endpoint::any_port()).unwrap();
    let endpoint = listener.endpoint().clone();
    thread::spawn(move || bare::serve(&listener, kind));
    endpoint
}

fn connections(endpoint: &Endpoint, wire: &Ipc, count: usize) -> Vec<Connection> {
    (0..count).map(|index| connect(endpoint, wire, Role::Sender, index).unwrap()).collect()
}

fn check(outcome: &Outcome) {
    // On a busy machine all answers may come after the measured time.
    assert!(outcome.answered > 0);
    assert_eq!(outcome.latency.len(), outcome.completed);
    assert_eq!(outcome.elapsed, phases().measure);
}

#[test]
fn every_loop_works_against_the_bare_servers() {
    let wire = Ipc::new(Dialect::Bare, Work::Echo, PAYLOAD_BYTES);
    for kind in [BareKind::Echo, BareKind::FrameEcho, BareKind::ReadWriteEcho] {
        let endpoint = serve(kind);
        let mut client = connect(&endpoint, &wire, Role::Sender, 0).unwrap();
        check(&one_client(&mut client, &wire, Wait::Block, phases()).unwrap());
    }
    let endpoint = serve(BareKind::Echo);
    for window in [1, 16] {
        let clients = connections(&endpoint, &wire, 5);
        check(&closed_loop(clients, &wire, Wait::Block, window, phases()).unwrap());
    }
    let outcome = open_loop(connections(&endpoint, &wire, 5), &wire, 1_000.0, phases()).unwrap();
    assert_eq!(outcome.completed, 200);

    let wire = Ipc::new(Dialect::Bare, Work::Fanout, PAYLOAD_BYTES);
    for window in [1, 16] {
        let endpoint = serve(BareKind::Relay);
        let join = |role| connect(&endpoint, &wire, role, 0).unwrap();
        let subscribers = (0..7).map(|_| join(Role::Subscriber)).collect();
        check(
            &fanout(join(Role::Sender), subscribers, &wire, Wait::Block, window, phases()).unwrap(),
        );
    }
}

#[test]
fn a_large_payload_passes_in_pieces() {
    let wire = Ipc::new(Dialect::Bare, Work::Echo, 1 << 20);
    for kind in [BareKind::Echo, BareKind::FrameEcho] {
        let clients = connections(&serve(kind), &wire, 2);
        check(&closed_loop(clients, &wire, Wait::Block, 1, phases()).unwrap());
    }
}

/// Echoes, but for one pause of `pause` in which nothing is read.
fn stalling_echo(quiet: Duration, pause: Duration) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let (begin, mut stalled) = (Instant::now(), false);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            if !stalled && begin.elapsed() > quiet {
                stalled = true;
                thread::sleep(pause);
            }
            stream.write_all(&buffer[..bytes]).unwrap();
        }
    });
    endpoint
}

#[test]
fn a_stall_counts_for_every_request_that_was_due_in_it() {
    let wire = Ipc::new(Dialect::Bare, Work::Echo, PAYLOAD_BYTES);
    let pause = Duration::from_millis(100);
    let endpoint = stalling_echo(Duration::from_millis(60), pause);
    let per_second = 2_000.0;
    let outcome = open_loop(connections(&endpoint, &wire, 1), &wire, per_second, phases()).unwrap();
    // All requests that were due in the first half of the pause waited for longer than the second
    // half. A closed loop would have recorded a single one.
    let half = pause / 2;
    let late = outcome.latency.count_between(half.as_nanos() as u64, u64::MAX);
    let due_in_half = half.as_secs_f64() * per_second;
    assert!(late as f64 >= 0.9 * due_in_half, "{late} were late, {due_in_half} were due");
    assert!(outcome.latency.max() >= pause.as_nanos() as u64 * 9 / 10);
    // Every request that was due is counted once.
    assert_eq!(outcome.completed, (phases().measure.as_secs_f64() * per_second) as u64);
}

#[test]
fn a_closed_loop_sees_a_stall_once() {
    let wire = Ipc::new(Dialect::Bare, Work::Echo, PAYLOAD_BYTES);
    // The pause is longer than any wait that is due to a busy machine.
    let pause = Duration::from_millis(800);
    let endpoint = stalling_echo(Duration::from_millis(60), pause);
    let mut client = connect(&endpoint, &wire, Role::Sender, 0).unwrap();
    let phases = Phases { measure: 2 * pause, ..phases() };
    let outcome = one_client(&mut client, &wire, Wait::Block, phases).unwrap();
    assert_eq!(outcome.latency.count_between(pause.as_nanos() as u64 / 2, u64::MAX), 1);
}

/// Answers every frame but the `at`-th, which it answers as `with` says.
fn faulty_echo(at: usize, with: impl Fn(&mut Vec<u8>) + Send + 'static) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 64 << 10];
        for number in 0.. {
            let Ok(bytes @ 1..) = stream.read(&mut buffer) else { return };
            let mut frame = buffer[..bytes].to_vec();
            if number == at {
                with(&mut frame);
            }
            let _ = stream.write_all(&frame);
        }
    });
    endpoint
}

#[test]
fn a_wrong_answer_ends_the_run() {
    let wire = Ipc::new(Dialect::Bare, Work::Echo, PAYLOAD_BYTES);
    let fault = |with: fn(&mut Vec<u8>)| {
        let endpoint = faulty_echo(3, with);
        let mut client = connect(&endpoint, &wire, Role::Sender, 0).unwrap();
        // The run ends with the fault, long before this time.
        let phases = Phases { measure: Duration::from_secs(60), ..phases() };
        one_client(&mut client, &wire, Wait::Block, phases).unwrap_err()
    };
    let wrong_number = fault(|frame| {
        let body = String::from_utf8(frame.split_off(4)).unwrap();
        frame.extend_from_slice(body.replace("00000003", "00000002").as_bytes());
    });
    assert!(wrong_number.contains("00000002 where 00000003"), "{wrong_number}");
    let shorter = fault(|frame| {
        frame.remove(200);
        frame[3] -= 1;
    });
    assert!(shorter.contains("the peer sent"), "{shorter}");
}
