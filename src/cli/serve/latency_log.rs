//! `--latency-log`: the latencies of each interval, in the log format that the tools of
//! `HdrHistogram` read. Values are nanoseconds; tags are `application/channel:measure`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, LineWriter};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use ipc_framework::{Context, Handle};

use super::crash;
use super::histograms::{self, Copied, Subject};
use crate::cli::failure::Failure;

const INTERVAL: Duration = Duration::from_secs(1);
/// Divisor for the maxima, which the format's tools expect in milliseconds, while the other values
/// are nanoseconds.
const NANOS_PER_MILLISECOND: f64 = 1_000_000.0;

/// A log with a thread that writes it.
#[derive(Debug)]
pub(super) struct LatencyLog {
    last: Sender<Vec<Copied>>,
    thread: JoinHandle<io::Result<()>>,
    path: PathBuf,
}

/// Checks a path as far as possible without writing there.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let checked = match fs::metadata(path) {
        Ok(found) if found.is_file() => OpenOptions::new().append(true).open(path).map(drop),
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // A pipe or a device is read at the other end, or will be.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            fs::read_dir(parent.unwrap_or(Path::new("."))).map(drop)
        }
        Err(error) => Err(error),
    };
    checked.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::runtime(format!(
        "cannot write the latency log {path}: {error}; check its path and permissions"
    ))
}

impl LatencyLog {
    pub(super) fn start(path: &Path, handle: Handle) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
        let (last, ending) = channel();
        let write = move || {
            let written = write(file, &handle, &ending);
            if let Err(error) = &written {
                // Reported now, not only at the end, because the log stops here.
                tracing::error!(%error, "the latency log cannot be written any more");
            }
            written
        };
        let thread = crash::spawn("latency-log", write).map_err(|error| {
            Failure::runtime(format!("cannot start the thread of the latency log: {error}"))
        })?;
        Ok(Self { last, thread, path: path.to_owned() })
    }

    /// Writes the last interval and ends the file.
    pub(super) fn finish(self, context: &Context<'_>) -> Result<(), Failure> {
        // If the thread has failed already, joining it returns the error.
        let _ = self.last.send(histograms::copy_all(context));
        let written = self.thread.join().unwrap_or_else(|_| unreachable!("a panic aborts"));
        written.map_err(|error| {
            let path = self.path.display();
            Failure::runtime(format!("the latency log {path} is not complete: {error}"))
        })
    }
}

fn write(file: File, handle: &Handle, ending: &Receiver<Vec<Copied>>) -> io::Result<()> {
    assert!(!crash::is_wanted("latency-log"), "a test wants this");
    // The clock of the machine may be set, so it names the start and measures nothing.
    let start = SystemTime::now();
    let clock = Instant::now();
    let mut serializer = V2DeflateSerializer::new();
    let mut before = Before::default();
    let mut began = Duration::ZERO;
    // Each interval is in the file as soon as it is over, so a full disk shows then.
    let mut out = LineWriter::new(file);
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Logged by ipc serve; values in nanoseconds]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(NANOS_PER_MILLISECOND)
        .begin_log_with(&mut out, &mut serializer)?;
    loop {
        let (now, ends) = match ending.recv_timeout(INTERVAL) {
            Ok(last) => (last, true),
            Err(RecvTimeoutError::Timeout) => match histograms::copy(handle) {
                Ok(now) => (now, false),
                // The server is ending, and will send the last interval.
                Err(_) => continue,
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let ended = clock.elapsed();
        for copied in now {
            let tag = tag(&copied.subject);
            if let Some(interval) = before.interval(copied) {
                log.write_histogram(&interval, began, ended.saturating_sub(began), Tag::new(&tag))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        before.forget_the_unseen();
        if ends {
            return Ok(());
        }
        began = ended;
    }
}

/// The last copy of each histogram, by its serial.
#[derive(Default)]
struct Before {
    seen: HashMap<u64, (Histogram<u32>, u8)>,
}

/// Intervals for which an unseen histogram is remembered. A copy may miss it when others disappear.
const UNSEEN_MAX: u8 = 3;

impl Before {
    /// Returns the values recorded since it was last seen, if there are any.
    fn interval(&mut self, copied: Copied) -> Option<Histogram<u32>> {
        let mut interval = copied.nanos.clone();
        if let Some((before, _)) = self.seen.insert(copied.serial, (copied.nanos, 0)) {
            // A histogram only grows, so this never fails.
            interval.subtract(before).ok()?;
        }
        (!interval.is_empty()).then_some(interval)
    }

    fn forget_the_unseen(&mut self) {
        self.seen.retain(|_, (_, unseen)| {
            *unseen += 1;
            *unseen <= UNSEEN_MAX
        });
    }
}

/// Returns the tag of a subject. A tag ends at a comma, a space or a line break.
fn tag(subject: &Subject) -> String {
    let Subject { application, channel, measure } = subject;
    let tag = format!("{application}/{channel}:{}", measure.as_str());
    tag.replace(|c: char| c == ',' || c.is_whitespace() || c.is_control(), "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_what_came_since_and_another_histogram_begins_anew() {
        let subject = Subject {
            application: "app".to_owned(),
            channel: "c".to_owned(),
            measure: ipc_framework::Measure::Queue,
        };
        let copied = |serial, count| {
            let mut nanos = Histogram::<u32>::new(2).unwrap();
            nanos.record_n(1, count).unwrap();
            Copied { subject: subject.clone(), serial, is_gone: false, nanos }
        };
        let mut before = Before::default();
        let mut count = |serial, now| before.interval(copied(serial, now)).map_or(0, |i| i.len());
        assert_eq!((count(1, 10), count(1, 15), count(1, 15)), (10, 5, 0));
        // After a reset, or if the channel was created anew, with more values than before.
        assert_eq!((count(2, 40), count(2, 41)), (40, 1));
        before.forget_the_unseen();
        assert_eq!(before.interval(copied(1, 16)).unwrap().len(), 1, "missed once");
        (0..=UNSEEN_MAX).for_each(|_| before.forget_the_unseen());
        assert!(before.seen.is_empty());
    }
}
