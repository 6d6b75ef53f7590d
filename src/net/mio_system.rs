//! The real operating system, by way of mio.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Interest, Poll, Token, Waker};

use super::listener::Listener;
use super::stream::SocketStream;
use super::system::{Event, System, WAKER};
use crate::Error;
use crate::broker::Peer;

/// The longest sleep: mio passes timeouts on as 32-bit milliseconds.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(crate) struct MioSystem {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    start: Instant,
}

impl MioSystem {
    pub(super) fn new(events_max: usize) -> Result<Self, Error> {
        let poll = Poll::new().map_err(Error::system("an event queue"))?;
        let waker = Waker::new(poll.registry(), Token(WAKER)).map_err(Error::system("a waker"))?;
        Ok(Self {
            poll,
            events: Events::with_capacity(events_max),
            waker: Arc::new(waker),
            start: Instant::now(),
        })
    }

    /// Returns the start of the time that [`System::monotonic`] reports.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Returns a function that interrupts a poll from another thread.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        // A wake-up fails only if the descriptor of the event queue is closed, and the loop gone.
        move || drop(waker.wake())
    }
}

impl System for MioSystem {
    type Listener = Listener;
    type Stream = SocketStream;
    type Spare = File;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        let taken_before = events.len();
        self.poll.poll(&mut self.events, timeout.map(|timeout| timeout.min(SLEEP_MAX)))?;
        events.extend(self.events.iter().map(|event| {
            let finished = event.is_read_closed() || event.is_error();
            Event {
                token: event.token().0,
                readable: event.is_readable() || finished,
                writable: event.is_writable(),
                finished,
            }
        }));
        Ok(events.len() - taken_before >= self.events.capacity())
    }

    fn watch_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.poll.registry().register(listener.source(), Token(token), Interest::READABLE)
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(SocketStream, Peer)> {
        listener.accept()
    }

    fn has_handshakes(listener: &Listener) -> bool {
        listener.has_handshakes()
    }

    fn spare(&mut self) -> Option<File> {
        File::open("/dev/null").ok()
    }

    fn watch(&mut self, stream: &mut SocketStream, token: usize) -> io::Result<()> {
        stream.prepare()?;
        self.poll.registry().register(stream.source(), Token(token), Interest::READABLE)
    }

    fn watch_writable(
        &mut self,
        stream: &mut SocketStream,
        token: usize,
        wanted: bool,
    ) -> io::Result<()> {
        let interest =
            if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(stream.source(), Token(token), interest)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_clock(&self) -> Duration {
        // A machine whose clock is set before 1970 gets timestamps of 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl AsRawFd for MioSystem {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}
