//! The load generator: one thread, the same loops for every peer.

mod closed;
mod connection;
mod fanout;
mod history;
mod open;
mod recorder;
mod single;

pub(crate) use closed::closed_loop;
pub(crate) use connection::{Connection, connect};
pub(crate) use fanout::fanout;
pub(crate) use history::{Parties, Reading, history};
pub(crate) use open::open_loop;
pub(crate) use recorder::{Cpu, Outcome, Phases, new_histogram};
pub(crate) use single::{forwarded, one_client};

#[cfg(test)]
mod tests;
