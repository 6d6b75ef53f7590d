//! Finds a few members of an object in its text. The rest is skipped, however large it is.

use std::borrow::Cow;

use super::json_str::JsonStr;
use super::limits::ID_BYTES_MAX;
use super::scanner::{Scanner, Stop};

/// The value of an object's member. If a name is given twice, the first value counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Member<'a> {
    #[default]
    Absent,
    /// A string of whole characters. One with half of a surrogate pair is `Other`.
    String(JsonStr<'a>),
    True,
    Other,
}

impl<'a> Member<'a> {
    pub(crate) fn string(self) -> Option<JsonStr<'a>> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// The string, if its length is that of an id. A longer one is not decoded.
    pub(crate) fn id(self) -> Option<Cow<'a, str>> {
        let id = self.string()?;
        let is_usable = id.decoded_len().is_some_and(|len| (1..=ID_BYTES_MAX).contains(&len));
        is_usable.then(|| id.decode())
    }
}

/// Finds the members with these names in a valid document. Returns `None` if it is no object.
pub(crate) fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Option<[Member<'a>; N]> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'{') {
        return None;
    }
    scanner.bump();
    let mut found = [Member::Absent; N];
    // The text is valid, so that the search ends with the closing brace at the latest.
    while let Ok(true) = next(&mut scanner, &names, &mut found) {}
    Some(found)
}

/// A name that an object has more than once, although its value must be unambiguous.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenTwice;

/// Finds the text of the value of a member that may be given once, in a valid document.
pub(crate) fn only_member<'a>(text: &'a str, name: &str) -> Result<Option<&'a str>, GivenTwice> {
    let mut scanner = Scanner::new(text);
    let mut found = None;
    if scanner.peek() != Some(b'{') {
        return Ok(None);
    }
    scanner.bump();
    // The text is valid, so that the loop ends at the closing brace at the latest.
    while scanner.peek() != Some(b'}') {
        let Ok(key) = scanner.key() else { break };
        let Ok(value) = scanner.value(1) else { break };
        if key.matches(name) && found.replace(value).is_some() {
            return Err(GivenTwice);
        }
        if scanner.peek() == Some(b',') {
            scanner.bump();
        }
    }
    Ok(found)
}

/// Finds the texts of the values of these members in a valid document. Returns `None` if it is no
/// object, has another member, or has one of these twice.
pub(crate) fn exact_members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Option<[Option<&'a str>; N]> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'{') {
        return None;
    }
    scanner.bump();
    let mut found = [None; N];
    while scanner.peek() != Some(b'}') {
        let key = scanner.key().ok()?;
        let value = scanner.value(1).ok()?;
        let at = names.iter().position(|name| key.matches(name))?;
        if found[at].replace(value).is_some() {
            return None;
        }
        if scanner.peek() == Some(b',') {
            scanner.bump();
        }
    }
    Some(found)
}

