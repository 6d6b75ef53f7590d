//! The thread behind a [`Client`](super::Client), and the state that it shares with callers.

pub(super) mod answering;
mod calls;
pub(super) mod driver;
pub(super) mod inbox;
mod incoming;
pub(super) mod job;
mod listeners;
mod open;
pub(super) mod outbox;
pub(super) mod parts;
mod pending;
pub(super) mod progress;
pub(super) mod routes;
pub(super) mod shared;
pub(super) mod shield;
pub(super) mod state;
pub(super) mod topic;
pub(super) mod waiter;
pub(super) mod worker;
