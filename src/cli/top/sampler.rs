//! Takes samples on a thread of its own, so that a slow server does not delay keys.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use ipc_framework::client::{Connection, Endpoint, Options};

use super::sample::Sample;
use crate::cli::failure::Failure;

/// A sample, and the server that it is of.
type Taken = Result<(Endpoint, Sample), Failure>;

pub(super) struct Sampler {
    wanted: SyncSender<()>,
    taken: Receiver<Taken>,
    /// The time since which a sample has been awaited.
    since: Option<Instant>,
}

impl Sampler {
    /// The thread ends when this is dropped, or with the program if the server keeps it waiting.
    pub(super) fn start(options: Options, connection: Connection) -> Result<Self, Failure> {
        let (wanted, wishes) = sync_channel(1);
        let (results, taken) = sync_channel(1);
        let sample = move || {
            let mut connection = Some(connection);
            while wishes.recv().is_ok() {
                if results.send(take(&options, &mut connection)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sampler".to_owned()).spawn(sample).map_err(|error| {
            Failure::runtime(format!("cannot start a thread to ask the server: {error}"))
        })?;
        Ok(Self { wanted, taken, since: None })
    }

    /// Asks for a sample, unless one is awaited already.
    pub(super) fn want(&mut self) {
        if self.since.is_none() && self.wanted.try_send(()).is_ok() {
            self.since = Some(Instant::now());
        }
    }

    /// Returns the sample or its failure, once there is one.
    pub(super) fn taken(&mut self) -> Option<Taken> {
        let taken = match self.taken.try_recv() {
            Ok(taken) => taken,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(Failure::runtime("a bug of ours")),
        };
        self.since = None;
        Some(taken)
    }

    pub(super) fn waited(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Takes a sample, and connects again if the last one failed, because a server that went away may
/// come back.
fn take(options: &Options, connection: &mut Option<Connection>) -> Taken {
    let mut current = match connection.take() {
        Some(current) => current,
        None => options.connect()?,
    };
    let sample = Sample::take(&mut current)?;
    let endpoint = current.endpoint().clone();
    *connection = Some(current);
    Ok((endpoint, sample))
}
