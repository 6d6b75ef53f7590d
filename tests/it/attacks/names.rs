//! Names that would collide in a table whose hash function an attacker knows.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Peer, frames, serve_echo};

const NAMES: usize = 4_000;
const ROUNDS: usize = 9;
const TRIES: usize = 5;
const RATIO_MAX: f64 = 1.5;

/// FNV-1a has no key, so names that collide in it collide in every server.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Returns names of equal length. Those that collide agree in the bits that choose a place in a
/// table of this size.
fn names(collide: bool) -> Vec<String> {
    let all = (0_u64..).map(|at| format!("channel-{at:012}"));
    let bits = NAMES.next_power_of_two() as u64 - 1;
    all.filter(|name| !collide || fnv(name) & bits == 0).take(NAMES).collect()
}

/// Sends one notification to each of the names, which nobody handles. The server looks up each of
/// them, because a connection does not remember so many.
struct Round {
    peer: Peer,
    bytes: Vec<u8>,
}

impl Round {
    fn of(mut peer: Peer, names: &[String]) -> Self {
        for name in names {
            peer.subscribe(name);
        }
        let message = |name: &String| peer.message("notification", name, &json!(null));
        let messages: Vec<Value> = names.iter().map(message).collect();
        let bytes = frames(&messages);
        Self { peer, bytes }
    }

    fn time(&mut self) -> Duration {
        let begin = Instant::now();
        self.peer.stream.write_all(&self.bytes).unwrap();
        self.peer.fence();
        begin.elapsed()
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a step of tests/run has it optimised")]
fn names_made_to_collide_are_looked_up_as_fast_as_others() {
    let server = serve_echo();
    // Each application has its own table.
    let mut chosen = Round::of(server.connected("chosen", "peer"), &names(true));
    let mut usual = Round::of(server.connected("usual", "peer"), &names(false));
    chosen.time();
    usual.time();
    assert!(server.stats().total_channels >= 2 * NAMES);
    let mut found = Vec::new();
    let is_fair = (0..TRIES).any(|_| {
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let usual = usual.time();
                chosen.time().as_secs_f64() / usual.as_secs_f64()
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        found.push(ratios[ROUNDS / 2]);
        ratios[ROUNDS / 2] <= RATIO_MAX
    });
    println!("names that collide under FNV-1a, to others: {found:.2?}");
    assert!(is_fair, "they take {found:.2?} times as long");
}
