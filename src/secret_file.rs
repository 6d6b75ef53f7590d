//! Reads secrets from files, which must be small and not open to every user.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::{Error, Token};

/// Tokens and keys are far smaller; a larger file was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The permission bits that a secret must not have: every user may read or write the file.
const OF_OTHERS: u32 = 0o006;

impl Token {
    /// Reads a token from a file, without the end of the line.
    ///
    /// # Errors
    /// - [`Error::File`]: the file cannot be read, is not a regular file, or every user of the
    ///   machine may read or write it.
    /// - [`Error::Config`]: the file is empty.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// # let path = std::env::temp_dir().join(format!("ipc-token-{}", std::process::id()));
    /// std::fs::write(&path, "a long secret\n")?;
    /// std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    /// let error = ipc_framework::Token::from_file(&path).unwrap_err();
    /// assert!(error.to_string().contains("chmod 600"));
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = read(path, true)?;
        let token = text.trim_end_matches(['\r', '\n']);
        if token.trim().is_empty() {
            let path = path.display();
            let text = format!("the token file {path} is empty; write the token into it");
            return Err(Error::Config(text));
        }
        Ok(Self::new(token))
    }
}

/// Reads a small file, which must not be open to everybody if it is a secret.
pub(crate) fn read(path: &Path, is_secret: bool) -> Result<String, Error> {
    let read = || {
        // Without this, opening a pipe could block, and a reload would block the server.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        // The permissions are read from the open file, because the path may lead to another by now.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file; put the text into one"));
        }
        let mode = metadata.permissions().mode();
        if is_secret && mode & OF_OTHERS != 0 {
            let path = path.display();
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "it is a secret and everybody may read or write it; run `chmod 600 {path}`"
                ),
            ));
        }
        let mut text = String::new();
        if file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64 > FILE_BYTES_MAX {
            let why = format!("it is larger than {FILE_BYTES_MAX} bytes; check its path");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(text)
    };
    read().map_err(|source| Error::File { path: path.to_owned(), source })
}
