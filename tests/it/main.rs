//! Everything that needs sockets, in one binary.

mod bad_input;
mod between_turns;
#[cfg(feature = "cli")]
mod cli;
mod descriptors;
mod drain;
mod embedding;
mod hooks;
mod memory;
mod smoke;
mod support;
mod tidy;
mod unix_socket;
mod wire_errors;
