//! `--latency-log`: what was measured, interval by interval, in the log format that the tools
//! of `HdrHistogram` read. Values are nanoseconds; tags are `application/channel:measure`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use ipc_framework::{Context, Handle};

use super::super::Failure;
use super::histograms::{self, Histograms, Subject};

const INTERVAL: Duration = Duration::from_secs(1);
/// The log's times are seconds since its start, its maxima milliseconds as the format's
/// tools expect, with everything else in nanoseconds.
const NANOS_PER_MILLISECOND: f64 = 1_000_000.0;

/// A log that a thread of its own writes.
#[derive(Debug)]
pub(super) struct LatencyLog {
    last: Sender<Histograms>,
    thread: JoinHandle<io::Result<()>>,
    path: PathBuf,
}

impl LatencyLog {
    pub(super) fn start(path: &Path, handle: Handle) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| {
            let path = path.display();
            Failure::runtime(format!(
                "cannot write the latency log {path}: {error}; check its path and permissions"
            ))
        })?;
        let (last, ending) = channel();
        let write = move || write(&mut BufWriter::new(file), &handle, &ending);
        let thread = std::thread::Builder::new().name("latency-log".to_owned()).spawn(write);
        let thread = thread.map_err(|error| {
            Failure::runtime(format!("cannot start the thread of the latency log: {error}"))
        })?;
        Ok(Self { last, thread, path: path.to_owned() })
    }

    /// Writes what the last interval holds, and the file's end.
    pub(super) fn finish(self, context: &Context<'_>) -> Result<(), Failure> {
        // A thread that has failed already says so when it is joined.
        let _ = self.last.send(histograms::copy_all(context));
        let written = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a bug of ours")));
        written.map_err(|error| {
            let path = self.path.display();
            Failure::runtime(format!("the latency log {path} is not complete: {error}"))
        })
    }
}

fn write(out: &mut impl Write, handle: &Handle, ending: &Receiver<Histograms>) -> io::Result<()> {
    let start = SystemTime::now();
    let since_start = || start.elapsed().unwrap_or_default();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Logged by ipc serve; values in nanoseconds]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(NANOS_PER_MILLISECOND)
        .begin_log_with(out, &mut serializer)?;
    let mut before = Histograms::new();
    let mut began = Duration::ZERO;
    loop {
        let (now, ends) = match ending.recv_timeout(INTERVAL) {
            Ok(last) => (last, true),
            Err(RecvTimeoutError::Timeout) => match histograms::copy(handle) {
                Ok(now) => (now, false),
                // It ends; what it had measured comes with that.
                Err(_) => continue,
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let ended = since_start();
        for (subject, histogram) in &now {
            let interval = difference(histogram, before.get(subject));
            if !interval.is_empty() {
                let tag = tag(subject);
                log.write_histogram(&interval, began, ended.saturating_sub(began), Tag::new(&tag))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        if ends {
            return Ok(());
        }
        (before, began) = (now, ended);
    }
}

/// What was recorded since `before`; all of it if there was a reset in between.
fn difference(now: &Histogram<u32>, before: Option<&Histogram<u32>>) -> Histogram<u32> {
    let mut interval = now.clone();
    if let Some(before) = before
        && interval.subtract(before).is_err()
    {
        return now.clone();
    }
    interval
}

/// Tags end at a comma, a space or a line's end.
fn tag(subject: &Subject) -> String {
    let Subject { application, channel, measure } = subject;
    let tag = format!("{application}/{channel}:{}", measure.as_str());
    tag.replace(|c: char| c == ',' || c.is_whitespace() || c.is_control(), "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_what_came_since_and_a_reset_begins_anew() {
        let mut before = Histogram::<u32>::new(2).unwrap();
        before.record(10).unwrap();
        let mut now = before.clone();
        now.record(1_000).unwrap();
        assert_eq!(difference(&now, Some(&before)).len(), 1);
        assert_eq!(difference(&now, None).len(), 2);
        let mut anew = Histogram::<u32>::new(2).unwrap();
        anew.record(7).unwrap();
        assert_eq!(difference(&anew, Some(&now)).len(), 1);
    }
}
