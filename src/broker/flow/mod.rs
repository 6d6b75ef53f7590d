//! What happens to messages and connections.

pub(crate) mod drain;
pub(crate) mod memory;
pub(crate) mod queues;
pub(crate) mod reload;
pub(crate) mod subscriptions;
pub(crate) mod workers;
