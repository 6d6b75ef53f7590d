//! The thread behind a [`Client`](super::Client), and the state that it shares with callers.

pub(super) mod driver;
pub(super) mod inbox;
mod incoming;
mod listeners;
mod open;
pub(super) mod outbox;
mod pending;
pub(super) mod routes;
pub(super) mod shared;
mod shield;
pub(super) mod state;
pub(super) mod waiter;
pub(super) mod worker;
