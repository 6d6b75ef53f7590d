//! What `simd-json` needs to read a document, kept by each thread from one to the next.

use std::cell::Cell;

/// From here on a document's buffers are not kept: far above a common payload,
/// and little enough for a thread to hold on to.
const KEPT_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

#[derive(Default)]
struct Scratch {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

/// Has `read` work on a copy of `text`, for `simd-json` resolves escapes in place.
pub(super) fn with_copy<R>(
    text: &str,
    read: impl FnOnce(&mut [u8], &mut simd_json::Buffers) -> R,
) -> R {
    let fill_and_read = |scratch: &mut Scratch| {
        scratch.copy.clear();
        scratch.copy.extend_from_slice(text.as_bytes());
        read(&mut scratch.copy, &mut scratch.buffers)
    };
    if text.len() > KEPT_BYTES_MAX {
        return fill_and_read(&mut Scratch::default());
    }
    // None where a `Deserialize` decodes within a decode, and where a thread is ending.
    let kept = SCRATCH.try_with(Cell::take).ok().flatten();
    let mut scratch = kept.unwrap_or_default();
    let result = fill_and_read(&mut scratch);
    let _gone = SCRATCH.try_with(|kept| kept.set(Some(scratch)));
    result
}
