use std::borrow::Cow;
use std::fmt;
use std::io;
use std::process::ExitCode;

use ipc_framework::{ErrorCode, client};

use super::program;

/// The reason why the program ends early: one sentence, and an exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The usage is wrong: exit code 2.
    Usage(String),
    /// Something failed, or the server answered with an error: exit code 1.
    Runtime(String),
    /// There is no connection, or it was lost: exit code 3.
    Unconnected(String),
    /// No answer came in time: exit code 4.
    Timeout(String),
    /// The reader of the output closed it: exit code 0, and no message.
    UnreadOutput,
}

/// Appends the meaning of the exit codes to the help of a subcommand.
macro_rules! with_exit_codes {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nExit codes: 0 done, 1 the server answered with an error or something failed, \
             2 wrong usage, 3 no connection, 4 no answer in time."
        )
    };
}
pub(super) use with_exit_codes;

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn runtime(text: impl Into<String>) -> Self {
        Self::Runtime(text.into())
    }

    /// The failure of a write to standard output.
    #[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
    pub(super) fn writing(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::UnreadOutput;
        }
        Self::Runtime(format!("cannot write to standard output: {error}"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::UnreadOutput => ExitCode::SUCCESS,
            Self::Runtime(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Unconnected(_) => ExitCode::from(3),
            Self::Timeout(_) => ExitCode::from(4),
        }
    }

    /// Returns the sentence to show, if there is one.
    pub(crate) fn sentence(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Usage(text)
            | Self::Runtime(text)
            | Self::Unconnected(text)
            | Self::Timeout(text) => Some(program::as_typed(text)),
            Self::UnreadOutput => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence().unwrap_or("nobody reads the output".into()))
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&client::Error> for Failure {
    fn from(error: &client::Error) -> Self {
        let text = match error {
            // The server speaks of the wire. It also refuses users, and says that as it is.
            client::Error::Answered { code: code @ ErrorCode::AuthFailed, text }
                if text.starts_with("the token") =>
            {
                let what = text.split_once("; connect again").map_or(&**text, |(what, _)| what);
                format!("{what}; give it with --token-file FILE or in IPC_TOKEN ({code})")
            }
            error => error.to_string(),
        };
        match error {
            client::Error::BadId { .. }
            | client::Error::BadAddresses { .. }
            | client::Error::NotJson(_)
            | client::Error::TooLarge { .. } => Self::Usage(text),
            client::Error::Unreachable { .. }
            | client::Error::NoServer { .. }
            | client::Error::Lost { .. }
            | client::Error::Tls { .. }
            | client::Error::Protocol { .. } => Self::Unconnected(text),
            client::Error::Deadline { .. } => Self::Timeout(text),
            _ => Self::Runtime(text),
        }
    }
}

impl From<ipc_framework::Error> for Failure {
    fn from(error: ipc_framework::Error) -> Self {
        match error {
            ipc_framework::Error::Config(text) => Self::Usage(text),
            ipc_framework::Error::Unprotected { address } => Self::Usage(format!(
                "{address} can be reached from other machines, and no token is required; give \
                 --token-file or IPC_TOKEN, listen on localhost, or say --insecure"
            )),
            other => Self::Runtime(other.to_string()),
        }
    }
}
