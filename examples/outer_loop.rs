//! A server inside an event loop of the program's own, here mio's: `cargo run --example outer_loop`.
//!
//! The loop has work of its own, a tick that it publishes, and sleeps until the next thing that
//! either of the two has to do.

use std::error::Error;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Server};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

const SERVER: Token = Token(0);
const TICK: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    run(Server::bind(Config::default())?)
}

/// Runs until the server is stopped and drained.
pub(crate) fn run(mut server: Server) -> Result<(), Box<dyn Error>> {
    server.application("clock", "Clock").channel("ask").on_request(|request| request.reply(&0));
    let mut poll = Poll::new()?;
    // A descriptor that mio watches is reported once for each change, never for what is left.
    let descriptor = server.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), SERVER, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let (mut ticks, mut next_tick) = (0_u64, Instant::now() + TICK);
    loop {
        // The deadline is asked for before each wait: every turn may change it, and where a turn
        // has left something undone it is a time gone by.
        let deadline = server.next_deadline().map_or(next_tick, |due| due.min(next_tick));
        let timeout = deadline.saturating_duration_since(Instant::now());
        match poll.poll(&mut events, Some(timeout)) {
            // A signal has interrupted the wait. Whatever is due is looked at all the same.
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(error.into()),
            Ok(()) => {}
        }
        for event in &events {
            // Other sources of the program have other tokens.
            debug_assert_eq!(event.token(), SERVER);
        }
        if Instant::now() >= next_tick {
            (ticks, next_tick) = (ticks + 1, next_tick + TICK);
            server.context().publish("clock", "ticks", &ticks)?;
        }
        // One turn, whether the descriptor or the deadline has ended the wait. A turn without
        // work costs one system call.
        if !server.poll_once(Some(Duration::ZERO))? {
            return Ok(());
        }
    }
}
