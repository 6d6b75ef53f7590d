//! Two byte rings in shared memory between two processes that do not trust each other.
//!
//! The server makes an [`End`] with [`End::create`], and sends the [`Descriptors`] to the client over a
//! Unix socket. The client opens its own with [`End::open`]. Each writes into one ring and reads from the
//! other; bytes come out in the order they went in. A side that has nothing to do sleeps on a
//! descriptor, and the other one wakes it up only then. Nobody's death is noticed here: for that there is
//! the socket over which the descriptors went.
//!
//! The other side may write anything into the memory at any time. It gets garbage or [`Broken`] for
//! that, and harms itself alone.

#[cfg_attr(not(target_os = "linux"), path = "unsupported.rs")]
mod end;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod ring;

use std::{error, fmt};

pub use end::{Descriptors, End, Watch};

/// The bytes that each of the two rings holds, unless the operator says otherwise.
pub const RING_BYTES_DEFAULT: usize = 256 << 10;

/// The smallest ring: a page.
pub const RING_BYTES_MIN: usize = 4 << 10;

/// The largest ring.
pub const RING_BYTES_MAX: usize = 256 << 20;

/// Returns whether rings can have this size: a power of two between the smallest and the largest.
pub const fn is_ring_size(ring_bytes: usize) -> bool {
    ring_bytes.is_power_of_two() && RING_BYTES_MIN <= ring_bytes && ring_bytes <= RING_BYTES_MAX
}

/// The other side has written into the shared memory what no correct one does, or this process is a fork of
/// the one that has the memory. The connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .write_str("the other side has broken the shared memory: its index is out of the ring")
    }
}

impl error::Error for Broken {}
