//! The thread behind a [`Client`](super::Client), and the state that it shares with callers.

pub(super) mod driver;
mod incoming;
mod open;
pub(super) mod outbox;
mod pending;
pub(super) mod responder;
pub(super) mod routes;
pub(super) mod shared;
pub(super) mod state;
pub(super) mod waiter;
pub(super) mod worker;
