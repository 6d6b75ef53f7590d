//! A client that sends without pause beside one that sends now and then.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_framework::Limits;
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, frame, serve_echo};

const REQUESTS: usize = 400;
const ROUNDS: usize = 9;
const TRIES: usize = 5;
const RATIO_MAX: f64 = 3.0;
/// The bound beside a client that makes the server go over thousands of channels. That happens once
/// a turn and takes as long as some requests. All of its requests at once would take a thousand
/// times as long.
const CURIOUS_RATIO_MAX: f64 = 20.0;

/// Returns the time within which 99 of 100 requests are answered.
fn p99(peer: &mut Peer, payload: &Value) -> Duration {
    let mut times: Vec<Duration> = (0..REQUESTS)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(peer.request("echo", payload.clone()), *payload);
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[REQUESTS * 99 / 100]
}

/// A client that keeps many requests in flight while it is allowed to.
struct Chatty {
    may_talk: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

/// Enough for many turns, and few enough to be answered before the client reads.
const IN_FLIGHT: usize = 2_048;

impl Chatty {
    fn beside(server: &TestServer) -> Self {
        let mut peer = server.connected("app", "chatty");
        let request = peer.message("request", "echo", &json!("and another thing"));
        Self::asking(peer, &request, IN_FLIGHT)
    }

    /// A client that asks for the latencies of its channels, of which it has as many as it may.
    fn curious(server: &TestServer) -> Self {
        let mut peer = server.connected("app", "curious");
        for at in 0..Limits::default().channels_per_connection_max {
            peer.send("subscribe", &format!("channel {at}"), json!({}));
        }
        peer.fence();
        let request = peer.message("request", "system", &json!({"action": "get_latency"}));
        Self::asking(peer, &request, IN_FLIGHT / 16)
    }

    fn asking(mut peer: Peer, request: &Value, in_flight: usize) -> Self {
        let (may_talk, is_over, answered) = Default::default();
        let mut chatty = Self { may_talk, is_over, answered, thread: std::thread::spawn(|| {}) };
        let (may_talk, is_over, answered) =
            (chatty.may_talk.clone(), chatty.is_over.clone(), chatty.answered.clone());
        let bytes = frame(request.to_string().as_bytes()).repeat(in_flight);
        chatty.thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if !may_talk.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                peer.stream.write_all(&bytes).unwrap();
                for _ in 0..in_flight {
                    peer.try_receive_body().unwrap();
                }
                answered.fetch_add(in_flight as u64, Ordering::Relaxed);
            }
        });
        chatty
    }

    /// Measures while this client sends. Returns the result, and how many answers it got meanwhile.
    fn while_talking(&self, measure: impl FnOnce() -> Duration) -> (Duration, u64) {
        self.may_talk.store(true, Ordering::Relaxed);
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
        let measured = measure();
        self.may_talk.store(false, Ordering::Relaxed);
        (measured, self.answered.load(Ordering::Relaxed) - before)
    }
}

/// Checks that a quiet client is not slowed down. The chatty one talks to another server and to
/// this one in turn, so that it takes as much of the processors in both, and other load on the
/// machine affects both alike. The median of the rounds' ratios is compared with the bound, and a
/// busy machine has several tries.
fn assert_fair(kind: &str, chatty: fn(&TestServer) -> Chatty, ratio_max: f64) {
    let server = serve_echo();
    let mut quiet = server.connected("app", "quiet");
    let beside_it = chatty(&server);
    let elsewhere = serve_echo();
    let chatty_elsewhere = chatty(&elsewhere);
    let payload = json!({"item": "tea"});
    p99(&mut quiet, &payload);
    let mut found = Vec::new();
    let is_fair = (0..TRIES).any(|_| {
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let (alone, _) = chatty_elsewhere.while_talking(|| p99(&mut quiet, &payload));
                let (beside, said) = beside_it.while_talking(|| p99(&mut quiet, &payload));
                assert!(said > REQUESTS as u64 / 4, "it said {said} things: that is not {kind}");
                beside.as_secs_f64() / alone.as_secs_f64()
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        found.push(ratios[ROUNDS / 2]);
        ratios[ROUNDS / 2] <= ratio_max
    });
    println!("p99 of a quiet client beside a {kind} one, to one that talks elsewhere: {found:.2?}");
    for chatty in [beside_it, chatty_elsewhere] {
        chatty.is_over.store(true, Ordering::Relaxed);
        chatty.thread.join().unwrap();
    }
    assert!(is_fair, "p99 is {found:.2?} times as long");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_quiet_client_is_answered_nearly_as_soon_beside_a_chatty_one() {
    assert_fair("chatty", Chatty::beside, RATIO_MAX);
}

/// Its requests take the server long to answer, and the answers are short.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_quiet_client_is_answered_nearly_as_soon_beside_a_curious_one() {
    assert_fair("curious", Chatty::curious, CURIOUS_RATIO_MAX);
}
