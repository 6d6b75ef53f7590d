//! What channels of the extension `topic` have beyond subscribers: a history and a last value.

pub(crate) mod history;
pub(crate) mod retained;
