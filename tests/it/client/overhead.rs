//! The cost of the client beside a bare socket that sends and receives the same bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ipc_framework::client::Connection;
use serde_json::json;

use super::connection::options;
use super::many_threads::client_options;
use crate::support::{frame, serve_echo, succeeds_once};

const ROUNDS: usize = 40;
const REQUESTS: usize = 200;

/// A blocking socket that does the least a client can do: one write and one read, without looking
/// at the bytes.
struct Bare {
    stream: TcpStream,
    question: Vec<u8>,
    buffer: Vec<u8>,
}

impl Bare {
    fn request(&mut self) {
        self.stream.write_all(&self.question).unwrap();
        let mut got = 0;
        loop {
            got += self.stream.read(&mut self.buffer[got..]).unwrap();
            let header = self.buffer[..4].try_into().unwrap();
            if got >= 4 && got == 4 + u32::from_be_bytes(header) as usize {
                return;
            }
        }
    }
}

fn time(mut request: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|_| {
            let begin = Instant::now();
            request();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[REQUESTS / 2]
}

/// Measures medians of short rounds in turn, so that other load on the machine affects both alike,
/// and compares the median of their ratios with the bound. The bound of a debug build is wide.
#[test]
fn a_connection_adds_at_most_a_tenth_to_a_bare_sockets_round_trip() {
    let server = serve_echo();
    let payload = json!({"item": "tea", "amount": 3});
    let mut connection: Connection = options(&server).connect().unwrap();
    let mut peer = server.connected("app", "bare");
    let question = peer.message("request", "echo", &payload);
    let question = frame(question.to_string().as_bytes());
    let mut bare =
        Bare { stream: peer.stream.try_clone().unwrap(), question, buffer: vec![0; 65536] };
    bare.request();
    // Without optimisation the client's own code is many times slower than in a release build.
    let bound = if cfg!(debug_assertions) { 2.0 } else { 1.1 };
    succeeds_once(|| {
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let floor = time(|| bare.request());
                let ours = time(|| drop(connection.request("echo", &payload).unwrap()));
                ours.as_secs_f64() / floor.as_secs_f64()
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[ROUNDS / 2];
        println!("a round trip of Connection is {ratio:.3} of a bare socket's");
        let failure = || format!("{ratio:.3} of a bare socket's round trip; all: {ratios:.3?}");
        (ratio <= bound).then_some(()).ok_or_else(failure)
    });
}

/// Returns how often the calling thread has gone to sleep.
#[cfg(target_os = "linux")]
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// A thread that is woken has slept: the caller once for its answer, as on a connection of its own,
/// and the driver once for the bytes.
#[cfg(target_os = "linux")]
#[test]
fn a_request_of_a_client_wakes_one_thread_more_than_one_of_a_connection() {
    let server = serve_echo();
    let mut options = client_options(&server);
    options.heartbeat = None;
    let client = options.connect().unwrap();
    let (sender, counts) = std::sync::mpsc::channel();
    let drivers_sleeps = || {
        let sender = sender.clone();
        client.send_request_async("echo", &0, move |_| sender.send(sleeps()).unwrap()).unwrap();
        counts.recv().unwrap()
    };
    succeeds_once(|| {
        let (drivers, own) = (drivers_sleeps(), sleeps());
        let requests = 1000;
        for n in 0..requests {
            client.request("echo", &n).unwrap();
        }
        let (own, drivers) = (sleeps() - own, drivers_sleeps() - drivers);
        println!("{requests} requests: the caller slept {own} times, the driver {drivers} times");
        // A tenth for the locks at which the two meet, and for the counting itself.
        let bound = requests + requests / 10;
        let failure = || format!("{own} and {drivers} in {requests} requests");
        (own <= bound && drivers <= bound).then_some(()).ok_or_else(failure)
    });
}
