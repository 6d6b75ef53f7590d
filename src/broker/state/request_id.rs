//! The ids under which workers know requests.

use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// A UUID of which the last digits lead back to the request without a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(Uuid);

/// A [`RequestId`] as it stands on the wire.
pub(crate) struct RequestIdText([u8; Hyphenated::LENGTH]);

impl RequestId {
    /// Makes the id of the request at this index.
    pub(crate) fn new(random: Uuid, index: u32) -> Self {
        let mut bytes = random.into_bytes();
        bytes[12..].copy_from_slice(&index.to_be_bytes());
        Self(Uuid::from_bytes(bytes))
    }

    /// Reads an id. A worker that keeps ids as UUIDs may write them in upper case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // Other spellings of UUIDs are none that a worker was given.
        let is_hyphenated = text.len() == Hyphenated::LENGTH;
        is_hyphenated.then(|| Uuid::try_parse(text).ok().map(Self))?
    }

    pub(crate) fn text(self) -> RequestIdText {
        let mut text = [0; Hyphenated::LENGTH];
        self.0.hyphenated().encode_lower(&mut text);
        RequestIdText(text)
    }

    /// Returns the index of the request that may have this id.
    pub(crate) fn index(self) -> usize {
        let [.., a, b, c, d] = *self.0.as_bytes();
        u32::from_be_bytes([a, b, c, d]) as usize
    }
}

impl RequestIdText {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_in_both_cases_and_in_no_other_form() {
        let id = RequestId::new(Uuid::from_bytes([0xab; 16]), 0x0102_0304);
        let text = id.text();
        assert_eq!(text.as_str(), "abababab-abab-abab-abab-abab01020304");
        assert_eq!(id.index(), 0x0102_0304);
        assert_eq!(RequestId::parse(text.as_str()), Some(id));
        assert_eq!(RequestId::parse(&text.as_str().to_uppercase()), Some(id));
        for other in [
            "abababababababababababab01020304",
            "{abababab-abab-abab-abab-abab01020304}",
            "urn:uuid:abababab-abab-abab-abab-abab01020304",
            "abababab-abab-abab-abab-abab0102030é",
            "",
        ] {
            assert_eq!(RequestId::parse(other), None, "{other}");
        }
    }
}
