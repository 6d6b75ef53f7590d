//! Ctrl-C, for subcommands that run until then and have something to say at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;

/// How long a wait may go on before it looks whether it was interrupted.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether somebody asked for the end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// The first SIGINT or SIGTERM is noted, a second one ends the program at once.
    pub(super) fn watch() -> Result<Self, Failure> {
        let noted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds nothing noted yet.
            flag::register_conditional_shutdown(signal, 128 + signal, noted.clone())
                .and_then(|_| flag::register(signal, noted.clone()))
                .map_err(|error| Failure::runtime(format!("cannot watch for signals: {error}")))?;
        }
        Ok(Self(noted))
    }

    pub(super) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps, but not longer than until the interrupt.
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
