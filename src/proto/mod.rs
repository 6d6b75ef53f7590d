//! Bytes to frames to messages and back, without any input or output.
//!
//! Nothing here reads a socket, a clock or a random source: what this module
//! knows is the wire format alone, so it can be fuzzed and tested as a set of
//! functions.

mod buffer_pool;
mod encode;
mod envelope;
mod error_code;
mod fault;
mod fields;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
mod json_str;
mod limits;
mod members;
mod message;
mod message_type;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod oracle;
mod out_frame;
mod parse;
mod recv_buffer;
mod relay;
mod scanner;
mod send_queue;
mod stamp;
pub mod system;
mod timestamp;

pub use buffer_pool::{BufferPool, MemoryGauge};
pub use envelope::{Envelope, EnvelopeError};
pub use error_code::ErrorCode;
pub use fault::Fault;
pub use json::{DecodeError, Json, JsonError};
pub use json_str::JsonStr;
pub use limits::{DEPTH_MAX, ID_BYTES_MAX, PAYLOAD_DEPTH_MAX};
pub use message::Message;
pub use message_type::MessageType;
pub use recv_buffer::RecvBuffer;
pub use send_queue::SendQueue;

#[cfg(feature = "net")]
pub(crate) use encode::escaped;
pub(crate) use encode::{Defaults, Head, MessageHead, escape, frame as encode_frame};
pub(crate) use members::{Member, members};
pub(crate) use out_frame::{COPY_BYTES_MAX, OutFrame, SharedFrame};
pub(crate) use recv_buffer::{Inbound, Next};
pub(crate) use stamp::{Stamp, Stamps};
#[cfg(feature = "net")]
pub(crate) use timestamp::Timestamp;
