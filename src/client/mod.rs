//! Clients of a server: this project's, or the published one.
//!
//! - [`Connection`] is blocking and single-threaded, for those who count microseconds: what
//!   it does it does on the caller's own thread, one system call a message.
//!
//! ```
//! use ipc_framework::client::{Endpoint, Options};
//! use ipc_framework::{Config, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = Server::bind(Config { port: 0, ..Config::default() })?;
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

mod answer;
mod connection;
mod encoder;
mod error;
mod options;
mod read_buffer;
mod socket;

pub use connection::Connection;
pub use error::{Error, Execution, Fault};
pub use options::{Endpoint, Options};
