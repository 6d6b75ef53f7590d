//! Joins servers on several machines over NATS.

#[cfg(feature = "nats")]
#[expect(dead_code, reason = "the machine follows")]
mod events;
#[cfg(feature = "nats")]
mod options;

#[cfg(feature = "nats")]
pub use options::NatsOptions;
