//! Joins servers on several machines over NATS.

#[cfg(feature = "nats")]
mod options;

#[cfg(feature = "nats")]
pub use options::NatsOptions;
