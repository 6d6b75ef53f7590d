//! Keeps a write to a connection that is gone from raising a signal.

use rustix::net::SendFlags;

#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// Apple's systems have no such flag. There socket2 sets `SO_NOSIGPIPE` on every socket that it makes.
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();
