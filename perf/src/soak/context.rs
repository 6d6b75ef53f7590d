//! The means of a role: its connections, its random choices and its account.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::account::Account;
use super::peer::Peer;
use crate::endpoint::Endpoint;

const LARGE_BYTES_MAX: usize = 1_000_000;
/// The most bytes that a script sends before anybody reads. Together with the envelopes they stay
/// below the high-water mark of a queue (1 MiB), above which the server would be right to close the
/// reader as a slow consumer.
pub(super) const UNREAD_BYTES_MAX: usize = 1_000_000;

/// The random choices of a role, which are the same for the same seed.
#[derive(Debug)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    /// Begins one of the streams of a seed. Different streams are independent.
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

    /// Returns a payload that differs from all others, so that one that is altered or mixed up does
    /// not compare equal.
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

/// The server that all roles share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Harness<'a> {
    pub(super) targets: &'a [Endpoint],
    pub(super) server: Pid,
    /// The file from which the server reads its settings at SIGHUP.
    pub(super) settings: &'a Path,
    pub(super) stop: &'a AtomicBool,
}

/// The context of one role, which has an application of its own.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) harness: Harness<'a>,
    pub(super) application: String,
    /// A name that is unique in this application. Roles in other applications use it, too.
    pub(super) round: String,
    pub(super) account: Rc<RefCell<Account>>,
}

impl Context<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.harness.stop.load(Ordering::Relaxed)
    }

    pub(super) fn target(&self, random: &mut Random) -> &Endpoint {
        self.harness.targets.choose(&mut random.0).unwrap_or_else(|| unreachable!("two at least"))
    }

    pub(super) fn connect(&self, random: &mut Random, id: &str) -> Result<Peer, String> {
        Peer::connect(self.target(random), &self.application, id, &self.account)
    }

    /// Connects to an application that other roles use, too.
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

    /// Expects the server to count so many more.
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
