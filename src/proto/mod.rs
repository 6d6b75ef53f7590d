//! Bytes to frames to messages and back, without any input or output.
//!
//! Nothing here reads a socket, a clock or a random source: what this module
//! knows is the wire format alone, so it can be fuzzed and tested as a set of
//! functions.

mod buffer_pool;
mod encode;
mod envelope;
mod error_code;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod members;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod oracle;
mod recv_buffer;
mod scanner;
mod send_queue;
mod timestamp;

pub use buffer_pool::{BufferPool, MemoryGauge};
pub use envelope::{Envelope, EnvelopeError, Fault, ID_BYTES_MAX, MessageType};
pub use error_code::ErrorCode;
pub use json::{DecodeError, Json, JsonError, JsonStr};
pub use recv_buffer::RecvBuffer;
pub use scanner::{DEPTH_MAX, PAYLOAD_DEPTH_MAX};
pub use send_queue::SendQueue;

pub(crate) use encode::{Head, escape, frame as encode_frame};
pub(crate) use members::{Member, members};
pub(crate) use recv_buffer::{Inbound, Next};
pub(crate) use send_queue::{COPY_BYTES_MAX, OutFrame, SharedFrame};
pub(crate) use timestamp::Timestamp;
