//! The events of a run: always as a hash, and as text if it is wanted.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};

pub(super) struct Trace {
    /// A hasher with fixed keys, so that the same events make the same hash in every process.
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(is_recorded: bool) -> Self {
        Self { hasher: DefaultHasher::new(), lines: is_recorded.then(Vec::new) }
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        let _ = fmt::write(&mut Hashed(&mut self.hasher), what);
        if let Some(lines) = &mut self.lines {
            lines.push(what.to_string());
        }
    }

    /// All bytes count for the hash; the text shows them if they are few.
    pub(super) fn note_bytes(&mut self, what: fmt::Arguments<'_>, bytes: &[u8]) {
        const SHOWN_BYTES_MAX: usize = 400;
        let _ = fmt::write(&mut Hashed(&mut self.hasher), what);
        self.hasher.write(bytes);
        if let Some(lines) = &mut self.lines {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
            lines.push(format!("{what} {} bytes {shown:?}", bytes.len()));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

struct Hashed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
