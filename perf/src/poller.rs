//! Epoll, level-triggered: a connection is read once for every time it is reported.

use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};

/// A way to wait for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It sleeps in the kernel.
    Block,
    /// It polls without sleeping.
    Spin,
}

/// The longest silence of a peer. After it, the peer must have lost a message.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

/// The events that a connection is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
}

/// A connection that is ready, by its token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

const EVENTS_MAX: usize = 1_024;

impl Poller {
    pub(crate) fn new() -> Result<Self, String> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(cannot)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize) -> Result<(), String> {
        let data = EventData::new_u64(token as u64);
        epoll::add(&self.epoll, fd, data, EventFlags::IN).map_err(cannot)
    }

    pub(crate) fn set_interest(
        &self,
        fd: impl AsFd,
        token: usize,
        interest: Interest,
    ) -> Result<(), String> {
        let flags = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        };
        epoll::modify(&self.epoll, fd, EventData::new_u64(token as u64), flags).map_err(cannot)
    }

    /// Waits for events, and returns how many there are. A wait that sleeps fails if none comes
    /// within [`SILENCE_MAX`].
    pub(crate) fn wait(&mut self, wait: Wait) -> Result<usize, String> {
        let timeout = match wait {
            Wait::Block => SILENCE_MAX,
            Wait::Spin => Duration::ZERO,
        };
        let found = self.wait_for(Some(timeout))?;
        if found == 0 && wait == Wait::Block {
            return Err(format!("the peer said nothing for {} s", SILENCE_MAX.as_secs()));
        }
        Ok(found)
    }

    /// Waits without a limit, as a server does.
    pub(crate) fn wait_forever(&mut self, wait: Wait) -> Result<usize, String> {
        self.wait_for((wait == Wait::Spin).then_some(Duration::ZERO))
    }

    fn wait_for(&mut self, timeout: Option<Duration>) -> Result<usize, String> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(self.events.len()),
            Err(error) => Err(cannot(error)),
        }
    }

    pub(crate) fn ready(&self, at: usize) -> Ready {
        let Event { flags, data } = self.events[at];
        Ready {
            token: data.u64() as usize,
            // The next read reports an error or the end.
            readable: flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP),
            writable: flags.contains(EventFlags::OUT),
        }
    }
}

fn cannot(error: rustix::io::Errno) -> String {
    format!("waiting for sockets failed: {error}")
}
