//! The clients against this server.

mod bounds;
mod closing;
mod connection;
mod liveness;
mod losses;
mod many_threads;
mod messages;
mod overhead;
mod pool;
mod proxy;
pub(crate) mod published;
#[cfg(feature = "cli")]
mod reconnect;
mod scripted;
#[cfg(feature = "cli")]
mod unix_socket;
mod workers;
