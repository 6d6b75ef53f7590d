//! What can go wrong between a caller and the one who answers.

use std::time::Duration;
use std::{fmt, io};

use super::endpoint::Endpoint;
use crate::proto::{DecodeError, ErrorCode, ID_BYTES_MAX, JsonError};

/// Why a client could not do what it was asked. The text says what to do.
///
/// ```
/// use ipc_framework::client::{Endpoint, Error, Fault, Options};
///
/// let mut options = Options::new("app");
/// options.endpoint = Endpoint::unix("/nonexistent/ipc.sock");
/// let error = options.connect().unwrap_err();
/// assert!(matches!(error, Error::Unreachable { .. }));
/// assert_eq!(error.fault(), Fault::Server);
/// assert!(error.to_string().contains("start it with `ipc serve --unix"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An id is empty, or longer than 256 bytes.
    BadId {
        /// Which one.
        field: &'static str,
    },
    /// The value cannot be written as JSON.
    NotJson(JsonError),
    /// The message would be larger than [`Options::frame_bytes_max`](super::Options).
    TooLarge {
        /// How large the frame's body would be.
        body_bytes: usize,
        /// How large it may be.
        body_bytes_max: usize,
    },
    /// More messages came while a request was waited for than are kept. None is lost: fetch
    /// them, then go on. What became of the request is not known.
    Backlog {
        /// How many are kept.
        messages: usize,
    },
    /// No connection came about.
    Unreachable {
        /// Where it was tried.
        endpoint: Endpoint,
        /// What the system says.
        source: io::Error,
    },
    /// There is no TLS with the server: one of both does not trust the other, or does not speak it.
    #[cfg(feature = "tls")]
    Tls {
        /// Where it was tried.
        endpoint: Endpoint,
        /// Who has to do something about it.
        fault: Fault,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The answer is an error: of the server, or of the one who serves the channel.
    Answered {
        /// What it is.
        code: ErrorCode,
        /// What the server says about it.
        text: String,
    },
    /// It was not done in time. A request may have been executed all the same.
    Deadline {
        /// What was waited for.
        waiting_for: &'static str,
        /// How long.
        waited: Duration,
        /// Whether it may have been executed: not if it never left, waiting for a connection.
        execution: Execution,
    },
    /// The connection is gone.
    Lost {
        /// Whether what was asked for may have been done.
        execution: Execution,
        /// What the system says; nothing if the server closed the connection in good order.
        source: Option<io::Error>,
    },
    /// What came is not the protocol. The connection is of no use any more.
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// The answer came and does not have the shape that was asked for.
    BadAnswer(DecodeError),
    /// There is no connection just now, and messages do not wait for one, as configured.
    Disconnected,
    /// So much waits to be sent already.
    QueueFull {
        /// How much may wait.
        bytes_max: usize,
    },
    /// The client was closed, or does not come back.
    Closed,
    /// A handler cannot wait for what its own thread would have to do.
    OnClientThread,
    /// The system's fault.
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// Whether a request that got no answer may have been executed.
///
/// ```
/// use ipc_framework::client::{Error, Execution};
///
/// let error = Error::Lost { execution: Execution::Never, source: None };
/// assert_eq!(error.execution(), Execution::Never); // it is safe to ask again
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// It never left, or was refused: asking again does nothing twice.
    Never,
    /// It left: asking again may do it twice.
    Possible,
}

/// Who has to do something about an [`Error`].
///
/// ```
/// use ipc_framework::client::{Error, Fault};
///
/// assert_eq!(Error::BadId { field: "channel_id" }.fault(), Fault::Caller);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller: what was asked for cannot be done like this.
    Caller,
    /// The one who serves the channel.
    Peer,
    /// The server, or the way to it.
    Server,
    /// The operating system.
    System,
}

