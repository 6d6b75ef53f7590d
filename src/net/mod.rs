//! The input and output of the server: moves bytes between sockets and the broker, and reads the
//! clocks.

mod accept;
mod budget;
mod clock;
mod event_loop;
#[cfg(test)]
mod fake;
#[cfg(all(target_os = "linux", any(test, feature = "fuzzing")))]
pub(crate) mod fuzzing;
mod inherited;
#[cfg_attr(not(any(test, feature = "nats")), expect(dead_code, reason = "the bridge opens links"))]
mod link_opener;
mod listener;
mod mio_system;
mod protection;
mod quickack;
mod ring;
mod rings;
mod socket;
mod stream;
mod system;
mod tcp_socket;
#[cfg(feature = "tls")]
mod tls_records;
#[cfg(feature = "tls")]
mod tls_stream;
mod unix_socket;
#[cfg(target_os = "linux")]
mod user_namespace;
mod waiting;

pub use budget::Budget;
pub(crate) use event_loop::EventLoop;
pub use inherited::Inherited;
pub(crate) use link_opener::LinkOpener;
pub(crate) use listener::problems;
pub(crate) use mio_system::MioSystem;
pub(crate) use protection::check_access;
#[cfg(any(test, feature = "simulation"))]
pub(crate) use system::{Event, Stream, System, WAKER};
