//! What peers with the extension `topic` ask for beside plain subscriptions and publications.

use arbitrary::{Arbitrary, Unstructured};
use serde_json::{Value, json};

/// The place of a publication: the epoch and the offset.
pub(super) type Place = (String, u64);

/// What a subscribe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) ack: bool,
    pub(super) pattern: bool,
    pub(super) conflate: bool,
    pub(super) last: Option<u64>,
    since: Since,
}

/// A place, as far as it can be said without knowing the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Nothing,
    /// So many behind the newest publication.
    Back(u64),
    Ahead,
    Highest,
    Foreign,
}

impl Arbitrary<'_> for Wish {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        let (flags, past) = input.arbitrary::<(u8, u8)>()?;
        let since = match past / 8 % 16 {
            0..=6 => Since::Nothing,
            back @ 7..=12 => Since::Back((back - 7).into()),
            13 => Since::Ahead,
            14 => Since::Highest,
            _ => Since::Foreign,
        };
        let last = match past % 8 {
            0..=2 => None,
            last => Some(u64::from(last - 2)),
        };
        let (ack, pattern, conflate) = (flags % 2 == 1, flags / 2 % 4 == 3, flags / 8 % 4 == 3);
        Ok(Self { ack, pattern, conflate, last, since })
    }
}

impl Wish {
    /// That of a subscription to a pattern.
    pub(super) fn of_pattern(self) -> Self {
        // Few ask for what no pattern has.
        let since = if self.since == Since::Foreign { Since::Foreign } else { Since::Nothing };
        Self { pattern: true, since, ..self }
    }

    /// Returns the payload, where this is the place of the newest publication as far as its speaker knows.
    pub(super) fn payload(self, newest: Option<&Place>) -> Value {
        let mut payload = json!({"ack": self.ack});
        if self.pattern {
            payload["pattern"] = json!(true);
        }
        if self.conflate {
            payload["conflate"] = json!(true);
        }
        if let Some(last) = self.last {
            payload["last"] = json!(last);
        }
        let unknown = ("unknown".to_owned(), 0);
        let (epoch, offset) = newest.unwrap_or(&unknown);
        let (epoch, offset) = match self.since {
            Since::Nothing => return payload,
            Since::Back(back) => (&**epoch, offset.saturating_sub(back)),
            Since::Ahead => (&**epoch, offset + 1),
            Since::Highest => (&**epoch, u64::MAX),
            Since::Foreign => ("foreign", *offset),
        };
        payload["since"] = json!({"epoch": epoch, "offset": offset});
        payload
    }
}

/// Returns the place that a payload asks for.
pub(super) fn since(payload: &Value) -> Option<Place> {
    let since = payload.get("since")?;
    Some((since["epoch"].as_str()?.to_owned(), since["offset"].as_u64()?))
}

/// Returns whether a pattern matches a name, in the shortest way to say it.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), name.split('.').collect());
    let is_reserved = name == ["system"] || name[0].starts_with('$');
    if is_reserved && pattern[0] != name[0] {
        return false;
    }
    let is_open = pattern.last() == Some(&">");
    let fixed = pattern.len() - usize::from(is_open);
    let has_length = if is_open { name.len() > fixed } else { name.len() == fixed };
    has_length && (0..fixed).all(|at| pattern[at] == "*" || pattern[at] == name[at])
}
