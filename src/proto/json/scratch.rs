//! Buffers in which `simd-json` reads a document. Each thread keeps its own for the next one.

use std::cell::Cell;

/// The largest document whose buffers are kept: far larger than a usual payload, and small enough
/// for every thread to keep.
const KEPT_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

#[derive(Default)]
struct Scratch {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

/// Calls `read` with a copy of `text`, because `simd-json` resolves escapes in place.
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
    // There is none if a `Deserialize` decodes another document, or if the thread is ending.
    let kept = SCRATCH.try_with(Cell::take).ok().flatten();
    let mut scratch = kept.unwrap_or_default();
    let result = fill_and_read(&mut scratch);
    let _gone = SCRATCH.try_with(|kept| kept.set(Some(scratch)));
    result
}
