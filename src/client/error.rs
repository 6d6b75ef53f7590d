//! Errors between a caller and whoever answers it.

use std::time::{Duration, Instant};
use std::{fmt, io};

use super::endpoint::Endpoint;
use crate::proto::{DecodeError, ErrorCode, ID_BYTES_MAX, Json, JsonError};

/// The reason why a client could not do what it was asked. Its text says what to do next.
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
        /// The name of the field.
        field: &'static str,
    },
    /// The value cannot be written as JSON.
    NotJson(JsonError),
    /// The message would be larger than [`Options::frame_bytes_max`](super::Options).
    TooLarge {
        /// Size of the frame's body.
        body_bytes: usize,
        /// Size that it may have.
        body_bytes_max: usize,
    },
    /// More messages came while a request waited for its answer than are kept. None is lost:
    /// receive them, then go on. Nothing is known of the request.
    Backlog {
        /// Number of messages that are kept.
        messages: usize,
    },
    /// The client could not connect.
    Unreachable {
        /// The address that was tried.
        endpoint: Endpoint,
        /// The error of the system.
        source: io::Error,
    },
    /// None of several servers could be used. Each was tried once.
    NoServer {
        /// The address of each server, and the reason why it could not be used.
        failures: Vec<(Endpoint, Error)>,
    },
    /// The addresses of the options cannot be used, or a text lists none.
    BadAddresses {
        /// A sentence that says what is wrong and what to do.
        what: String,
    },
    /// The TLS handshake with the server failed: one side does not trust the other, or does not
    /// speak TLS.
    #[cfg(feature = "tls")]
    Tls {
        /// The address that was tried.
        endpoint: Endpoint,
        /// The side that has to change something.
        fault: Fault,
        /// A sentence that says what is wrong and what to do.
        what: String,
    },
    /// The answer is an error, sent by the server or by whoever serves the channel.
    Answered {
        /// The kind of error.
        code: ErrorCode,
        /// The sentence that came with it.
        text: String,
    },
    /// The answer is an error of the application, from the handler that serves the channel, see
    /// [`HandlerError::app`](crate::HandlerError::app).
    Application {
        /// The code as it stands on the wire, with the prefix `app:`.
        code: String,
        /// The sentence that came with it.
        text: String,
        /// The value that the handler added, if it added one.
        details: Option<Json<'static>>,
    },
    /// The request was cancelled: by its token, its requester, or the worker's answer came too late
    /// to be wanted.
    Cancelled {
        /// Tells whether the request may have been executed, at least in part.
        execution: Execution,
    },
    /// The server does not know what this needs.
    Unsupported {
        /// The thing that it does not know.
        what: &'static str,
    },
    /// No server takes this as a pattern.
    BadPattern {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The client subscribes to the channel already, with other options. What a server keeps is sent
    /// at the first subscription alone.
    AlreadySubscribed {
        /// The channel, or the pattern.
        channel_id: String,
    },
    /// The trace and the headers of a message are larger than a server takes.
    MetaTooLarge {
        /// Size of them together.
        bytes: usize,
        /// Size that they may have.
        bytes_max: usize,
    },
    /// It did not happen in time. A request may have been executed all the same.
    Deadline {
        /// The thing that did not come.
        waiting_for: &'static str,
        /// The time that was waited.
        waited: Duration,
        /// Tells whether the request may have been executed. It was not if it never left, because
        /// it waited for a connection.
        execution: Execution,
    },
    /// The connection was lost.
    Lost {
        /// Tells whether the request may have been executed.
        execution: Execution,
        /// The error of the system; none if the server closed the connection in good order.
        source: Option<io::Error>,
    },
    /// The received bytes are not the protocol. The connection cannot be used any more.
    Protocol {
        /// The violation that was found.
        what: String,
    },
    /// The answer came, but does not have the expected shape.
    BadAnswer(DecodeError),
    /// A message came whose attachments do not agree with it. The connection goes on.
    BadAttachments {
        /// The rule that they break.
        what: String,
    },
    /// There is no connection now, and the options say that messages do not wait for one.
    Disconnected,
    /// The queue of messages that wait to be sent is full.
    QueueFull {
        /// Bytes that may wait.
        bytes_max: usize,
    },
    /// The client was closed, or has given up reconnecting.
    Closed,
    /// A handler cannot wait for its own thread.
    OnClientThread,
    /// A call of the operating system failed.
    System {
        /// The thing that was attempted.
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

/// Says whether a request without an answer may have been executed.
///
/// ```
/// use ipc_framework::client::{Error, Execution};
///
/// let error = Error::Lost { execution: Execution::Never, source: None };
/// assert_eq!(error.execution(), Execution::Never); // it is safe to ask again
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// It never left, or was refused. Sending it again does not execute it twice.
    Never,
    /// It left. Sending it again may execute it twice.
    Possible,
}

/// The side that has to do something about an [`Error`].
///
/// ```
/// use ipc_framework::client::{Error, Fault};
///
/// assert_eq!(Error::BadId { field: "channel_id" }.fault(), Fault::Caller);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller: the call cannot succeed as it is.
    Caller,
    /// The program that serves the channel.
    Peer,
    /// The server, or the network path to it.
    Server,
    /// The operating system.
    System,
}

