use std::fmt;
use std::process::ExitCode;

/// Why the program ends early: one sentence, and whose fault it is.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense: exit code 2.
    Usage(String),
    /// It made sense and did not work: exit code 1.
    Runtime(String),
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn runtime(text: impl Into<String>) -> Self {
        Self::Runtime(text.into())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Runtime(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Runtime(text)) = self;
        f.write_str(text)
    }
}

impl From<ipc_framework::Error> for Failure {
    fn from(error: ipc_framework::Error) -> Self {
        match error {
            ipc_framework::Error::Config(text) => Self::Usage(text),
            ipc_framework::Error::Unprotected { address } => Self::Usage(format!(
                "{address} can be reached from other machines, and no token is asked for; give \
                 --token-file or IPC_TOKEN, listen on localhost, or say --insecure"
            )),
            other => Self::Runtime(other.to_string()),
        }
    }
}
