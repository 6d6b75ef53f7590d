//! What the process around the broker may do.

pub(crate) mod context;
pub(crate) mod handlers;
pub(crate) mod manage;
