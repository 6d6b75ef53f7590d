//! The parts of a streamed answer, collected for a requester that takes one answer.

use ipc_framework::Json;
use ipc_framework::proto::{ATTACHMENTS_MAX, NewAttachment};
use pyo3::PyResult;
use pyo3::exceptions::PyValueError;

use crate::message::payload_bytes;

/// Bytes of a frame besides the payload, at most: two ids whose every byte is escaped, and the rest
/// of the envelope.
const ENVELOPE_BYTES_MAX: usize = 4 << 10;
/// Bytes of a frame for an attachment besides its own, at most, and besides the way to it in its part:
/// its entry in the envelope, and padding.
const ATTACHMENT_BYTES_MAX: usize = 1 << 10;

/// The error of an answer that would not fit into a frame.
pub(crate) const TOO_LARGE: &str = "all parts together are too large for one answer; ask for a \
     stream, or raise frame_bytes_max";

/// An array that grows part by part, and never beyond a frame.
#[derive(Debug)]
pub(crate) struct Parts {
    json: String,
    /// The parts with attachments, and their places in the array.
    attached: Vec<(usize, Json<'static>)>,
    count: usize,
    attachments: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Parts {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        let bytes_max = frame_bytes_max.saturating_sub(ENVELOPE_BYTES_MAX);
        let (json, attached) = (String::new(), Vec::new());
        Self { json, attached, count: 0, attachments: 0, bytes: 0, bytes_max }
    }

    /// Adds a part. Returns false if the answer would be too large with it.
    pub(crate) fn add(&mut self, part: Json<'static>) -> bool {
        let attachments = part.attachments().len();
        // A bracket or a comma before it, and the bracket at the end.
        let bytes = payload_bytes(&part) + 1 + attachments * ATTACHMENT_BYTES_MAX;
        let is_too_large = self.bytes + bytes + 1 > self.bytes_max
            || self.attachments + attachments > ATTACHMENTS_MAX;
        if is_too_large {
            return false;
        }
        self.bytes += bytes;
        self.attachments += attachments;
        self.json.push(if self.json.is_empty() { '[' } else { ',' });
        self.json.push_str(part.as_str());
        if attachments > 0 {
            self.attached.push((self.count, part));
        }
        self.count += 1;
        true
    }

    /// Returns the array.
    ///
    /// # Errors
    /// If a part nests as deep as is allowed, and one level more is too deep.
    pub(crate) fn finish(mut self) -> PyResult<Json<'static>> {
        self.json.push_str(if self.json.is_empty() { "[]" } else { "]" });
        let all = self.attached.iter().flat_map(|(number, part)| {
            part.attachments().iter().map(move |one| (format!("/{number}{}", one.pointer), one))
        });
        let all: Vec<_> =
            all.map(|(to, one)| (to, one.shape.iter().collect::<Vec<_>>(), one)).collect();
        let new = all.iter().map(|(pointer, shape, one)| NewAttachment {
            pointer,
            dtype: one.dtype,
            shape,
            data: one.data,
        });
        let new: Vec<_> = new.collect();
        let json = Json::parse(self.json).and_then(|json| json.with_attachments(&new));
        json.map_err(|error| PyValueError::new_err(error.to_string()))
    }
}
