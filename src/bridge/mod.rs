//! Several servers that act as one over NATS.
//!
//! A [`Machine`](machine::Machine) stands between the links into the process's own server and NATS. A link is a
//! connection of that server inside the process and speaks the ordinary wire, so queues, limits, credit,
//! cancels and deadlines are those of any peer. Over a *bus link* of each application go publications, and over
//! a *server link* for each other server and application go requests and their answers.
//!
//! Nothing here but the driver of NATS' client reads a socket, a clock or a random source.

mod control;
mod crossing;
pub(crate) mod events;
mod frames;
#[cfg(feature = "nats")]
mod inbox;
mod loads;
pub(crate) mod machine;
mod names;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod options;
mod outbox;
mod packet;
mod presence;
mod publications;
mod servers;
pub(crate) mod settings;
mod standing;
mod state;
pub(crate) mod stats;
mod subjects;
#[cfg(test)]
mod tests;
mod too_large;
mod tunnel;

#[cfg(feature = "nats")]
pub(crate) use nats::Bridge;
#[cfg(feature = "nats")]
pub use options::NatsOptions;
