//! Ctrl-C, for subcommands that run until then and show something at the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use super::failure::Failure;

/// Time between checks for an interrupt during a wait.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Notes that a signal asked for the end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    noted: Arc<AtomicBool>,
    noted_again: Arc<AtomicBool>,
}

impl Interrupt {
    /// Notes the first SIGINT or SIGTERM; a second one ends the program at once.
    pub(super) fn watch() -> Result<Self, Failure> {
        let noted: Arc<AtomicBool> = Arc::default();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal must find nothing noted.
            flag::register_conditional_shutdown(signal, 128 + signal, noted.clone())
                .and_then(|_| flag::register(signal, noted.clone()))
                .map_err(cannot_watch)?;
        }
        Ok(Self { noted, noted_again: Arc::default() })
    }

    /// Notes the first and the second SIGINT or SIGTERM; a third one ends the program at once.
    pub(super) fn watch_twice() -> Result<Self, Failure> {
        let watched = Self { noted: Arc::default(), noted_again: Arc::default() };
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(cannot_watch)?;
        let Self { noted, noted_again } = watched.clone();
        let note = move || {
            for signal in signals.forever() {
                if noted.swap(true, Ordering::Relaxed) && noted_again.swap(true, Ordering::Relaxed)
                {
                    std::process::exit(128 + signal);
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(note).map_err(cannot_watch)?;
        Ok(watched)
    }

    pub(super) fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// Set by the second signal, if that does not end the program.
    pub(super) fn again(&self) -> Arc<AtomicBool> {
        self.noted_again.clone()
    }

    /// Sleeps until the time is over or the interrupt comes.
    pub(super) fn sleep(&self, duration: Duration) {
        let begin = std::time::Instant::now();
        while let Some(left) = duration.checked_sub(begin.elapsed())
            && !left.is_zero()
            && !self.is_noted()
        {
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn cannot_watch(error: io::Error) -> Failure {
    Failure::runtime(format!("cannot watch for signals: {error}"))
}
