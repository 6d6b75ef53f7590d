use std::fmt;

use serde::Serialize;

/// A place in a channel's history, which the server gives every publication of a channel that has one.
/// A client that comes back names the last one that it saw, and gets what came after it.
///
/// Its text is `EPOCH:OFFSET`:
///
/// ```
/// use ipc_framework::proto::OwnedPosition as Position;
///
/// let position = Position::new("k3XmQ81a", 42);
/// assert_eq!(position.to_string(), "k3XmQ81a:42");
/// assert_eq!(Position::parse("k3XmQ81a:42"), Some(position));
/// assert_eq!(Position::parse("42"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Position {
    /// The name of the history. It is another one whenever the history begins anew, as after a restart
    /// of the server, and offsets of different epochs have nothing to do with each other.
    pub epoch: String,
    /// The number of the publication, from 1. The place before the first one is 0.
    pub offset: u64,
}

impl Position {
    /// Makes one of its parts.
    pub fn new(epoch: impl Into<String>, offset: u64) -> Self {
        Self { epoch: epoch.into(), offset }
    }

    /// Reads a position as it is displayed, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.rsplit_once(':')?;
        let is_usable = !epoch.is_empty() && offset.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self::new(epoch, offset.parse().ok().filter(|_| is_usable)?))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_epoch_and_an_offset_are_a_position() {
        let position = |text| Position::parse(text).map(|it| (it.epoch, it.offset));
        assert_eq!(position("a:b:7"), Some(("a:b".to_owned(), 7)));
        assert_eq!(position("e:18446744073709551615"), Some(("e".to_owned(), u64::MAX)));
        for text in ["", ":", "e:", ":1", "e:-1", "e:+1", "e: 1", "e:1.0", "e:18446744073709551616"]
        {
            assert_eq!(position(text), None, "{text}");
        }
    }
}
