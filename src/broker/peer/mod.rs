//! The part that peers see: their messages, and the questions that they may ask.

pub(crate) mod dispatch;
pub(crate) mod listings;
pub(crate) mod system;
