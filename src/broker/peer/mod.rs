//! What peers may ask for.

pub(crate) mod dispatch;
pub(crate) mod listings;
pub(crate) mod system;
