//! Tokens from files and from the environment.

use std::path::Path;

use ipc_framework::Token;

use super::failure::Failure;

/// Reads the variable `IPC_TOKEN`. A token that cannot be read is an error, not an absent one.
pub(super) fn from_environment() -> Result<Option<String>, Failure> {
    match std::env::var("IPC_TOKEN") {
        Ok(token) => Ok(Some(token)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::usage("IPC_TOKEN is not UTF-8; set it to text, or unset it"))
        }
    }
}

/// Returns whether `IPC_TOKEN` is set, to whatever.
pub(super) fn is_in_environment() -> bool {
    std::env::var_os("IPC_TOKEN").is_some()
}

/// Reads a token from a file. A file that everybody may read is refused.
pub(super) fn from_file(path: &Path) -> Result<Token, Failure> {
    Ok(Token::from_file(path)?)
}
