//! The end of a run: the server has released everything, and its counters agree with the peers.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SAMPLE_INTERVAL;
use super::account::{Account, kind};
use super::expected::Compared;
use super::peer::Peer;
use super::samples::FREE_BYTES_MAX;
use super::server::Server;
use crate::endpoint::Endpoint;

/// The longest time in which the server notices that all peers have left.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// The memory that the server keeps in free buffers, and a little for the witness.
const KEPT_BYTES_MAX: u64 = FREE_BYTES_MAX + (1 << 20);
/// The name among the counters for the requests that `get_latency` has measured on the echo channel.
const ECHOES: &str = "latencies of the echo";
/// The application of the witness, which has the echo channel.
const WITNESS_APPLICATION: &str = "bench";

/// A peer that asks the server for its counters, and changes them as little as possible itself.
pub(super) struct Witness(Peer);

impl Witness {
    pub(super) fn appear(
        target: &Endpoint,
        account: &Rc<RefCell<Account>>,
    ) -> Result<Self, String> {
        Peer::connect(target, WITNESS_APPLICATION, "witness", account).map(Self)
    }

    pub(super) fn look(&mut self) -> Result<Value, String> {
        self.0.system(&json!({"action": "get_stats"}))
    }

    /// Returns the number of echo requests that the server measured.
    fn echoes(&mut self) -> Result<u64, String> {
        let latencies = self.0.system(&json!({"action": "get_latency"}))?;
        Ok(latencies["channels"]["echo"]["request"]["count"].as_u64().unwrap_or(0))
    }
}

/// Returns the statistics that must be the same as before the first peer connected. A difference is
/// a leak.
fn rests(stats: &Value) -> Value {
    let names = [
        "total_applications",
        "total_connections",
        "total_channels",
        "pending_requests",
        "buffered_bytes",
    ];
    names.iter().map(|name| ((*name).to_owned(), stats[name].clone())).collect()
}

/// Waits until the server has released everything, and checks its counters.
pub(super) fn settle(
    server: &Server,
    account: &mut Account,
    empty: &Value,
) -> Result<Vec<Compared>, String> {
    let own = Rc::<RefCell<Account>>::default();
    let mut witness = Witness::appear(&server.targets[0], &own)?;
    let echoes = witness.echoes()?;
    let begin = Instant::now();
    let stats = loop {
        let stats = witness.look()?;
        if rests(&stats) == rests(empty) {
            break stats;
        }
        if begin.elapsed() > SETTLE_MAX {
            let (left, before) = (rests(&stats), rests(empty));
            return Err(format!("all have left, and this is left: {left}, before: {before}"));
        }
        thread::sleep(SAMPLE_INTERVAL);
    };
    let held_bytes = stats["memory_bytes"].as_u64().unwrap_or(u64::MAX);
    if held_bytes > KEPT_BYTES_MAX {
        return Err(format!("all have left, and {held_bytes} B are held for them"));
    }
    account.merge(own.take());
    // The answer was written before the request for it and the answer itself were counted.
    account.expected.take_back("frames_in", 1);
    account.expected.take_back("frames_out", 1);
    account.expected.take_back("bytes_out", witness.0.last_frame_bytes);
    let due = account.outcomes.get(kind::HANDLER).map_or(0, |outcomes| outcomes.done);
    account.expected.add(ECHOES, due);
    let mut counters = stats["counters"].clone();
    counters[ECHOES] = echoes.into();
    account.expected.compare(&counters)
}

pub(super) fn until_descriptors(server: &mut Server, idle: usize) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let now = server.sample(Duration::ZERO)?.descriptors;
        if now <= idle {
            return Ok(());
        }
        if begin.elapsed() > SETTLE_MAX {
            return Err(format!("{now} descriptors are open after all left, {idle} before"));
        }
        thread::sleep(SAMPLE_INTERVAL);
    }
}
