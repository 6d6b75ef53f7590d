//! The state of the connection, as the client's events tell it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_framework::client::Event;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Up,
    Down,
    /// Closed for good.
    Closed,
}

/// Starts as `Up`, because it is made for a connected client.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, new: State) {
        let mut state = self.lock();
        if *state != State::Closed {
            *state = new;
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn follow(&self, event: &Event) {
        match event {
            Event::Connected { .. } => self.set(State::Up),
            Event::Leaving | Event::Disconnected { .. } => self.set(State::Down),
            Event::Closed { .. } => self.set(State::Closed),
            _ => {}
        }
    }

    pub(super) fn close(&self) {
        self.set(State::Closed);
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.lock() == State::Closed
    }

    /// Waits until there is a connection, there will never be one, or the time is over.
    pub(super) fn wait(&self, longest: Duration) {
        let is_down = |state: &mut State| *state == State::Down;
        drop(self.changed.wait_timeout_while(self.lock(), longest, is_down));
    }
}
