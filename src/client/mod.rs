//! Clients of a server, either of this project or of the published package.
//!
//! - [`Connection`] is blocking and single-threaded, for programs that count microseconds: all its
//!   work happens on the caller's own thread, with one system call per message.
//! - [`Client`] is for many threads and for programs that run for long: a background thread keeps
//!   its connection up.
//! - [`Pool`] is a bounded set of clients for programs that need more than one connection.
//!
//! ```
//! use ipc_framework::client::{Endpoint, Options};
//! use ipc_framework::{Config, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = Server::bind(Config::default().port(0))?;
//! server.application("math", "Arithmetic").channel("double").on_request(|mut request| {
//!     let x: u64 = request.payload()?;
//!     request.reply(&(2 * x))
//! });
//! let port = server.addresses()[0].port().unwrap();
//! let handle = server.handle();
//! let running = std::thread::spawn(move || server.run());
//!
//! let mut options = Options::new("math");
//! options.endpoint = Endpoint::tcp("localhost", port);
//! let mut connection = options.connect()?;
//! let answer = connection.request("double", &21)?;
//! assert_eq!(answer.payload.decode::<u64>()?, 42);
//! connection.close()?;
//! # handle.stop();
//! # running.join().unwrap()?;
//! # Ok(())
//! # }
//! ```

mod asking;
mod background;
mod call;
mod calling;
mod cancel_token;
#[expect(clippy::module_inception, reason = "the file is found under the name of its type")]
mod client;
mod client_options;
mod connection;
mod endpoint;
mod error;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod listening;
mod meta_text;
mod options;
mod part_sender;
mod payload;
mod pool;
mod publish_options;
mod publishing;
mod reconnect;
mod request_future;
mod request_options;
mod request_stream;
mod serve_options;
mod server_limits;
mod servers;
mod serving;
mod subscribe_options;
mod subscribed;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod wire;

#[doc(inline)]
pub use crate::proto::OwnedPosition as Position;
/// The reason for which a handler is told to stop, see [`Call::cancel_reason`].
pub use crate::proto::system::CancelReason;
/// The server's words about a publication, and its place in a distributed trace.
pub use crate::proto::{Publication, Trace};
pub use background::worker::Responder;
pub use call::{Call, Request};
pub use cancel_token::CancelToken;
pub use client::{Client, ClientInfo, WeakClient};
pub use client_options::{ClientOptions, WhileDisconnected};
pub use connection::Connection;
pub use connection::calls::ConnectionStream;
pub use endpoint::{AddressOrder, Endpoint};
pub use error::{Error, Execution, Fault};
pub use event::Event;
/// The trait that a [`Subscription`] and a [`RequestStream`] implement for executors.
pub use futures_core::Stream;
pub use options::Options;
pub use part_sender::PartSender;
pub use payload::Payload;
pub use pool::Pool;
pub use publish_options::PublishOptions;
pub use reconnect::Reconnect;
pub use request_future::{RequestFuture, RequestId};
pub use request_options::RequestOptions;
pub use request_stream::RequestStream;
pub use serve_options::ServeOptions;
pub use server_limits::ServerLimits;
pub use subscribe_options::SubscribeOptions;
pub use subscribed::Subscribed;
pub use subscription::Subscription;
#[cfg(feature = "tls")]
pub use tls::Tls;
