//! Bounds of the wire format, the same for every peer.

/// The depth to which JSON may nest. The object of the message itself is level 1.
///
/// It is the depth that `serde_json` reads by default, so that no peer runs out of stack, and the
/// number of bits in the stack of the scanner.
pub const DEPTH_MAX: usize = u128::BITS as usize;

/// The depth to which a payload may nest: one level less, for the message around it.
pub const PAYLOAD_DEPTH_MAX: usize = DEPTH_MAX - 1;

/// The most bytes of UTF-8 in a `message_id`, `app_id`, `channel_id` or `reply_to` once escapes
/// are resolved: a UUID several times over, and short enough for the key of a table.
pub const ID_BYTES_MAX: usize = 256;

/// The most bytes of the text of a `meta`, attachments aside.
pub const META_BYTES_MAX: usize = 4 << 10;

/// The most bytes that a server adds to the `meta` of a publication: its place in a history.
pub(crate) const PLACE_BYTES_MAX: usize = 128;

/// The most attachments of one message.
pub const ATTACHMENTS_MAX: usize = 1_024;

/// The most bytes of the text of `bin` in a `meta`, which lists the attachments.
pub const BIN_BYTES_MAX: usize = 128 << 10;

/// The most dimensions of a tensor: as many as `NumPy` had for long.
pub const DIMENSIONS_MAX: usize = 32;

/// The most bytes in the text of a timestamp: twice what any language writes.
pub(super) const TIMESTAMP_BYTES_MAX: usize = 64;
