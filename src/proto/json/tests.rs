use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error as _;

use proptest::prelude::*;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use simd_json::prelude::*;

use super::Json;
use crate::proto::scanner::Scanner;
use crate::proto::scanner::tests::{cases, json_text, string_text};
use crate::proto::{JsonStr, PAYLOAD_DEPTH_MAX};

fn string(text: &str) -> JsonStr<'_> {
    Scanner::new(text).string().expect(text)
}

#[test]
fn strings_decode() {
    let cases = [
        (r#""""#, ""),
        (r#""plain é""#, "plain é"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0061\u00E9\u20ac""#, "aé€"),
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\ud800\udc00\udbff\udfff""#, "\u{10000}\u{10ffff}"),
        (r#""\\u0061""#, "\\u0061"),
    ];
    for (text, meaning) in cases {
        let string = string(text);
        assert_eq!(string.raw(), &text[1..text.len() - 1]);
        assert_eq!(string.decode(), meaning);
        assert_eq!(string.decoded_len(), Some(meaning.len()));
        assert_eq!(string.is_empty(), meaning.is_empty());
        assert!(string.matches(meaning));
        assert!(!string.matches(&format!("{meaning}x")));
        assert!(!string.matches("another"));
        let borrowed = matches!(string.decode(), Cow::Borrowed(_));
        assert_eq!(borrowed, !text.contains('\\'));
    }
}

#[test]
fn half_a_surrogate_pair_is_no_character() {
    let cases = [
        (r#""\ud800""#, "\u{fffd}"),
        (r#""\udc00x""#, "\u{fffd}x"),
        (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ud800\n""#, "\u{fffd}\n"),
        (r#""\ud800a""#, "\u{fffd}a"),
        (r#""\ud800é\u00e9""#, "\u{fffd}éé"),
    ];
    for (text, shown) in cases {
        let string = string(text);
        assert_eq!(string.decode(), shown, "{text}");
        assert_eq!(string.decoded_len(), None, "{text}");
        assert!(!string.matches(shown), "{text}");
    }
}

#[test]
fn parse_drops_the_space_around_a_document() {
    for text in [" \t\r\n{ \"a\" : 1 }\n ", "{ \"a\" : 1 }"] {
        let borrowed = Json::parse(text).unwrap();
        let owned = Json::parse(text.to_owned()).unwrap();
        assert_eq!(borrowed.as_str(), "{ \"a\" : 1 }");
        assert!(matches!(borrowed.text, Cow::Borrowed(_)));
        assert_eq!(borrowed, owned);
        assert_eq!(owned.borrowed().into_owned(), borrowed);
        assert_eq!(owned.to_string(), "{ \"a\" : 1 }");
    }
    assert_eq!(Json::default(), Json::null());
    assert_eq!(Json::null().as_str(), "null");
}

#[test]
fn parse_says_what_is_wrong() {
    let deep = "[".repeat(100_000);
    let cases = [
        ("", "the text is empty: pass one JSON value, such as null"),
        ("{", "the text is not JSON at byte 1: expected a key in double quotes"),
        ("1 2", "the text goes on behind its JSON value, at byte 2: pass one value only"),
        (&deep, "the JSON nests deeper than 127 levels: flatten it"),
    ];
    for (text, message) in cases {
        assert_eq!(Json::parse(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn from_serialize_writes_what_readers_can_follow() {
    let json = Json::from_serialize(&BTreeMap::from([("a", vec![1.5])])).unwrap();
    assert_eq!(json.as_str(), "{\"a\":[1.5]}");
    assert_eq!(Json::from_serialize("str").unwrap().as_str(), "\"str\"");
    let wide = vec![[0; 0]; PAYLOAD_DEPTH_MAX + 1];
    assert!(Json::from_serialize(&wide).is_ok());

    let nested = |levels: usize| {
        let text = "[".repeat(levels) + &"]".repeat(levels);
        serde_json::value::RawValue::from_string(text).unwrap()
    };
    assert!(Json::from_serialize(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
    let error = Json::from_serialize(&nested(PAYLOAD_DEPTH_MAX + 1)).unwrap_err();
    assert!(error.to_string().contains("flatten"), "{error}");

    let error = Json::from_serialize(&BTreeMap::from([(vec![1], 1)])).unwrap_err();
    assert!(error.to_string().contains("key must be a string"), "{error}");
    assert!(error.source().is_some());
}

#[test]
fn decode_reads_the_shape_that_is_asked_for() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Order {
        item: String,
        count: u32,
    }
    let json = Json::parse(r#"{"item":"gr\u00fcn","count":3}"#).unwrap();
    let order: Order = json.decode().unwrap();
    assert_eq!((order.item.as_str(), order.count), ("grün", 3));
    assert_eq!(json.to_value().unwrap()["item"], "grün");
    // The document is not touched by being read.
    assert_eq!(json.decode::<Order>().unwrap(), order);

    let error = json.decode::<Vec<u8>>().unwrap_err();
    let message = error.to_string();
    assert!(message.contains("expected shape"), "{message}");
    assert!(error.source().is_some());
}

/// JavaScript writes floats up to 1e21 as digits, and Python every integer.
#[test]
fn integers_beyond_64_bits_are_read_as_floats() {
    let digits = "9".repeat(300);
    for text in [&digits, "20000000000000000000", "18446744073709552000", "-9223372036854775809"] {
        let json = Json::parse(text).unwrap();
        let float: f64 = text.parse().unwrap();
        assert_eq!(json.decode::<f64>().unwrap().to_bits(), float.to_bits(), "{text}");
        assert_eq!(json.to_value().unwrap().as_f64().unwrap().to_bits(), float.to_bits());
        assert!(json.decode::<u64>().is_err(), "no integer is rounded: {text}");
    }
    for large in [i128::MAX, i128::MIN] {
        assert_eq!(Json::from_serialize(&large).unwrap().decode::<i128>().unwrap(), large);
    }
    let map: BTreeMap<String, f64> =
        Json::parse(r#"{"a":1,"b":20000000000000000000}"#).unwrap().decode().unwrap();
    assert_eq!(map.values().sum::<f64>().to_bits(), 2e19_f64.to_bits());
}

#[test]
fn what_nobody_asks_for_may_be_anything() {
    #[derive(Deserialize)]
    struct Asked {
        x: i64,
    }
    let digits = "9".repeat(400);
    for other in [&digits, "20000000000000000000", "1e400", r#""\ud800""#, r#"{"\udfff":[-1e999]}"#]
    {
        let json = Json::parse(format!(r#"{{"x":1,"other":{other}}}"#)).unwrap();
        assert_eq!(json.decode::<Asked>().unwrap().x, 1, "{other}");
    }
}

#[test]
fn a_key_given_twice_is_found_as_documented() {
    for (others, expected) in [(30, 1), (31, 2)] {
        let others: Vec<String> = (0..others).map(|n| format!(r#""{n}":0,"#)).collect();
        let json = Json::parse(format!(r#"{{{}"k":1,"k":2}}"#, others.concat())).unwrap();
        assert_eq!(json.to_value().unwrap()["k"], expected);
    }
}

#[test]
fn decode_refuses_what_has_no_value_and_goes_on() {
    let digits = "9".repeat(400);
    for text in [&digits, "1e400", r#""\ud800""#] {
        let json = Json::parse(text).unwrap();
        assert!(json.to_value().is_err(), "{text}");
        assert!(json.decode::<f64>().is_err(), "{text}");
        assert!(json.decode::<String>().is_err(), "{text}");
        assert_eq!(Json::parse("[1]").unwrap().decode::<[u8; 1]>().unwrap(), [1]);
    }
    let deep = "[".repeat(PAYLOAD_DEPTH_MAX) + &"]".repeat(PAYLOAD_DEPTH_MAX);
    assert!(Json::parse(deep).unwrap().to_value().is_ok());
}

#[test]
fn a_decode_may_decode() {
    struct Inner(u64);
    impl<'de> Deserialize<'de> for Inner {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let json = Json::parse(text).map_err(serde::de::Error::custom)?;
            json.decode().map(Inner).map_err(serde::de::Error::custom)
        }
    }
    let all: Vec<Inner> = Json::parse(r#"["1", "2", "3"]"#).unwrap().decode().unwrap();
    assert_eq!(all.iter().map(|inner| inner.0).sum::<u64>(), 6);
}

#[test]
fn large_documents_decode_too() {
    let large = Json::from_serialize(&vec!["0123456789"; 10_000]).unwrap();
    assert_eq!(large.decode::<Vec<String>>().unwrap().len(), 10_000);
    assert_eq!(large.to_value().unwrap().as_array().unwrap().len(), 10_000);
}

/// Equal but for the last bit of a fraction, which `serde_json` does not round.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= a.abs() * 1e-15 + f64::MIN_POSITIVE
        }
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2000)))]

    #[test]
    fn strings_mean_what_serde_json_reads(text in string_text(true), other in string_text(false)) {
        let string = string(&text);
        let meaning = serde_json::from_str::<String>(&text).ok();
        prop_assert_eq!(string.decoded_len(), meaning.as_ref().map(String::len));
        if let Some(meaning) = meaning {
            prop_assert_eq!(string.decode(), meaning.as_str());
            prop_assert!(string.matches(&meaning));
            let other: String = serde_json::from_str(&other).unwrap();
            prop_assert_eq!(string.matches(&other), meaning == other);
        }
    }

    #[test]
    fn decodes_what_serde_json_decodes(text in json_text()) {
        // The two refuse different numbers, so compare what both can read.
        let json = Json::parse(text.as_str()).unwrap();
        if let (Ok(ours), Ok(theirs)) =
            (json.decode::<Value>(), serde_json::from_str::<Value>(&text))
        {
            prop_assert!(alike(&ours, &theirs), "{ours} {theirs}");
        }
    }
}
