use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{PAYLOAD_DEPTH_MAX, Scanner, validate};
use crate::proto::Fault;
use crate::proto::oracle::serde_json_accepts;

/// Documents, between bars.
const ACCEPTED: &str = r#"
null | true | false | 0 | -0 | 10 | -1 | 0.0 | 0e0 | 0E+1 | 1e-2 | -1.5E+300 | 1e400 | -1e400 | 1E99999999999
0.00000000000000000000000000000000000001 | "" | "a" | "é" | "1234567" | "12345678" | "123456789" | "1234567890123456"
"\"\\\/\b\f\n\r\t" | "\u0000\uFFFF\uabCD" | "\\" | "\\\"" | "\ud83d\ude00" | "\ud800" | "\udc00" | "\ud800\ud800"
[] | [ ] | [[]] | [[],[]] | [0] | [1,2] | [ 1 , 2 ] | [null,true,false] | ["a"] | [{}] | [{},[]]
{} | { } | {"a":1} | { "a" : 1 , "b" : [ ] } | {"":0} | {"a":1,"a":2} | {"\ud800":0} | {"a":{"b":{"c":[{}]}}}
"#;

/// No documents, between bars.
const REFUSED: &str = r#"
nul | nulll | nUll | True | NULL | tru | truee | fals | undefined | NaN | -NaN | Infinity | -Infinity | inf
+1 | 01 | -01 | 00 | - | --1 | -a | .5 | 1. | 1.e1 | 1e | 1e+ | 1E- | 1ee1 | 1.5.5 | 0x1 | 1_000 | 1a | 1 2 | 0 1 | 1,
٣ | 1e٣ | " | "a | a" | 'a' | "\" | "\a" | "\'" | "\U0041" | "\u" | "\u004" | "\u004"1" | "\u004g" | "\u+041"
"\u 041" | "\x41" | "\é" | "\u00é" | "a" "b" | "a""b" | [ | ] | [1 | [1, | [1,] | [,1] | [,] | [1,,2] | [1 2] | [1:2]
[1} | [} | [[] | []] | ["a":1] | [1;2] | [*] | [a] | { | } | {] | {"a" | {"a": | {"a":1 | {"a":1, | {"a":1,} | {,}
{,"a":1} | {"a"} | {"a":} | {"a" 1} | {"a",1} | {"a":1 "b":2} | {"a":1,,"b":2} | {"a":1] | {a:1} | {'a':1} | {1:1}
{null:1} | {[]:1} | {"a"::1} | {"a":1:2} | {}{} | {} x | []null | 1 // comment | /**/1 | #1 | é
"#;

fn entries(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.trim().lines().flat_map(|line| line.split(" | "))
}

#[test]
fn accepts_what_rfc_8259_allows() {
    let invisible = [
        " \t\r\nnull \t\r\n",
        "[\n\t1\r]",
        "\"\u{7f}\u{80}\"",
        "\"\u{2028}\u{2029}\u{feff}\u{10ffff}\"",
    ];
    for text in entries(ACCEPTED).chain(invisible) {
        assert_eq!(validate(text), Ok(()), "{text}");
        assert!(serde_json_accepts(text), "{text}");
    }
}

#[test]
fn refuses_what_rfc_8259_does_not_allow() {
    let invisible = [
        "\"\n\"",
        "\"\t\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "\"12345678\u{1f}\"",
        "\"\\\n\"",
        "// comment\n1",
        "\u{feff}1",
        "\u{a0}1",
        "1\u{a0}",
        "\u{c}1",
        "\u{b}1",
        "\u{85}1",
        "[\u{2028}]",
        "\0",
        "1\0",
    ];
    for text in entries(REFUSED).chain(invisible) {
        let fault = validate(text).expect_err(text);
        let reported = matches!(fault, Fault::NotJson { .. } | Fault::Trailing { .. });
        assert!(reported, "{text}: {fault:?}");
        assert!(!serde_json_accepts(text), "{text}");
    }
    assert_eq!(validate(""), Err(Fault::Empty));
    assert_eq!(validate(" \r\n\t"), Err(Fault::Empty));
}

#[test]
fn says_where_and_what() {
    let cases = [
        ("[1,NaN]", 3, "a value (NaN and Infinity are none)"),
        ("[1", 2, "a comma or a closing bracket"),
        ("[1}", 2, "a comma or a closing bracket"),
        ("{\"a\":1]", 6, "a comma or a closing brace"),
        ("{\"a\":1,}", 7, "a key in double quotes"),
        ("{\"a\" 1}", 5, "a colon"),
        ("\"abc", 4, "a closing quote"),
        ("\"123456789\n\"", 10, "an escape in place of the control character"),
        (r#""é\x""#, 3, "one of \"\\/bfnrtu after the backslash"),
        (r#""\u12x4""#, 1, "four hexadecimal digits after \\u"),
        ("[-]", 2, "a digit"),
        ("1.e", 2, "a digit"),
    ];
    for (text, at, expected) in cases {
        assert_eq!(validate(text), Err(Fault::NotJson { at, expected }), "{text}");
    }
    assert_eq!(validate("{} {}"), Err(Fault::Trailing { at: 3 }));
}

#[test]
fn nests_as_deep_as_the_limit_and_no_deeper() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let each = open.matches(['[', '{']).count();
        let levels = PAYLOAD_DEPTH_MAX / each;
        let nested = |levels: usize| format!("{}0{}", open.repeat(levels), close.repeat(levels));
        assert_eq!(validate(&nested(levels)), Ok(()));
        let fault = validate(&nested(levels + 1));
        // With two brackets a round, the odd level falls to the first of them.
        let at = levels * open.len() + PAYLOAD_DEPTH_MAX % each;
        assert_eq!(fault, Err(Fault::TooDeep { at }));
        assert!(matches!(validate(&nested(100_000)), Err(Fault::TooDeep { .. })));
    }
    // Width is not depth.
    let wide = format!("[{}0]", "[[]],{\"a\":{}},".repeat(10_000));
    assert_eq!(validate(&wide), Ok(()));
}

#[test]
fn numbers_may_be_longer_than_any_type() {
    let digits = "9".repeat(300);
    for number in [digits.clone(), format!("-{digits}.{digits}e-{digits}")] {
        let mut scanner = Scanner::new(&number);
        assert_eq!(scanner.value(0), Ok(number.as_str()));
    }
}

#[test]
fn finds_each_end_of_plain_text_at_each_offset() {
    for length in 0..40 {
        let plain = "é~x".chars().cycle().take(length).collect::<String>();
        for byte in 0..=0x7f_u8 {
            let text = format!("\"{plain}{}rest\"", char::from(byte));
            assert_eq!(validate(&text).is_ok(), serde_json_accepts(&text), "{text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(3000)))]

    #[test]
    fn accepts_every_document(text in json_text()) {
        prop_assert!(serde_json_accepts(&text));
        prop_assert_eq!(validate(&text), Ok(()));
    }

    #[test]
    fn agrees_with_serde_json_on_damaged_documents(text in json_text(), damage in damage()) {
        let damaged = damage.into_iter().fold(text.into_bytes(), apply);
        if let Ok(text) = std::str::from_utf8(&damaged) {
            prop_assert_eq!(validate(text).is_ok(), serde_json_accepts(text), "{}", text);
        }
    }
}

/// The number of cases to try. Miri takes a thousand times as long for each.
pub(in crate::proto) fn cases(count: u32) -> u32 {
    if cfg!(miri) { 4 } else { count }
}

/// Any JSON document, as text, so that spaces and escapes vary too.
pub(in crate::proto) fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "0", "-0", "1e400", "-1.5E+3"])
            .prop_map(str::to_owned),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| x.to_string()),
        any::<i64>().prop_map(|x| x.to_string()),
        string_text(true),
    ];
    let space = || select(vec!["", "", "", " ", "\n\t", "\r\n  "]);
    leaf.prop_recursive(5, 40, 6, move |value| {
        let item = (space(), value.clone(), space()).prop_map(|(a, x, b)| format!("{a}{x}{b}"));
        let member = (space(), string_text(true), space(), item.clone())
            .prop_map(|(a, key, b, x)| format!("{a}{key}{b}:{x}"));
        prop_oneof![
            prop::collection::vec(item, 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

/// Any JSON string with its quotes; `halves` allows half of a surrogate pair.
pub(in crate::proto) fn string_text(halves: bool) -> impl Strategy<Value = String> {
    let mut pieces = vec![
        "a",
        "plain text",
        "é",
        "€",
        "😀",
        "\u{7f}",
        "}",
        "]",
        ",",
        ":",
        "\\\"",
        "\\\\",
        "\\/",
        "\\b",
        "\\f",
        "\\n",
        "\\r",
        "\\t",
        "\\u0000",
        "\\u00e9",
        "\\uD83D\\uDE00",
        "\\ufffd",
    ];
    if halves {
        pieces.extend(["\\ud800", "\\uDFFF", "\\ude00\\ud83d"]);
    }
    prop::collection::vec(select(pieces), 0..8).prop_map(|all| format!("\"{}\"", all.concat()))
}

#[derive(Clone, Copy, Debug)]
pub(in crate::proto) enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Delete(Index),
    Truncate(Index),
}

pub(in crate::proto) fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let byte = || {
        let telling = b"\"\\[]{}:,-+.eE0189untfl/a \t\n\0\x1f\x7f\x80\xc3\xff".to_vec();
        prop_oneof![4 => select(telling), 1 => any::<u8>()]
    };
    let one = prop_oneof![
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        4 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        4 => any::<Index>().prop_map(Damage::Delete),
        1 => any::<Index>().prop_map(Damage::Truncate),
    ];
    prop::collection::vec(one, 1..4)
}

pub(in crate::proto) fn apply(mut bytes: Vec<u8>, damage: Damage) -> Vec<u8> {
    let length = bytes.len();
    match damage {
        Damage::Insert(at, byte) => bytes.insert(at.index(length + 1), byte),
        _ if length == 0 => {}
        Damage::Replace(at, byte) => bytes[at.index(length)] = byte,
        Damage::Delete(at) => drop(bytes.remove(at.index(length))),
        Damage::Truncate(at) => bytes.truncate(at.index(length)),
    }
    bytes
}
