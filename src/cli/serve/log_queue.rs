//! The log's path to standard error: a bounded queue and a thread that writes. A thread with an
//! event never waits for the reader of standard error, least of all the event loop.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use super::crash::{self, END_TIMEOUT};

/// Lines that may wait, which are more than the rate limit lets through at once.
const LINES_MAX: usize = 512;
/// A longer line is counted as lost.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Makes this thread write its events to standard error itself, however long that takes.
pub(super) fn bypass() {
    WRITES.set(true);
}

thread_local! {
    /// Set on threads that may wait for the reader of standard error: their lines bypass the queue.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// A queue of lines for standard error, one for each call.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<Shared>);

struct Shared {
    /// `None` after the end of the log.
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    lost: AtomicU64,
    /// Closed when everything has been written.
    written: Mutex<Receiver<()>>,
}

impl LogQueue {
    pub(super) fn start() -> io::Result<Self> {
        Self::over(io::stderr(), LINES_MAX, |lost| {
            tracing::warn!(lost, "lines of the log were lost, because nobody read them in time");
        })
    }

    /// Returns a queue of `lines_max` lines that is written to `out`. `tell` is called with the
    /// number of lost lines once the waiting lines have been written.
    fn over(
        mut out: impl Write + Send + 'static,
        lines_max: usize,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, lines) = sync_channel::<Vec<u8>>(lines_max);
        let (writing, written) = sync_channel(0);
        let shared = Arc::new(Shared {
            lines: Mutex::new(Some(sender)),
            lost: AtomicU64::new(0),
            written: Mutex::new(written),
        });
        let queue = Self(shared.clone());
        let write = move || {
            let _writing: SyncSender<()> = writing;
            bypass();
            loop {
                let next = lines.try_recv();
                if next.is_err() {
                    match shared.lost.swap(0, Ordering::Relaxed) {
                        0 => {}
                        lost => tell(lost),
                    }
                }
                let line = match next {
                    Err(TryRecvError::Empty) => lines.recv().ok(),
                    next => next.ok(),
                };
                let Some(line) = line else { return };
                // There is no place to report that the log cannot be written.
                let _ = out.write_all(&line);
            }
        };
        crash::spawn("log", write)?;
        Ok(queue)
    }

    fn lines(&self) -> MutexGuard<'_, Option<SyncSender<Vec<u8>>>> {
        // Changes to it are never left half done.
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let fits = line.len() <= LINE_BYTES_MAX;
        // After the end no thread is left to write it.
        let Some(lines) = &*self.lines() else { return };
        if !fits || lines.try_send(line.to_vec()).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the queue, and waits a while until its lines have been written.
    pub(super) fn finish(&self) {
        drop(self.lines().take());
        let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        // This is the end, whether everything was written or the time is over.
        let _ = written.recv_timeout(END_TIMEOUT);
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The subscriber writes a whole event in one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if WRITES.get() {
            io::stderr().write_all(line)?;
        } else {
            self.put(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A writer that accepts one write for each message it is given.
    struct Gate {
        words: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.words.recv().map_err(io::Error::other)?;
            self.taken.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_behind_what_does() {
        const LINES: usize = 4;
        let (word, words) = channel();
        let (taken, written) = channel();
        let told = taken.clone();
        let tell = move |lost: u64| told.send(format!("{lost} lost").into_bytes()).unwrap();
        let queue = LogQueue::over(Gate { words, taken }, LINES, tell).unwrap();
        for line in 0..10 {
            queue.put(format!("line {line}").as_bytes());
        }
        queue.put(&vec![0; LINE_BYTES_MAX + 1]);
        for _ in 0..10 {
            word.send(()).unwrap();
        }
        let mut lines = 0;
        let told = loop {
            let text = String::from_utf8(written.recv().unwrap()).unwrap();
            if text.ends_with("lost") {
                break text;
            }
            assert_eq!(text, format!("line {lines}"));
            lines += 1;
        };
        // The first line may have left the queue already.
        assert!((LINES..=LINES + 1).contains(&lines), "{lines}");
        assert_eq!(told, format!("{} lost", 11 - lines));
        queue.put(b"once more");
        assert_eq!(written.recv().unwrap(), b"once more");
        queue.finish();
        queue.put(b"too late");
        assert!(written.recv().is_err(), "its thread has ended");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (_word, words) = channel();
        let (taken, _written) = channel();
        let queue = LogQueue::over(Gate { words, taken }, 1, |_| {}).unwrap();
        queue.put(b"stuck");
        queue.finish();
    }
}
