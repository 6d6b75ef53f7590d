//! The clients against this server.

mod connection;
mod many_threads;
mod overhead;
mod proxy;
#[cfg(feature = "cli")]
mod reconnect;
