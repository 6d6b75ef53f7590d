//! The tables. Each owns its data, and gets everything else as arguments.

pub(crate) mod arena;
pub(crate) mod budget;
pub(crate) mod buses;
pub(crate) mod call_index;
pub(crate) mod calls;
pub(crate) mod connection;
pub(crate) mod core;
pub(crate) mod counters;
pub(crate) mod encoder;
pub(crate) mod events;
pub(crate) mod histogram;
pub(crate) mod interest;
pub(crate) mod keys;
pub(crate) mod latency;
pub(crate) mod line;
#[cfg(any(test, feature = "nats"))]
pub(crate) mod load;
pub(crate) mod mailbox;
pub(crate) mod peer;
pub(crate) mod refusal;
pub(crate) mod request_id;
pub(crate) mod requests;
pub(crate) mod router;
pub(crate) mod service;
pub(crate) mod stats;
pub(crate) mod timeouts;
pub(crate) mod timers;
pub(crate) mod topic;
pub(crate) mod turn;
pub(crate) mod watch;