impl Error {
    /// Who has to do something about it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadId { .. }
            | Self::NotJson(_)
            | Self::TooLarge { .. }
            | Self::Backlog { .. }
            | Self::Closed
            | Self::OnClientThread => Fault::Caller,
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::Disconnected
            | Self::QueueFull { .. }
            | Self::Deadline { execution: Execution::Never, .. } => Fault::Server,
            Self::Deadline { .. } | Self::BadAnswer(_) => Fault::Peer,
            Self::System { .. } => Fault::System,
            #[cfg(feature = "tls")]
            Self::Tls { fault, .. } => *fault,
            Self::Answered { code, .. } => match code {
                ErrorCode::NoHandler
                | ErrorCode::HandlerFailed
                | ErrorCode::WorkerLost
                | ErrorCode::Timeout => Fault::Peer,
                ErrorCode::ServerFull | ErrorCode::ShuttingDown => Fault::Server,
                _ => Fault::Caller,
            },
        }
    }

    /// Whether the request it answers may have been executed.
    pub fn execution(&self) -> Execution {
        match self {
            Self::Lost { execution, .. } | Self::Deadline { execution, .. } => *execution,
            Self::Backlog { .. } | Self::Protocol { .. } | Self::BadAnswer(_) => {
                Execution::Possible
            }
            Self::Answered { code, .. } => match code {
                ErrorCode::HandlerFailed | ErrorCode::WorkerLost | ErrorCode::Timeout => {
                    Execution::Possible
                }
                _ => Execution::Never,
            },
            Self::BadId { .. }
            | Self::NotJson(_)
            | Self::TooLarge { .. }
            | Self::Unreachable { .. }
            | Self::Disconnected
            | Self::QueueFull { .. }
            | Self::Closed
            | Self::OnClientThread
            | Self::System { .. } => Execution::Never,
            #[cfg(feature = "tls")]
            Self::Tls { .. } => Execution::Never,
        }
    }

    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    /// Of what may have been executed.
    pub(super) fn deadline(waiting_for: &'static str, waited: Duration) -> Self {
        Self::Deadline { waiting_for, waited, execution: Execution::Possible }
    }

    pub(super) fn lost(execution: Execution, source: impl Into<Option<io::Error>>) -> Self {
        Self::Lost { execution, source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId { field } => {
                write!(f, "the {field} is empty or too long; use one of 1 to {ID_BYTES_MAX} bytes")
            }
            Self::NotJson(error) => error.fmt(f),
            Self::TooLarge { body_bytes, body_bytes_max } => write!(
                f,
                "the message has {body_bytes} bytes and may have {body_bytes_max}; send it in \
                 parts, or raise frame_bytes_max here and --max-frame-bytes at the server"
            ),
            Self::Backlog { messages } => write!(
                f,
                "{messages} messages came before the answer and nobody fetched them; call \
                 receive more often, or use a connection of its own for subscriptions"
            ),
            Self::Unreachable { endpoint, source } => unreachable_text(f, endpoint, source),
            #[cfg(feature = "tls")]
            Self::Tls { endpoint, what, .. } => write!(f, "no TLS with {endpoint}: {what}"),
            Self::Answered { code, text } => write!(f, "{text} ({code})"),
            Self::Deadline { waiting_for, waited, execution: Execution::Possible } => write!(
                f,
                "{waiting_for} did not come within {waited:?}; see whether the one who serves \
                 it is alive, or wait longer"
            ),
            Self::Deadline { waiting_for, waited, execution: Execution::Never } => write!(
                f,
                "{waiting_for} did not come within {waited:?}, for it could not be sent; see \
                 whether the server is alive, and ask again"
            ),
            Self::BadAnswer(error) => {
                write!(f, "the answer is not what was asked for: {error}")
            }
            Self::Lost { execution, source } => {
                f.write_str("the connection to the server is lost")?;
                if let Some(source) = source {
                    write!(f, " ({source})")?;
                }
                f.write_str(match execution {
                    Execution::Never => "; nothing was done, connect and ask again",
                    Execution::Possible => {
                        "; connect again, and ask again only if doing it twice is harmless"
                    }
                })
            }
            Self::Protocol { what } => write!(
                f,
                "the server's words are not the protocol ({what}); see that an ipc-framework \
                 server listens there"
            ),
            Self::Disconnected => f.write_str(
                "there is no connection to the server just now; try again once it is back",
            ),
            Self::QueueFull { bytes_max } => write!(
                f,
                "{bytes_max} bytes wait to be sent already; send less, or raise queue_bytes_max"
            ),
            Self::Closed => f.write_str("the client is closed; connect a new one"),
            Self::OnClientThread => f.write_str(
                "a handler cannot wait for its own thread; ask with send_request_async there, \
                 and close from another thread",
            ),
            Self::System { doing, source } => write!(f, "the system refused {doing}: {source}"),
        }
    }
}

fn unreachable_text(
    f: &mut fmt::Formatter<'_>,
    endpoint: &Endpoint,
    source: &io::Error,
) -> fmt::Result {
    use io::ErrorKind;
    match (source.kind(), endpoint) {
        (ErrorKind::ConnectionRefused, Endpoint::Tcp { .. }) => {
            write!(f, "nothing listens on {endpoint}; start it with `ipc serve`")
        }
        (ErrorKind::ConnectionRefused | ErrorKind::NotFound, Endpoint::Unix(_)) => {
            write!(f, "nothing listens on {endpoint}; start it with `ipc serve --unix {endpoint}`")
        }
        (ErrorKind::PermissionDenied, _) => write!(
            f,
            "cannot connect to {endpoint}: permission denied; run as the user who runs the \
             server, or have it started with a more open --unix-mode"
        ),
        (ErrorKind::TimedOut | ErrorKind::WouldBlock, _) => write!(
            f,
            "{endpoint} does not answer; see that the address is right and nothing in between \
             drops connections"
        ),
        _ => write!(f, "cannot connect to {endpoint}: {source}; see that the address is right"),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotJson(error) => Some(error),
            Self::BadAnswer(error) => Some(error),
            Self::Unreachable { source, .. }
            | Self::System { source, .. }
            | Self::Lost { source: Some(source), .. } => Some(source),
            _ => None,
        }
    }
}
