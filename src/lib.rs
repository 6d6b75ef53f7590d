//! A server that joins Python, Node.js and Rust processes as if they were one program:
//! applications with channels, request/response, publish/subscribe and notifications, over
//! length-prefixed JSON on TCP and Unix sockets.
//!
//! It speaks the protocol of the Python package `ipc-framework` 1.1.2, so that programs written for
//! that package run unchanged.
//!
//! ```
//! use ipc_framework::{Config, Server};
//!
//! # fn main() -> Result<(), ipc_framework::Error> {
//! let mut config = Config::default();
//! config.port = 0;
//! let mut server = Server::bind(config)?;
//! server
//!     .application("my_app", "My Application")
//!     .channel("api")
//!     .on_request(|request| request.reply(&"hello"));
//! let handle = server.handle();
//! std::thread::spawn(move || handle.stop());
//! server.run()
//! # }
//! ```
//!
//! # What is here
//! - `Server`, `Config`, `Handle`: a server inside your program; its handlers run on
//!   the thread that runs the event loop.
//! - `client`: the other end of the wire, blocking or for many threads, for this server and the
//!   published one.
//! - `broker`: the whole server as a state machine without input or output, for programs that have
//!   an event loop of their own, a simulator or a fuzzer. The feature `broker` provides it without
//!   the default feature `net`.
//! - [`proto`]: the wire format, with an encoder and a decoder of streams. Without any feature, the
//!   crate is this module alone.
//!
//! # Where it runs
//! It is tested on Linux, and compiled but not tested for macOS. Three things work on Linux alone:
//! the user of a Unix socket's peer is known (`Access::uids`, `User`), messages that a client writes
//! in pieces are acknowledged at once, and an inherited socket is checked for whether it listens.
//!
//! # What is deliberately absent
//! - Threads: one event loop on one thread, so that a message never waits for a lock.
//! - Persistence and redelivery: delivery is at most once.
//! - An async runtime: nothing here needs one, and `Server::poll_once` fits into any. Only the
//!   feature `nats` brings one, for a thread of its own.

// Only docs.rs sets this: the documentation names the feature that an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "broker")]
mod address;
#[cfg(feature = "broker")]
mod branches;
#[cfg(any(feature = "nats", all(test, feature = "simulation")))]
mod bridge;
#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "net")]
pub mod client;
#[cfg(feature = "net")]
mod config;
#[cfg(feature = "net")]
mod descriptors;
#[cfg(feature = "net")]
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "broker")]
mod handler_error;
#[cfg(feature = "net")]
mod net;
pub mod proto;
#[cfg(feature = "net")]
mod secret_file;
#[cfg(feature = "net")]
mod server;
#[cfg(feature = "broker")]
mod setters;
#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
pub mod simulation;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "broker")]
mod token;
#[cfg(feature = "broker")]
mod trace;

/// The crate of the histograms that [`Context::for_each_histogram`] passes to its callback.
#[cfg(feature = "broker")]
pub use hdrhistogram;
/// The crate of the trees that [`Json::to_value`] returns.
pub use simd_json;

#[cfg(feature = "broker")]
pub use address::Address;
#[cfg(feature = "nats")]
pub use bridge::NatsOptions;
#[cfg(feature = "broker")]
pub use broker::{
    Access, Application, ApplicationInfo, Channel, ChannelInfo, ChannelLatency, ConnectionInfo,
    ConnectionKey, Context, Counters, Delivery, Handle, HandleError, HistoryInfo, HistoryRule,
    Interest, InterestIn, LatencyOf, LatencySummary, Limits, Measure, MemoryPressure, NatsStats,
    PartError, PartSender, Peer, Publisher, Reply, Request, RequestResult, Responder, SendError,
    Stats, TurnLimits, User, Verdict,
};
#[cfg(feature = "net")]
pub use config::{Config, Spin, UnixSocket};
#[cfg(feature = "net")]
pub use descriptors::forked_sockets;
#[cfg(feature = "net")]
pub use error::Error;
#[cfg(feature = "broker")]
pub use handler_error::HandlerError;
pub use proto::{
    Blob, DecodeError, Envelope, ErrorCode, Json, JsonError, JsonStr, Message, MessageType, Owned,
    Tensor,
};
#[cfg(feature = "net")]
pub use server::{Budget, Inherited, Server};
#[cfg(feature = "tls")]
pub use tls::Tls;
#[cfg(feature = "broker")]
pub use token::Token;
