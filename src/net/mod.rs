//! The thin shell: moves bytes between sockets and the broker, and keeps the time.

mod accept;
mod clock;
mod event_loop;
mod listener;
mod mio_system;
mod quickack;
mod socket;
mod stream;
mod system;
#[cfg(feature = "tls")]
mod tls_records;
#[cfg(feature = "tls")]
mod tls_stream;
mod unix_socket;
mod user_namespace;
mod waiting;

pub(crate) use event_loop::EventLoop;
pub use listener::{Address, Inherited};
pub(crate) use listener::{check_access, problems};
pub(crate) use mio_system::MioSystem;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use system::{Event, Stream, System, WAKER};
