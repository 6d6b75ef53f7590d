//! Connecting again after the server went away, for subcommands that run until they are stopped.

use std::time::{Duration, Instant};

use ipc_framework::client::{Connection, Endpoint, Error, Fault, Options};

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::output::tell;
use super::target::Target;

/// Bounds of the pause between two attempts, which doubles with each attempt that fails.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Connects again after losses, with pauses that grow until a connection has been of use.
pub(super) struct Comeback {
    target: Target,
    /// `None` if an interrupt ends the program by itself.
    interrupt: Option<Interrupt>,
    /// Attempts in a row that brought no connection of use.
    failures: u32,
}

/// Returns whether a later connection may fare better: the server is gone, full or about to end.
pub(super) fn is_temporary(error: &Error) -> bool {
    let is_gone = || error.fault() == Fault::Server && !matches!(error, Error::Unsupported { .. });
    matches!(error, Error::Deadline { .. } | Error::Tls { .. }) || is_gone()
}

impl Comeback {
    pub(super) fn new(target: &Target, interrupt: Option<&Interrupt>) -> Self {
        Self { target: target.clone(), interrupt: interrupt.cloned(), failures: 0 }
    }

    /// Notes that the connection has served something, so that its loss is no failed attempt.
    pub(super) fn note_use(&mut self) {
        self.failures = 0;
    }

    /// Waits for a server, and returns a connection on which `prepare` has succeeded; `None` if
    /// an interrupt came first. Of several servers it begins behind `lost`, the one that went away.
    pub(super) fn connect(
        &mut self,
        lost: &Endpoint,
        mut prepare: impl FnMut(&mut Connection) -> Result<(), Error>,
    ) -> Result<Option<Connection>, Failure> {
        let mut refused = None;
        loop {
            self.pause();
            if self.is_interrupted() {
                return Ok(None);
            }
            // Files with tokens and certificates may have been renewed.
            let options = behind(lost, self.target.options()?);
            let connected = options.connect().and_then(|mut connection| {
                prepare(&mut connection)?;
                Ok(connection)
            });
            match connected {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if !is_temporary(&error) => return Err(error.into()),
                // A server that refuses may need somebody's attention.
                Err(Error::Answered { code, text }) if refused != Some(code) => {
                    refused = Some(code);
                    tell(&format!("the server refuses: {text} ({code})"));
                }
                Err(_) => {}
            }
        }
    }

    /// Pauses for a random time, so that clients that lost the same server do not return at once.
    fn pause(&mut self) {
        let bound = PAUSE_MIN.saturating_mul(2u32.saturating_pow(self.failures)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        let pause = bound.mul_f64(share);
        match &self.interrupt {
            Some(interrupt) => interrupt.sleep(pause),
            None => std::thread::sleep(pause),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(Interrupt::is_noted)
    }
}

/// Gives all other servers their turn before this one.
fn behind(lost: &Endpoint, mut options: Options) -> Options {
    let mut servers = vec![options.endpoint];
    servers.append(&mut options.alternatives);
    let turn = servers.iter().position(|server| server == lost).map_or(0, |at| at + 1);
    servers.rotate_left(turn);
    options.endpoint = servers.remove(0);
    options.alternatives = servers;
    options
}

/// Returns the time since `begin` as people read it.
pub(super) fn shown_since(begin: Instant) -> String {
    let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_that_went_away_comes_last() {
        let port = |endpoint: &Endpoint| endpoint.to_string();
        let turns = |lost: &str| {
            let mut servers = Endpoint::list("a:1,b:1,c:1", 1).unwrap_or_default();
            let mut options = Options::new("app");
            options.endpoint = servers.remove(0);
            options.alternatives = servers;
            let options = behind(&Endpoint::tcp(lost, 1), options);
            std::iter::once(&options.endpoint).chain(&options.alternatives).map(port).collect()
        };
        let turns: [Vec<String>; 4] = ["a", "b", "c", "another"].map(turns);
        assert_eq!(turns[0], ["b:1", "c:1", "a:1"]);
        assert_eq!(turns[1], ["c:1", "a:1", "b:1"]);
        assert_eq!(turns[2], ["a:1", "b:1", "c:1"]);
        assert_eq!(turns[3], ["a:1", "b:1", "c:1"]);
    }
}
