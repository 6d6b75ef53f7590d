//! Everything that needs sockets, in one binary.

mod bad_input;
#[cfg(feature = "cli")]
mod cli;
mod embedding;
mod smoke;
mod support;
mod unix_socket;
mod wire_errors;
