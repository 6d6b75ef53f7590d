//! The limits that a server announces.

use std::time::Duration;

use serde::Deserialize;

use crate::proto::Json;

/// The limits that a server announced when it opened the connection, see
/// [`Client::server_limits`](super::Client::server_limits). They may be out of date after a reload of
/// its settings; its own check decides.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = ipc_framework::client::ClientOptions::new("app").connect()?;
/// if let Some(limits) = client.server_limits() {
///     println!("a message may have {} bytes", limits.frame_bytes_max);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// Size that the body of a frame may have.
    pub frame_bytes_max: usize,
    /// Time that a request may take, and a stream to its first part and between two parts. `None`
    /// stands for no limit.
    pub request_timeout: Option<Duration>,
}

impl ServerLimits {
    /// Reads them, if they have the shape that the protocol gives them.
    pub(crate) fn read(text: &Json<'_>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Limits {
            max_frame_bytes: u64,
            request_timeout_ms: Option<u64>,
        }
        let limits: Limits = text.decode_text().ok()?;
        Some(Self {
            frame_bytes_max: usize::try_from(limits.max_frame_bytes).unwrap_or(usize::MAX),
            request_timeout: limits.request_timeout_ms.map(Duration::from_millis),
        })
    }
}
