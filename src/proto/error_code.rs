use std::fmt;

/// The reason for which a message was not served, as the peer reads it in `payload.code`.
///
/// A code also says whether the connection is closed, see [`ErrorCode::closes_connection`].
///
/// ```
/// use ipc_framework::ErrorCode;
///
/// assert_eq!(ErrorCode::NoHandler.as_str(), "no_handler");
/// assert!(!ErrorCode::NoHandler.closes_connection());
/// assert!(ErrorCode::ALL.iter().any(|code| code.closes_connection()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The frame is empty, not UTF-8, not one JSON object, or nested too deep.
    BadFrame,
    /// A field is missing, given twice, unknown, of the wrong type, or an id is unusable.
    BadMessage,
    /// The length prefix is over the limit.
    FrameTooLarge,
    /// The first frame was not a connect.
    NotConnected,
    /// The application's token is missing or wrong.
    AuthFailed,
    /// The server has reached its limit on connections.
    ServerFull,
    /// A request on a channel with neither handler nor worker.
    NoHandler,
    /// The handler returned an error, panicked, or dropped the request.
    HandlerFailed,
    /// The worker that had the request went away.
    WorkerLost,
    /// A forwarded or deferred request was not answered in time.
    Timeout,
    /// The requester cancelled the request.
    Cancelled,
    /// Another application's channel, or another connection's id.
    Forbidden,
    /// Too many channels, subscriptions or pending requests.
    LimitExceeded,
    /// The other side needs an extension that this peer did not negotiate.
    Unsupported,
    /// A newer connection of the application came with this connection's id.
    TakenOver,
    /// The server is draining.
    ShuttingDown,
}

impl ErrorCode {
    /// Every code, in the order of the protocol's table.
    pub const ALL: [Self; 16] = [
        Self::BadFrame,
        Self::BadMessage,
        Self::FrameTooLarge,
        Self::NotConnected,
        Self::AuthFailed,
        Self::ServerFull,
        Self::NoHandler,
        Self::HandlerFailed,
        Self::WorkerLost,
        Self::Timeout,
        Self::Cancelled,
        Self::Forbidden,
        Self::LimitExceeded,
        Self::Unsupported,
        Self::TakenOver,
        Self::ShuttingDown,
    ];

    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::BadMessage => "bad_message",
            Self::FrameTooLarge => "frame_too_large",
            Self::NotConnected => "not_connected",
            Self::AuthFailed => "auth_failed",
            Self::ServerFull => "server_full",
            Self::NoHandler => "no_handler",
            Self::HandlerFailed => "handler_failed",
            Self::WorkerLost => "worker_lost",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Forbidden => "forbidden",
            Self::LimitExceeded => "limit_exceeded",
            Self::Unsupported => "unsupported",
            Self::TakenOver => "taken_over",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Returns whether the server closes the connection once this error is sent.
    pub const fn closes_connection(self) -> bool {
        matches!(
            self,
            Self::FrameTooLarge
                | Self::NotConnected
                | Self::AuthFailed
                | Self::ServerFull
                | Self::TakenOver
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
