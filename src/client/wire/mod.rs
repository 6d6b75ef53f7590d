//! Bytes, frames and messages: everything between a client and its socket.

mod addresses;
pub(super) mod answer;
pub(super) mod encoded_frame;
pub(super) mod encoder;
pub(super) mod frames;
mod no_signal;
pub(super) mod read_buffer;
mod rings;
pub(super) mod socket;
#[cfg(feature = "tls")]
pub(super) mod tls_failure;
#[cfg(feature = "tls")]
mod tls_session;
pub(super) mod wait;
