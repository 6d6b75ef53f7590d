//! The clients against this server.

mod connection;
mod many_threads;
mod overhead;
mod pool;
mod proxy;
mod published;
#[cfg(feature = "cli")]
mod reconnect;
mod workers;
