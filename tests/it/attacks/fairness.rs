//! A client that sends without pause beside one that sends now and then.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Limits};
use serde_json::{Value, json};

use super::kernel_bytes;
use crate::support::{Peer, TestServer, frame, install_echo, serve, serve_echo, until};

const REQUESTS: usize = 400;
const ROUNDS: usize = 9;
const TRIES: usize = 5;
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

/// The loop is held while both clients send, so that the order is the server's alone: how soon each
/// process runs depends on the machine. The chatty client has waited longer and has more to say.
#[test]
fn a_quiet_client_waits_for_a_turn_of_a_chatty_one_at_most() {
    const CHATTY: &str = "and another thing";
    const STAGED: usize = 2_048;
    const HELD_ROUNDS: usize = 20;
    let turn = Limits::default().turn.frames_per_connection_max;
    let (handled, order) = channel();
    let (entered, is_held) = channel();
    let (release, released) = channel::<()>();
    let server = serve(Config::default(), |server| {
        install_echo(server);
        let mut application = server.application("app", "The App");
        application.channel("told").on_request(move |request| {
            let payload = request.json();
            handled.send(request.payload::<String>()? == CHATTY)?;
            request.reply_json(&payload)
        });
        application.channel("hold").on_request(move |request| {
            entered.send(())?;
            released.recv()?;
            let payload = request.json();
            request.reply_json(&payload)
        });
    });
    let mut holder = server.connected("app", "holder");
    let mut quiet = server.connected("app", "quiet");
    let mut chatty = server.connected("app", "chatty");
    let talk = frame(chatty.message("request", "told", &json!(CHATTY)).to_string().as_bytes());
    let question =
        frame(quiet.message("request", "told", &json!("one question")).to_string().as_bytes());
    let hold = frame(holder.message("request", "hold", &json!(null)).to_string().as_bytes());
    let several_turns = 3 * turn * talk.len();
    for _ in 0..HELD_ROUNDS {
        holder.stream.write_all(&hold).unwrap();
        is_held.recv().expect("the loop calls the handler");
        let mut writer = chatty.reader();
        let talk = talk.repeat(STAGED);
        let talking = std::thread::spawn(move || writer.stream.write_all(&talk).unwrap());
        until(
            "several turns of requests",
            || kernel_bytes(server.address.port()).1,
            |unread| *unread >= several_turns,
        );
        quiet.stream.write_all(&question).unwrap();
        release.send(()).unwrap();
        for _ in 0..STAGED {
            chatty.try_receive_body().unwrap();
        }
        quiet.try_receive_body().unwrap();
        holder.try_receive_body().unwrap();
        talking.join().unwrap();
        let order: Vec<bool> = order.try_iter().collect();
        let waited_for = order.iter().take_while(|is_chatty| **is_chatty).count();
        assert_eq!(order.len(), STAGED + 1);
        // The kernel may deliver the question just after the loop has looked.
        assert!(waited_for <= 2 * turn, "it waited for {waited_for} requests of the chatty client");
    }
}

/// Its requests take the server long to answer, and the answers are short.
#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn a_quiet_client_is_answered_nearly_as_soon_beside_a_curious_one() {
    assert_fair("curious", Chatty::curious, CURIOUS_RATIO_MAX);
}
