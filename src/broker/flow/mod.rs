//! The paths of messages and connections. All functions take the state as an argument.

pub(crate) mod answers;
pub(crate) mod applications;
pub(crate) mod attachments;
pub(crate) mod calls;
pub(crate) mod cancels;
pub(crate) mod channels;
pub(crate) mod closing;
pub(crate) mod drain;
pub(crate) mod forms;
pub(crate) mod forwarding;
pub(crate) mod hand_out;
pub(crate) mod interest;
pub(crate) mod kept;
#[cfg(any(test, feature = "nats"))]
pub(crate) mod loads;
pub(crate) mod measuring;
pub(crate) mod memory;
pub(crate) mod queues;
pub(crate) mod reload;
pub(crate) mod requests;
pub(crate) mod run;
pub(crate) mod streams;
pub(crate) mod subscriptions;
pub(crate) mod topic;
pub(crate) mod upkeep;
pub(crate) mod workers;
