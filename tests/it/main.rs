//! Everything that needs sockets, in one binary.

mod bad_input;
mod between_turns;
#[cfg(feature = "cli")]
mod cli;
mod client;
#[cfg(feature = "cli")]
mod commands;
mod descriptors;
mod drain;
mod embedding;
mod fallback;
mod hooks;
mod instruments;
mod manage;
mod memory;
mod smoke;
mod support;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod syscalls;
mod tidy;
mod unix_socket;
mod wire_errors;
