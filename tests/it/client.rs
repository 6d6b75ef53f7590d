//! The clients against this server.

mod bounds;
mod closing;
mod connection;
mod liveness;
mod losses;
pub(crate) mod many_threads;
mod messages;
mod overhead;
mod pool;
pub(crate) mod proxy;
pub(crate) mod published;
#[cfg(feature = "cli")]
mod reconnect;
pub(crate) mod scripted;
#[cfg(feature = "cli")]
mod unix_socket;
mod workers;
