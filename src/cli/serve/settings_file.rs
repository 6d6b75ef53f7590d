//! The settings file, and everything that is wrong with it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::settings::{Problems, Settings};
use crate::cli::failure::Failure;

/// Limit of the file's size. A larger file is not a settings file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Limit of problems. A file with more is not a settings file.
const PROBLEMS_MAX: usize = 20;

pub(super) fn read(path: &Path) -> Result<Settings, Problems> {
    let (text, is_public) = read_text(path).map_err(|failure| vec![failure])?;
    let (settings, mut problems) = parse(path, text);
    if settings.is_without_tcp() && (settings.host.is_some() || settings.port.is_some()) {
        problems.push(Failure::usage(format!(
            "{} says no-tcp and names a host or port; leave out one of them",
            path.display()
        )));
    }
    if is_public && !settings.tokens.is_empty() {
        let path = path.display();
        problems.push(Failure::runtime(format!(
            "{path} holds a token and everybody may read it; run `chmod 600 {path}`"
        )));
    }
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// Parses the file. A line with a problem is blanked out and the rest parsed again, so that all
/// problems are reported at once.
fn parse(path: &Path, mut text: String) -> (Settings, Problems) {
    let mut problems = Vec::new();
    let settings = loop {
        let error: toml::de::Error = match toml::from_str(&text) {
            Ok(settings) => break settings,
            Err(error) => error,
        };
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let line = text[..begin].matches('\n').count() + 1;
        let message = error.message().replace('\n', " ");
        let problem = Failure::usage(format!("{}, line {line}: {message}", path.display()));
        problems.push((line, problem));
        let blamed = text[begin..end].trim();
        // If a whole table is blamed, or the text is not TOML, later problems would only follow
        // from this one.
        let ends = blamed.is_empty() || blamed.starts_with('[');
        if ends || problems.len() >= PROBLEMS_MAX || toml::from_str::<toml::Table>(&text).is_err() {
            break Settings::default();
        }
        text.replace_range(begin..end, "");
    };
    problems.sort_by_key(|(line, _)| *line);
    (settings, problems.into_iter().map(|(_, problem)| problem).collect())
}

/// Reads the file, and returns whether everybody on the machine may read it.
fn read_text(path: &Path) -> Result<(String, bool), Failure> {
    let read = || {
        // Opening a pipe would wait for its other end.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
        // These belong to the open file; the path may name another one by now.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let is_public = metadata.permissions().mode() & 0o006 != 0;
        let mut text = String::new();
        if file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64 > FILE_BYTES_MAX {
            let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok((text, is_public))
    };
    read().map_err(|error| {
        Failure::runtime(format!(
            "cannot read the configuration {}: {error}; check its path and permissions",
            path.display()
        ))
    })
}
