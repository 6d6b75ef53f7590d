//! The whole server as one state machine: bytes and time in, bytes and actions out.
//!
//! It uses no socket, no clock and no random source. Its driver, which is the event loop or a test
//! under virtual time, calls it in turns:
//!
//! 1. [`Broker::begin_turn`] with the time;
//! 2. [`Broker::accept`], [`Broker::receive`], [`Broker::hang_up`] as things happen;
//! 3. [`Broker::next_action`] until there is none, and [`Broker::flush`] for those that say so; then
//!    [`Broker::advance`] for the time that passed, before which all sockets are read once more if
//!    [`Broker::has_due`] says so, and the actions that follow from it;
//! 4. [`Broker::end_turn`];
//! 5. sleep until something happens, [`Broker::next_deadline`] at the latest.
//!
//! Its modules are layered: each imports only from the layers below it.

mod access;
#[cfg(any(test, feature = "simulation"))]
mod agreement;
#[expect(clippy::module_inception, reason = "the state machine itself, above all its parts")]
mod broker;
mod embed;
mod flow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod history_rule;
#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
mod inspection;
mod limits;
mod peer;
mod setup;
mod share;
mod state;
#[cfg(test)]
mod tests;
mod turn_limits;

pub use access::{Access, User};
pub use broker::Broker;
pub use embed::context::{Context, SendError};
pub use embed::handle::{Handle, HandleError, Publisher};
pub use embed::part_sender::{PartError, PartSender};
pub use embed::request::{Delivery, Reply, Request, RequestResult, Verdict};
pub use embed::responder::Responder;
pub use embed::setup::{Application, Channel};
pub use history_rule::HistoryRule;
pub use limits::Limits;
pub use state::budget::MemoryPressure;
#[cfg(all(test, feature = "nats"))]
pub(crate) use state::buses::BUS_IDLE_MAX;
#[cfg(any(feature = "nats", all(test, feature = "simulation")))]
pub(crate) use state::buses::BUSES_MAX;
pub use state::counters::Counters;
pub use state::events::{
    Action, ConnectionInfo, Flushed, HangUp, Progress, Received, Turnover, Written,
};
pub use state::interest::{Interest, InterestIn};
pub use state::keys::{ConnectionKey, ConnectionKind, Key};
pub use state::latency::{ChannelLatency, LatencyOf, LatencySummary, Measure};
#[cfg(any(feature = "nats", all(test, feature = "simulation")))]
pub(crate) use state::load::ChannelLoad;
pub use state::peer::Peer;
#[cfg(feature = "nats")]
pub(crate) use state::stats::NatsStatsSource;
pub use state::stats::{ApplicationInfo, ChannelInfo, HistoryInfo, NatsStats, Stats};
pub use state::timers::Now;
pub use turn_limits::TurnLimits;

#[cfg(feature = "net")]
pub(crate) use flow::reload::reconfigure;
