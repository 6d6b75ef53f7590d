//! The part of the process around the broker: handlers, hooks, and what both are given.

pub(crate) mod changes;
pub(crate) mod context;
pub(crate) mod handle;
pub(crate) mod handlers;
pub(crate) mod manage;
pub(crate) mod publication;
pub(crate) mod request;
pub(crate) mod responder;
pub(crate) mod setup;
