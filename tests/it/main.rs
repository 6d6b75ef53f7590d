//! All tests that need sockets, in one binary.

mod application_errors;
mod attachments;
#[cfg(target_os = "linux")]
mod attacks;
mod bad_input;
mod between_turns;
mod budget;
mod calls;
#[cfg(feature = "cli")]
mod cli;
mod client;
#[cfg(feature = "cli")]
mod commands;
mod concurrency;
mod descriptors;
mod drain;
mod embedding;
#[cfg(feature = "cli")]
mod environment;
mod examples;
mod fallback;
mod hooks;
mod instruments;
#[cfg(feature = "cli")]
mod logs;
mod manage;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(all(feature = "cli", feature = "nats"))]
mod nats;
mod not_json;
#[cfg(feature = "cli")]
mod operation;
mod outer_loop;
#[cfg(feature = "cli")]
mod packaging;
mod protocol;
#[cfg(feature = "cli")]
mod reload;
mod scratch;
#[cfg(feature = "cli")]
mod series;
#[cfg(feature = "cli")]
mod settings;
#[cfg(target_os = "linux")]
mod shm;
mod smoke;
#[cfg(feature = "cli")]
mod status;
#[cfg(feature = "cli")]
mod stopped;
#[cfg(feature = "cli")]
mod supervised;
mod support;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod syscalls;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
mod unix_socket;
#[cfg(feature = "cli")]
mod unread;
#[cfg(target_os = "linux")]
mod users;
mod wire_errors;
