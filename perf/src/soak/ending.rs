//! The end of a run: nothing is left of those who came, and the server counted what they saw.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SAMPLE_INTERVAL;
use super::account::{Account, kind};
use super::expected::Compared;
use super::peer::{Peer, Target};
use super::samples::FREE_BYTES_MAX;
use super::server::Server;

/// Time for the server to notice that everybody has left.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// What the server keeps in free buffers, and a little for who asks.
const KEPT_BYTES_MAX: u64 = FREE_BYTES_MAX + (1 << 20);
/// What `get_latency` knows of the echo, among the counters.
const ECHOES: &str = "latencies of the echo";
/// The application of the one who asks what was counted, where the echo is.
const WITNESS_APPLICATION: &str = "bench";

/// Who asks the server what it counted, and is in its own way as little as can be.
pub(super) struct Witness(Peer);

impl Witness {
    pub(super) fn appear(target: &Target, account: &Rc<RefCell<Account>>) -> Result<Self, String> {
        Peer::connect(target, WITNESS_APPLICATION, "witness", account).map(Self)
    }

    pub(super) fn look(&mut self) -> Result<Value, String> {
        self.0.system(&json!({"action": "get_stats"}))
    }

    /// How many echoes the server measured.
    fn echoes(&mut self) -> Result<u64, String> {
        let latencies = self.0.system(&json!({"action": "get_latency"}))?;
        Ok(latencies["channels"]["echo"]["request"]["count"].as_u64().unwrap_or(0))
    }
}

/// What has to be as it was when nobody was there: a rest is a leak.
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

/// When all have left, nothing is left of them, and the server counted what they saw.
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
    // What asks for it and the answer that tells it were not counted when it was written.
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
