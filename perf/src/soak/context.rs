//! What a role has to act with.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::account::Account;
use super::peer::{Peer, Target};

const LARGE_BYTES_MAX: usize = 1_000_000;
/// What a script sends before anybody reads. With the envelopes it stays below the high-water
/// mark of a queue (1 MiB): past that the server rightly closes the reader as too slow.
pub(super) const UNREAD_BYTES_MAX: usize = 1_000_000;

/// Every choice of a role: the same seed makes the same ones.
#[derive(Debug)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    /// The `stream`s of a seed have nothing to do with one another.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self(random)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        all.shuffle(&mut self.0);
    }

    /// Unlike any other: what is altered or mixed up does not compare equal.
    pub(super) fn payload(&mut self, number: usize, room_bytes: &mut usize) -> Value {
        let bytes = match self.below(100) {
            0 => self.below(LARGE_BYTES_MAX),
            1..10 => self.below(20_000),
            _ => self.below(300),
        };
        let bytes = bytes.min(*room_bytes);
        *room_bytes -= bytes;
        let mut text = String::with_capacity(bytes + 20);
        while text.len() < bytes {
            text.push_str(&self.0.random::<u64>().to_string());
        }
        json!({"number": number, "nonce": self.0.random::<u64>(), "text": text})
    }
}

/// What the roles share: the server that lives as long as they play.
#[derive(Clone, Copy, Debug)]
pub(super) struct Harness<'a> {
    pub(super) targets: &'a [Target],
    pub(super) server: Pid,
    /// Where the server reads its settings at SIGHUP.
    pub(super) settings: &'a Path,
    pub(super) stop: &'a AtomicBool,
}

/// A role's own: no other role speaks in its application.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) harness: Harness<'a>,
    pub(super) application: String,
    /// What nothing else in this round has as a name; the same in other applications.
    pub(super) round: String,
    pub(super) account: Rc<RefCell<Account>>,
}

impl Context<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.harness.stop.load(Ordering::Relaxed)
    }

    pub(super) fn target(&self, random: &mut Random) -> &Target {
        self.harness.targets.choose(&mut random.0).unwrap_or_else(|| unreachable!("two at least"))
    }

    pub(super) fn connect(&self, random: &mut Random, id: &str) -> Result<Peer, String> {
        Peer::connect(self.target(random), &self.application, id, &self.account)
    }

    /// Into an application that others are in, too.
    pub(super) fn connect_to(
        &self,
        random: &mut Random,
        application: &str,
        id: &str,
    ) -> Result<Peer, String> {
        Peer::connect(self.target(random), application, id, &self.account)
    }

    pub(super) fn fault(&self, what: &'static str) {
        self.account.borrow_mut().fault(what);
    }

    pub(super) fn sent(&self, kind: &'static str, count: usize) {
        self.account.borrow_mut().sent(kind, count as u64);
    }

    pub(super) fn done(&self, kind: &'static str, count: usize) {
        self.account.borrow_mut().done(kind, count as u64);
    }

    /// The server counts so many more.
    pub(super) fn expect(&self, counter: &str, count: usize) {
        self.account.borrow_mut().expected.add(counter, count as u64);
    }

    pub(super) fn perhaps(&self, counter: &str, count: usize) {
        self.account.borrow_mut().expected.perhaps(counter, count as u64);
    }

    pub(super) fn reload(&self) -> Result<(), String> {
        let sent = kill_process(self.harness.server, Signal::HUP);
        sent.map_err(|error| format!("cannot signal the server: {error}"))
    }
}