impl Error {
    /// Returns the code of the error as it stands on the wire: one of the application begins with
    /// `app:`, any other is an [`ErrorCode`]. An error for which the wire has no code has none.
    ///
    /// ```
    /// use ipc_framework::client::Error;
    ///
    /// let (code, text) = ("app:not_found".to_owned(), "there is no coffee".to_owned());
    /// let error = Error::Application { code, text, details: None };
    /// assert_eq!(error.code(), Some("app:not_found"));
    /// assert!(error.is_application());
    /// assert_eq!(error.to_string(), "there is no coffee (app:not_found)");
    /// ```
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Answered { code, .. } => Some(code.as_str()),
            Self::Application { code, .. } => Some(code),
            Self::Cancelled { .. } => Some(ErrorCode::Cancelled.as_str()),
            Self::Unsupported { .. } => Some(ErrorCode::Unsupported.as_str()),
            _ => None,
        }
    }

    /// Returns whether the application's handler answered with an error of its own.
    pub fn is_application(&self) -> bool {
        matches!(self, Self::Application { .. })
    }

    /// Returns the details of an error of the application.
    pub fn details(&self) -> Option<&Json<'static>> {
        match self {
            Self::Application { details, .. } => details.as_ref(),
            _ => None,
        }
    }

    /// The side that has to change something.
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadId { .. }
            | Self::NotJson(_)
            | Self::TooLarge { .. }
            | Self::MetaTooLarge { .. }
            | Self::BadPattern { .. }
            | Self::AlreadySubscribed { .. }
            | Self::Backlog { .. }
            | Self::Cancelled { .. }
            | Self::BadAddresses { .. }
            | Self::Closed
            | Self::OnClientThread => Fault::Caller,
            Self::NoServer { failures } => {
                let mut faults = failures.iter().map(|(_, error)| error.fault());
                let first = faults.next().unwrap_or(Fault::Server);
                if faults.all(|fault| fault == first) { first } else { Fault::Server }
            }
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::BadAttachments { .. }
            | Self::Disconnected
            | Self::QueueFull { .. }
            | Self::Unsupported { .. }
            | Self::Deadline { execution: Execution::Never, .. } => Fault::Server,
            Self::Deadline { .. } | Self::BadAnswer(_) | Self::Application { .. } => Fault::Peer,
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

    /// Returns whether the request may have been executed.
    pub fn execution(&self) -> Execution {
        match self {
            Self::Lost { execution, .. }
            | Self::Deadline { execution, .. }
            | Self::Cancelled { execution } => *execution,
            Self::Backlog { .. }
            | Self::Protocol { .. }
            | Self::BadAnswer(_)
            | Self::BadAttachments { .. }
            | Self::Application { .. } => Execution::Possible,
            Self::Answered { code, .. } => match code {
                ErrorCode::HandlerFailed
                | ErrorCode::WorkerLost
                | ErrorCode::Timeout
                | ErrorCode::Cancelled => Execution::Possible,
                _ => Execution::Never,
            },
            Self::BadId { .. }
            | Self::NotJson(_)
            | Self::TooLarge { .. }
            | Self::MetaTooLarge { .. }
            | Self::BadPattern { .. }
            | Self::AlreadySubscribed { .. }
            | Self::Unsupported { .. }
            | Self::Unreachable { .. }
            | Self::NoServer { .. }
            | Self::BadAddresses { .. }
            | Self::Disconnected
            | Self::QueueFull { .. }
            | Self::Closed
            | Self::OnClientThread
            | Self::System { .. } => Execution::Never,
            #[cfg(feature = "tls")]
            Self::Tls { .. } => Execution::Never,
        }
    }

    /// Returns whether the error announces another connection, and is not the server's answer to the
    /// request.
    pub(super) fn is_end_of_connection(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Answered { code: ErrorCode::ShuttingDown, .. })
    }

    /// Returns this error of an attempt to connect for another caller, as far as it can be repeated.
    pub(super) fn repeated(&self) -> Self {
        match self {
            Self::Unreachable { endpoint, source } => Self::Unreachable {
                endpoint: endpoint.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Answered { code, text } => Self::Answered { code: *code, text: text.clone() },
            Self::NoServer { failures } => {
                let repeated = |(at, error): &(Endpoint, Self)| (at.clone(), error.repeated());
                Self::NoServer { failures: failures.iter().map(repeated).collect() }
            }
            Self::Lost { execution, source } => {
                let again = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
                Self::Lost { execution: *execution, source: source.as_ref().map(again) }
            }
            Self::Deadline { waiting_for, waited, execution } => {
                Self::Deadline { waiting_for, waited: *waited, execution: *execution }
            }
            Self::Protocol { what } => Self::Protocol { what: what.clone() },
            #[cfg(feature = "tls")]
            Self::Tls { endpoint, fault, what } => {
                Self::Tls { endpoint: endpoint.clone(), fault: *fault, what: what.clone() }
            }
            _ => Self::Disconnected,
        }
    }

    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    /// An error of a wait for something that may have happened.
    pub(super) fn deadline(waiting_for: &'static str, waited: Duration) -> Self {
        Self::Deadline { waiting_for, waited, execution: Execution::Possible }
    }

    /// Returns this error, or that of a deadline if it is the server's word that the caller's own one
    /// has passed: the server may say so a moment before the client notices.
    pub(super) fn or_deadline(self, begin: Instant, deadline: Option<Instant>) -> Self {
        /// Timers are late, and a clock in a virtual machine may be.
        const SLACK: Duration = Duration::from_millis(250);
        match (&self, deadline) {
            (Self::Answered { code: ErrorCode::Timeout, .. }, Some(deadline))
                if deadline <= Instant::now() + SLACK =>
            {
                Self::deadline("the answer", deadline.saturating_duration_since(begin))
            }
            _ => self,
        }
    }

    /// An error of a stream whose server breaks the rules of streams.
    pub(super) fn broken_stream(what: &str) -> Self {
        Self::Protocol { what: what.to_owned() }
    }

    pub(super) fn unsupported_streams() -> Self {
        Self::Unsupported { what: "answers in parts (the extension `call`)" }
    }

    pub(super) fn unsupported_attachments() -> Self {
        Self::Unsupported { what: "bytes and tensors beside JSON (the extension `binary`)" }
    }

    pub(super) fn unsupported_topics() -> Self {
        let what = "patterns, last values and histories of channels (the extension `topic`)";
        Self::Unsupported { what }
    }

    pub(super) fn unsupported_headers() -> Self {
        Self::Unsupported { what: "headers (the extension `call`)" }
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
                "{messages} messages came before the answer and were not received; call receive \
                 more often, or use a separate connection for subscriptions"
            ),
            Self::Unreachable { endpoint, source } => unreachable_text(f, endpoint, source),
            Self::NoServer { failures } => no_server_text(f, failures),
            Self::BadAddresses { what } => f.write_str(what),
            #[cfg(feature = "tls")]
            Self::Tls { endpoint, what, .. } => write!(f, "no TLS with {endpoint}: {what}"),
            Self::Answered { code, text } => write!(f, "{text} ({code})"),
            Self::Application { code, text, .. } => write!(f, "{text} ({code})"),
            Self::Cancelled { execution } => f.write_str(match execution {
                Execution::Never => "the request was cancelled before it was sent",
                Execution::Possible => {
                    "the request was cancelled; a part of its work may have been done"
                }
            }),
            Self::Unsupported { what } => write!(
                f,
                "the server does not know {what}; update the server, or do without (unsupported)"
            ),
            Self::BadPattern { what } => write!(f, "this is no pattern: {what}"),
            Self::AlreadySubscribed { channel_id } => write!(
                f,
                "this client subscribes to {channel_id:?} already, with other options; use the same, \
                 unsubscribe before, or use another client"
            ),
            Self::MetaTooLarge { bytes, bytes_max } => write!(
                f,
                "the trace and the headers have {bytes} bytes and may have {bytes_max}; send fewer \
                 or shorter headers"
            ),
            Self::Deadline { waiting_for, waited, execution: Execution::Possible } => write!(
                f,
                "{waiting_for} did not come within {waited:?}; check that whoever serves it is \
                 alive, or wait longer"
            ),
            Self::Deadline { waiting_for, waited, execution: Execution::Never } => write!(
                f,
                "{waiting_for} did not come within {waited:?}, because the message could not be \
                 sent; check that the server is alive, and try again"
            ),
            Self::BadAnswer(error) => {
                write!(f, "the answer does not have the expected shape: {error}")
            }
            Self::BadAttachments { what } => write!(
                f,
                "a message came whose attachments are not usable ({what}); check that its sender \
                 follows the protocol"
            ),
            Self::Lost { execution, source } => {
                f.write_str("the connection to the server is lost")?;
                if let Some(source) = source {
                    write!(f, " ({source})")?;
                }
                f.write_str(match execution {
                    Execution::Never => "; nothing was executed, connect again and repeat it",
                    Execution::Possible => {
                        "; connect again, and repeat it only if executing it twice is harmless"
                    }
                })
            }
            Self::Protocol { what } => write!(
                f,
                "the server does not speak the protocol ({what}); check that an ipc-framework \
                 server listens there"
            ),
            Self::Disconnected => {
                f.write_str("there is no connection to the server now; try again once it is back")
            }
            Self::QueueFull { bytes_max } => write!(
                f,
                "{bytes_max} bytes are already waiting to be sent; send less, or raise queue_bytes_max"
            ),
            Self::Closed => f.write_str("the client is closed; connect a new one"),
            Self::OnClientThread => f.write_str(
                "a handler cannot wait for its own thread; use send_request_async there, and \
                 close from another thread",
            ),
            Self::System { doing, source } => write!(f, "the system refused {doing}: {source}"),
        }
    }
}

