//! The interface to the process around the broker: handlers, hooks, and their arguments.

pub(crate) mod changes;
pub(crate) mod context;
pub(crate) mod handle;
pub(crate) mod handlers;
pub(crate) mod manage;
pub(crate) mod part_sender;
pub(crate) mod publication;
pub(crate) mod request;
pub(crate) mod responder;
pub(crate) mod retained;
pub(crate) mod setup;
