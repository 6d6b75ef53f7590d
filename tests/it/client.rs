//! The clients against this server.

pub(crate) mod attachments;
mod batches;
mod bounds;
mod calls;
mod cancelled_work;
mod closing;
mod connection;
mod connection_calls;
mod ends;
mod histories;
mod interrupted;
pub(crate) mod large_attachments;
mod liveness;
mod losses;
pub(crate) mod many_threads;
mod messages;
mod overhead;
mod part_senders;
mod paused;
mod pool;
mod prefetch;
pub(crate) mod proxy;
pub(crate) mod published;
#[cfg(feature = "cli")]
mod reconnect;
pub(crate) mod scripted;
mod servers;
#[cfg(target_os = "linux")]
mod shared_memory;
mod streams;
mod tensors;
mod too_large;
mod topics;
#[cfg(feature = "cli")]
mod unix_socket;
pub(crate) mod workers;
