//! The parts of a streamed answer, collected for a requester that takes one answer.

use ipc_framework::Json;
use pyo3::PyResult;

/// Bytes of a frame besides the payload, at most: two ids whose every byte is escaped, and the rest
/// of the envelope.
const ENVELOPE_BYTES_MAX: usize = 4 << 10;

/// The error of an answer that would not fit into a frame.
pub(crate) const TOO_LARGE: &str = "all parts together are too large for one answer; ask for a \
     stream, or raise frame_bytes_max";

/// An array that grows part by part, and never beyond a frame.
#[derive(Debug)]
pub(crate) struct Parts {
    json: String,
    bytes_max: usize,
}

impl Parts {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        let bytes_max = frame_bytes_max.saturating_sub(ENVELOPE_BYTES_MAX);
        Self { json: String::new(), bytes_max }
    }

    /// Adds a part. Returns false if the answer would be too large with it.
    pub(crate) fn add(&mut self, part: &Json<'_>) -> bool {
        // A bracket or a comma before it, and the bracket at the end.
        if self.json.len() + part.as_str().len() + 2 > self.bytes_max {
            return false;
        }
        self.json.push(if self.json.is_empty() { '[' } else { ',' });
        self.json.push_str(part.as_str());
        true
    }

    /// Returns the array.
    ///
    /// # Errors
    /// If a part nests as deep as is allowed, and one level more is too deep.
    pub(crate) fn finish(mut self) -> PyResult<Json<'static>> {
        self.json.push_str(if self.json.is_empty() { "[]" } else { "]" });
        Json::parse(self.json)
            .map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
    }
}
