//! The protocols of the peers, so that one load generator drives them all.
//!
//! Every payload is the same JSON string for every peer. It begins with eight hexadecimal
//! digits that number the message; they are patched in place and compared in every answer.

mod attached;
mod fixed_frame;
mod ipc;
mod message;
mod nats;
mod redis;
mod zmtp;

pub(crate) use attached::Attached;
pub(crate) use ipc::{Dialect, Ipc};
pub(crate) use message::{
    Exchange, HISTORY_MESSAGES, Id, Role, Scan, Template, Until, Wire, Work, id,
};
pub(crate) use nats::Nats;
pub(crate) use redis::Redis;
pub(crate) use zmtp::Zmtp;

#[cfg(test)]
mod tests;
