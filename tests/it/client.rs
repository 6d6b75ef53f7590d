//! The clients against this server.

mod closing;
mod connection;
mod losses;
mod many_threads;
mod overhead;
mod pool;
mod proxy;
mod published;
#[cfg(feature = "cli")]
mod reconnect;
mod scripted;
mod workers;