/// Reads one member and the comma behind it. Returns whether the search goes on.
fn next<'a>(
    scanner: &mut Scanner<'a>,
    names: &[&str],
    found: &mut [Member<'a>],
) -> Result<bool, Stop> {
    if scanner.peek() == Some(b'}') {
        return Ok(false);
    }
    let key = scanner.key()?;
    let value = match scanner.peek() {
        Some(b'"') => {
            let string = scanner.string()?;
            let is_unicode = string.decoded_len().is_some();
            if is_unicode { Member::String(string) } else { Member::Other }
        }
        _ if scanner.value(1)? == "true" => Member::True,
        _ => Member::Other,
    };
    if let Some(at) = names.iter().position(|name| key.matches(name))
        && found[at] == Member::Absent
    {
        found[at] = value;
    }
    let goes_on = scanner.peek() == Some(b',') && found.contains(&Member::Absent);
    if goes_on {
        scanner.bump();
    }
    Ok(goes_on)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn strings(text: &str) -> Option<[Option<String>; 2]> {
        let found = members(text, ["action", "ack"])?;
        Some(found.map(|member| member.string().map(|string| string.decode().into_owned())))
    }

    #[test]
    fn members_are_found_by_what_their_keys_mean() {
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("{}", Some([None, None])),
            ("{ \n}", Some([None, None])),
            (r#"{"action":"ping"}"#, Some([some("ping"), None])),
            (
                r#" { "x" : [ { "action" : "no" } ] , "\u0061ction" : "a\nb" } "#,
                Some([some("a\nb"), None]),
            ),
            (r#"{"action":"first","action":"second"}"#, Some([some("first"), None])),
            (r#"{"action":1,"action":"second","ack":"x"}"#, Some([None, some("x")])),
            (r#"{"ACTION":"x","action ":"y","":"z"}"#, Some([None, None])),
            (r#"{"action":"\ud800","ack":"\ud83d\ude00"}"#, Some([None, some("\u{1f600}")])),
            ("[]", None),
            ("null", None),
            (r#""action""#, None),
        ] {
            assert_eq!(strings(text), expected, "{text}");
        }
        let kinds = members(r#"{"a":true,"b":false,"d":1e400}"#, ["a", "b", "c", "d"]).unwrap();
        assert_eq!(kinds, [Member::True, Member::Other, Member::Absent, Member::Other]);
    }

    #[test]
    fn a_member_that_may_be_given_once_is_looked_for_to_the_end() {
        for (text, expected) in [
            ("{}", Ok(None)),
            ("[]", Ok(None)),
            ("{\"n\" : 12 }", Ok(Some("12"))),
            ("{ \"a\": {\"n\": 1}, \"n\":\n-0.5e3, \"b\": [2] }", Ok(Some("-0.5e3"))),
            (r#"{"\u006e":"x","m":null}"#, Ok(Some(r#""x""#))),
            (r#"{"n":{"n":1},"\ud800":2}"#, Ok(Some(r#"{"n":1}"#))),
            (r#"{"n":1,"m":2,"\u006e":1}"#, Err(GivenTwice)),
            (r#"{"n":null,"n":null}"#, Err(GivenTwice)),
        ] {
            assert_eq!(only_member(text, "n"), expected, "{text}");
        }
    }

    #[test]
    fn an_object_with_another_member_is_not_an_exact_one() {
        for (text, expected) in [
            ("{}", Some([None, None])),
            ("[]", None),
            (
                r#" { "b" : [1, {"c": 2}] , "\u0061":"x" } "#,
                Some([Some("\"x\""), Some("[1, {\"c\": 2}]")]),
            ),
            (r#"{"a":1e400}"#, Some([Some("1e400"), None])),
            (r#"{"a":1,"c":2}"#, None),
            (r#"{"a":1,"\u0061":1}"#, None),
        ] {
            assert_eq!(exact_members(text, ["a", "b"]), expected, "{text}");
        }
    }

    #[test]
    fn an_id_is_bounded() {
        let id = |text: &str| {
            let text = json!({"id": text}).to_string();
            members(&text, ["id"]).unwrap()[0].id().map(Cow::into_owned)
        };
        assert_eq!(id("\n").as_deref(), Some("\n"));
        assert_eq!(id(""), None);
        assert!(id(&"\n".repeat(ID_BYTES_MAX)).is_some());
        assert_eq!(id(&"\n".repeat(ID_BYTES_MAX + 1)), None);
    }

    fn some_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-b\"\\\\\n]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = "[a-c\"\\\\]{1,2}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_serde_json_finds(document in some_json(), is_pretty: bool) {
            let pretty = serde_json::to_string_pretty(&document).unwrap();
            let text = if is_pretty { pretty } else { document.to_string() };
            let found = members(&text, ["a", "b", "\""]);
            prop_assert_eq!(found.is_some(), document.is_object());
            for (member, name) in found.into_iter().flatten().zip(["a", "b", "\""]) {
                match document.get(name) {
                    None => prop_assert_eq!(member, Member::Absent),
                    Some(Value::Bool(true)) => prop_assert_eq!(member, Member::True),
                    Some(Value::String(expected)) => {
                        prop_assert_eq!(&*member.string().unwrap().decode(), expected);
                    }
                    Some(_) => prop_assert_eq!(member, Member::Other),
                }
            }
        }
    }
}
