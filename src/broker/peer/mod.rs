//! The interface to peers: their messages, and the requests that the server itself answers.

pub(crate) mod dispatch;
pub(crate) mod listings;
pub(crate) mod operator;
pub(crate) mod purge;
pub(crate) mod searching;
pub(crate) mod sharing;
pub(crate) mod system;
pub(crate) mod unserved;
