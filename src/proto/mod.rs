//! Bytes to frames to messages and back, without any input or output.
//!
//! Nothing here reads a socket, a clock or a random source: what this module
//! knows is the wire format alone, so it can be fuzzed and tested as a set of
//! functions.
//!
//! # By itself
//! With `default-features = false` this module is all of the crate. [`Decoder`] finds the messages
//! in a stream of bytes, and [`Encoder`] writes messages into frames; [`system`] has the payloads
//! of the messages that a client and a server arrange things with. `examples/frames.rs` uses them.

#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod attached;
mod attachments;
mod blob;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod buffer_pool;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod carried;
mod decoder;
mod dtype;
mod element;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod encode;
mod encoder;
mod envelope;
mod error_code;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod escape;
mod extensions;
mod fault;
mod fields;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod json_str;
mod leaves;
mod limits;
#[cfg(feature = "broker")]
mod members;
mod message;
mod message_type;
mod meta;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod oracle;
#[cfg(feature = "broker")]
mod out_frame;
mod parse;
mod part;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses it"))]
pub(crate) mod pattern;
#[cfg(feature = "broker")]
pub(crate) mod placed;
pub(crate) mod position;
mod publication;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "the broker uses all of it"))]
mod recv_buffer;
#[cfg(feature = "broker")]
mod relay;
mod scanner;
#[cfg(feature = "broker")]
mod send_queue;
mod stamp;
pub mod system;
mod tensor;
mod timestamp;
mod trace_context;
mod value;

pub use attachments::bin::Shape;
pub use attachments::outgoing::{NewAttachment, SharedAttachment};
pub use attachments::tail::BytesOwner;
pub use attachments::{Attachment, Attachments};
pub use blob::Blob;
pub use buffer_pool::{BufferPool, MemoryGauge};
pub use decoder::{Decoder, Messages};
pub use dtype::Dtype;
pub use element::{Bf16, Element, F16, dtype_of};
pub use encoder::{EncodeError, Encoder};
pub use envelope::{Envelope, EnvelopeError};
pub use error_code::ErrorCode;
pub use extensions::Extensions;
pub use fault::Fault;
pub use json::{DecodeError, Json, JsonError};
pub use json_str::JsonStr;
pub use limits::{
    ATTACHMENTS_MAX, BIN_BYTES_MAX, DEPTH_MAX, DIMENSIONS_MAX, ID_BYTES_MAX, META_BYTES_MAX,
    PAYLOAD_DEPTH_MAX,
};
pub use message::Message;
pub use message_type::MessageType;
pub use meta::{CREDIT_MAX, EPOCH_BYTES_MAX, Meta, Position};
pub use part::Owned;
pub use position::Position as OwnedPosition;
pub use publication::Publication;
pub use recv_buffer::RecvBuffer;
#[cfg(feature = "broker")]
pub use send_queue::SendQueue;
pub use tensor::{ShapeError, Tensor};
pub use trace_context::Trace;

#[cfg(feature = "broker")]
pub(crate) use attached::Attached;
#[cfg(feature = "broker")]
pub(crate) use attachments::layout::has_attachments;
#[cfg(feature = "broker")]
pub(crate) use attachments::new::{append_front, body_bytes};
#[cfg(feature = "net")]
pub(crate) use attachments::tail::SharedTail;
#[cfg(feature = "broker")]
pub(crate) use buffer_pool::SharedFrame;
#[cfg(feature = "broker")]
pub(crate) use carried::Carried;
#[cfg(feature = "broker")]
pub(crate) use encode::{Defaults, Head, META_TEXT_BYTES, MessageHead, frame as encode_frame};
#[cfg(feature = "broker")]
pub(crate) use escape::{escape, escaped};
#[cfg(feature = "broker")]
pub(crate) use members::{Member, exact_members, members, only_member};
#[cfg(feature = "broker")]
pub(crate) use meta::{credit, epoch_of, number};
#[cfg(feature = "broker")]
pub(crate) use out_frame::{COPY_BYTES_MAX, OutFrame};
#[cfg(feature = "broker")]
pub(crate) use recv_buffer::{Inbound, Next};
#[cfg(feature = "broker")]
pub(crate) use stamp::{Stamp, Stamps};
#[cfg(feature = "net")]
pub(crate) use timestamp::Timestamp;
#[cfg(feature = "broker")]
pub(crate) use value::{ValueError, append_value};
