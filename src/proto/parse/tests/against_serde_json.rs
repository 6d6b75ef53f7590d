//! Messages are read as `serde_json` and the rules of the protocol read them.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::FIELDS;
use crate::proto::ErrorCode;
use crate::proto::oracle::Reading;
use crate::proto::scanner::tests::{apply, cases, damage, json_text, string_text};

/// A message, or nearly one.
fn nearly_a_message() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        2 => string_text(true),
        2 => string_text(false),
        1 => (200_usize..300).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
        1 => (100_usize..150).prop_map(|length| format!("\"{}\"", "\\u00e9".repeat(length))),
        2 => select(vec!["null", "\"\"", "\"publish\"", "\"\\u0070ublish\"", "17"])
            .prop_map(str::to_owned),
        2 => json_text(),
    ];
    let key = prop_oneof![
        8 => select(FIELDS.map(|(name, _)| name).to_vec()).prop_map(str::to_owned),
        1 => string_text(true).prop_map(|text| text[1..text.len() - 1].to_owned()),
    ];
    let fields = Just(FIELDS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec());
    let space = select(vec!["", " ", "\r\n\t"]);
    (
        fields,
        json_text(),
        prop::collection::vec((any::<Index>(), value.clone()), 0..3),
        prop::option::weighted(0.3, any::<Index>()),
        prop::option::weighted(0.3, (key, value)),
        prop::option::weighted(0.3, (any::<Index>(), any::<Index>())),
        space,
    )
        .prop_map(|(mut fields, payload, changed, dropped, added, escaped, space)| {
            fields[4].1 = payload;
            for (at, value) in changed {
                let at = at.index(fields.len());
                fields[at].1 = value;
            }
            if let Some(at) = dropped {
                fields.remove(at.index(7));
            }
            fields.extend(added);
            if let Some((at, char)) = escaped {
                let at = at.index(fields.len());
                fields[at].0 = escape_one(&fields[at].0, char);
            }
            (fields, space)
        })
        .prop_flat_map(|(fields, space)| (Just(fields).prop_shuffle(), Just(space)))
        .prop_map(|(fields, s)| {
            let member = |(key, value)| format!("{s}\"{key}\"{s}:{s}{value}{s}");
            let members: Vec<_> = fields.into_iter().map(member).collect();
            format!("{s}{{{}}}{s}", members.join(","))
        })
}

/// Writes one character of a key as an escape.
fn escape_one(key: &str, at: Index) -> String {
    if key.is_empty() || !key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()) {
        return key.to_owned();
    }
    let at = at.index(key.len());
    format!("{}\\u{:04X}{}", &key[..at], key.as_bytes()[at], &key[at + 1..])
}

/// Each byte of a message replaced by each that means something to JSON.
#[test]
#[cfg_attr(miri, ignore = "3,000 documents; the cases of the other tests are of the same kind")]
fn agrees_on_every_single_byte_replaced() {
    let mut fields = FIELDS;
    fields[0].1 = r#""\u0061\ud83d\ude00""#;
    fields[6].1 = r#""é""#;
    let message = super::body(&fields).into_bytes();
    for at in 0..message.len() {
        for &byte in b"\"\\{}[]:,-+.e0tnu \n\0\x80\xc3" {
            let mut body = message.clone();
            body[at] = byte;
            let shown = String::from_utf8_lossy(&body);
            assert_eq!(Reading::ours(&body), Reading::by_serde_json(&body), "{shown}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1500)))]

    #[test]
    fn agrees_on_messages(body in nearly_a_message()) {
        let ours = Reading::ours(body.as_bytes());
        prop_assert_ne!(ours.code, Some(ErrorCode::BadFrame));
        prop_assert_eq!(ours, Reading::by_serde_json(body.as_bytes()));
    }

    #[test]
    fn agrees_on_damaged_messages(body in nearly_a_message(), damage in damage()) {
        let body = damage.into_iter().fold(body.into_bytes(), apply);
        prop_assert_eq!(Reading::ours(&body), Reading::by_serde_json(&body));
    }
}