/// The port of a server that was given none.
const PORT: u16 = 8888;

fn unreachable_text(
    f: &mut fmt::Formatter<'_>,
    endpoint: &Endpoint,
    source: &io::Error,
) -> fmt::Result {
    use io::ErrorKind;
    match (source.kind(), endpoint) {
        (ErrorKind::ConnectionRefused, Endpoint::Tcp { port: PORT, .. }) => {
            write!(f, "nothing listens on {endpoint}; start it with `ipc serve`")
        }
        (ErrorKind::ConnectionRefused, Endpoint::Tcp { port, .. }) => {
            write!(f, "nothing listens on {endpoint}; start it with `ipc serve --port {port}`")
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
            "{endpoint} does not answer; check the address, and that nothing in between drops \
             connections"
        ),
        _ => write!(f, "cannot connect to {endpoint}: {source}; check the address"),
    }
}

/// Names each server with its reason. What to do is the same for all of them.
fn no_server_text(f: &mut fmt::Formatter<'_>, failures: &[(Endpoint, Error)]) -> fmt::Result {
    write!(f, "none of {} servers can be used", failures.len())?;
    for (at, (endpoint, error)) in failures.iter().enumerate() {
        f.write_str(if at == 0 { ": " } else { ", " })?;
        match error {
            Error::Unreachable { source, .. } => write!(f, "{endpoint} ({source})")?,
            #[cfg(feature = "tls")]
            Error::Tls { what, .. } => write!(f, "{endpoint} (no TLS: {what})")?,
            Error::Lost { source: None, .. } => {
                write!(f, "{endpoint} (it closed the connection before it did anything)")?;
            }
            error => write!(f, "{endpoint} ({error})")?,
        }
    }
    f.write_str("; see that one of them runs, and that the addresses are right")
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
