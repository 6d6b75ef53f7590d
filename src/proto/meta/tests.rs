use super::*;

fn refused(text: &str) -> &'static str {
    match Meta::parse(text) {
        Err(Fault::Meta { key, .. }) => key,
        other => panic!("{other:?} of {text}"),
    }
}

#[test]
fn every_member_is_read_and_written() {
    let text = concat!(
        r#"{"stream":65536,"seq":7,"end":true,"idempotent":true,"#,
        r#""trace":{"traceparent":"00-a"},"headers":{"a":"b","\u0062":""},"ttl":2147483648}"#,
    );
    let meta = Meta::parse(text).unwrap();
    assert_eq!((meta.stream, meta.seq, meta.end), (Some(65_536), Some(7), true));
    assert_eq!((meta.idempotent, meta.ttl_millis), (true, Some(1 << 31)));
    assert_eq!(meta.trace, Some(r#"{"traceparent":"00-a"}"#));
    assert_eq!(meta.headers, Some(r#"{"a":"b","\u0062":""}"#));
    let mut written = Vec::new();
    meta.append_to(&mut written);
    assert_eq!(written, text.as_bytes());
}

#[test]
fn white_space_escapes_and_false_change_nothing() {
    let text = "{ \"\\u0074tl\" :\n5 , \"end\":false,\"idempotent\" : false}";
    let meta = Meta::parse(text).unwrap();
    assert_eq!(meta, Meta { ttl_millis: Some(5), ..Meta::default() });
    for text in ["{}", "{ }"] {
        let meta = Meta::parse(text).unwrap();
        assert!(meta.is_empty());
        let mut written = Vec::new();
        meta.append_to(&mut written);
        assert_eq!(written, b"{}");
    }
}

#[test]
fn the_quick_way_reads_what_the_other_one_reads() {
    for text in [
        r#"{"ttl":60000}"#,
        r#"{"stream":65536,"ttl":2147483648}"#,
        r#"{"seq":0}"#,
        r#"{"seq": 123456789012345678, "end": true}"#,
        r#"{"idempotent": true, "ttl": 1}"#,
    ] {
        let (quick, rest) = usual(text).unwrap();
        // A blank in another place leaves it to the other way.
        let spaced = text.replace('{', "{ ");
        let slow = Meta::parse(&spaced).unwrap();
        assert_eq!((Meta::from(quick), rest), (slow, ""), "{text}");
    }
    for text in [
        "{}",
        r#"{"ttl":05}"#,
        r#"{"ttl":0}"#,
        r#"{"ttl":5,"ttl":5}"#,
        r#"{"ttl":5 }"#,
        r#"{"ttl":5,}"#,
        r#"{"ttl":}"#,
        r#"{"end":true,"seq":1}"#,
        r#"{"idempotent":false}"#,
        r#"{"seq":1234567890123456789}"#,
        r#"{"ttl":5"#,
        r#"{"trace":{}}"#,
    ] {
        assert!(usual(text).is_none(), "{text}");
    }
}

#[test]
fn what_is_not_usable_is_refused_with_its_name() {
    for value in ["0", "-1", "1.0", "1e3", "2147483649", "\"5\"", "null", "1099511627776", "[]"] {
        assert_eq!(refused(&format!("{{\"ttl\":{value}}}")), "ttl", "{value}");
    }
    for value in ["0", "65537", "4294967297", "true", "99999999999999999999"] {
        assert_eq!(refused(&format!("{{\"stream\":{value}}}")), "stream", "{value}");
    }
    for value in ["-1", "0.0", "\"0\"", "18446744073709551616", "null"] {
        assert_eq!(refused(&format!("{{\"seq\":{value}}}")), "seq", "{value}");
    }
    for key in ["end", "idempotent"] {
        for value in ["1", "null", "\"true\"", "{}"] {
            assert_eq!(refused(&format!("{{\"seq\":1,\"{key}\":{value}}}")), key);
        }
    }
    assert_eq!(refused("{\"end\":true}"), "end");
    for (key, value) in [
        ("trace", "{\"traceparent\":1}"),
        ("trace", "{\"other\":\"x\"}"),
        ("trace", "{\"tracestate\":\"x\",\"trace\\u0073tate\":\"x\"}"),
        ("trace", "[]"),
        ("headers", "{\"a\":null}"),
        ("headers", "{\"a\":\"1\",\"b\":\"2\",\"\\u0061\":\"3\"}"),
        ("headers", "{\"a\":\"\\ud800\"}"),
        ("headers", "{\"\\ud800\":\"a\"}"),
        ("headers", "\"a\""),
    ] {
        assert_eq!(refused(&format!("{{\"{key}\":{value}}}")), key, "{value}");
    }
    assert_eq!(refused("{\"ttl\":5,\"\\u0074tl\":5}"), "ttl");
    for text in ["[]", "null", "5", "\"ttl\""] {
        assert_eq!(refused(text), "the value");
    }
}

#[test]
fn an_unknown_member_is_refused_by_a_server_and_ignored_by_a_client() {
    for key in ["place", "TTL", "ttl ", "", "BIN", "\\ud800"] {
        let text = format!("{{\"{key}\":{{\"ttl\":1}},\"ttl\":9}}");
        assert_eq!(refused(&text), "an unknown member");
        assert_eq!(Meta::parse_known(&text).unwrap().ttl_millis, Some(9), "{text}");
    }
}

#[test]
fn four_kibibytes_are_enough_and_one_more_is_too_much() {
    let text = |bytes: usize| format!("{{\"headers\":{{\"a\":\"{}\"}}}}", "x".repeat(bytes - 20));
    assert_eq!(text(META_BYTES_MAX).len(), META_BYTES_MAX);
    assert!(Meta::parse(&text(META_BYTES_MAX)).is_ok());
    assert_eq!(Meta::parse(&text(META_BYTES_MAX + 1)), Err(Fault::MetaTooLong));
    let with_bin = |bytes: usize, bin: &str| text(bytes).replacen('{', bin, 1);
    let bin = format!("{{\"bin\":[{}0],", "0,".repeat(60 << 10));
    let of_key = "\"bin\":,".len();
    assert!(Meta::parse(&with_bin(META_BYTES_MAX - of_key, &bin)).is_ok());
    let over = with_bin(META_BYTES_MAX - of_key + 1, &bin);
    assert_eq!(Meta::parse(&over), Err(Fault::MetaTooLong));
    let bin = format!("{{\"bin\":\"{}\",", "x".repeat(META_BYTES_MAX + BIN_BYTES_MAX));
    assert_eq!(Meta::parse(&with_bin(100, &bin)), Err(Fault::MetaTooLong));
}

#[test]
fn a_member_belongs_to_one_type_of_message() {
    for (text, own) in [
        (r#"{"ttl":1}"#, Some(MessageType::Request)),
        (r#"{"idempotent":true}"#, Some(MessageType::Request)),
        (r#"{"stream":1}"#, Some(MessageType::Request)),
        (r#"{"seq":1}"#, Some(MessageType::Response)),
        (r#"{"seq":1,"end":true}"#, Some(MessageType::Response)),
        (r#"{"retain":true}"#, Some(MessageType::Publish)),
        (r#"{"ack":true}"#, Some(MessageType::Publish)),
        (r#"{"trace":{},"headers":{}}"#, None),
    ] {
        let meta = Meta::parse(text).unwrap();
        for each in MessageType::ALL {
            let is_right = own.is_none_or(|own| own == each);
            assert_eq!(meta.check_on(each).is_ok(), is_right, "{text} {each:?}");
        }
    }
}

#[test]
fn a_place_in_a_history_comes_from_the_server_alone() {
    let text = r#"{"retain":true,"epoch":"a-B_9","offset":7,"headers":{}}"#;
    let meta = Meta::parse_known(text).unwrap();
    assert_eq!(meta.position, Some(Position { epoch: "a-B_9", offset: 7 }));
    let mut written = Vec::new();
    meta.append_to(&mut written);
    assert_eq!(written, text.as_bytes());
    assert_eq!(refused(r#"{"offset":7}"#), "offset");
    assert_eq!(refused(r#"{"epoch":"a"}"#), "epoch");
    for text in [r#"{"epoch":"","offset":1}"#, r#"{"epoch":"\u0061","offset":1}"#] {
        assert!(matches!(Meta::parse_known(text), Err(Fault::Meta { key: "epoch", .. })), "{text}");
    }
    for text in [r#"{"epoch":"a","offset":-1}"#, r#"{"epoch":"a","offset":"1"}"#] {
        assert!(
            matches!(Meta::parse_known(text), Err(Fault::Meta { key: "offset", .. })),
            "{text}"
        );
    }
}

#[test]
fn members_of_topic_need_it() {
    let meta =
        Meta::parse_known(r#"{"retain":true,"ack":true,"epoch":"a","offset":7,"headers":{}}"#);
    let meta = meta.unwrap();
    let (topic, call) = (Extensions::TOPIC, Extensions::CALL);
    assert!(meta.check_extensions(topic).is_ok() && meta.check_extensions(call).is_err());
    for extensions in [call, Extensions::BINARY, call.or(Extensions::BINARY)] {
        let known = meta.of_extensions(extensions);
        assert_eq!(known, Meta { headers: Some("{}"), ..Meta::default() });
    }
    for extensions in [topic, topic.or(call)] {
        assert_eq!(meta.of_extensions(extensions), Meta { ack: false, ..meta });
    }
    assert!(meta.of_extensions(Extensions::NONE).is_empty());
    assert!(meta.is_topical() && !meta.of_extensions(call).is_topical());
}

#[test]
fn many_headers_take_no_longer_than_their_number() {
    let headers: Vec<String> = (0..400).map(|at| format!("\"{at}\":\"\"")).collect();
    let text = format!("{{\"headers\":{{{}}}}}", headers.join(","));
    assert!(Meta::parse(&text).is_ok());
}

#[test]
fn the_place_that_a_server_adds_is_no_part_of_the_limit() {
    let headers = |bytes: usize| format!(r#""headers":{{"a":"{}"}}}}"#, "b".repeat(bytes - 19));
    let sent = format!("{{{}", headers(META_BYTES_MAX - 1));
    assert_eq!(sent.len(), META_BYTES_MAX);
    assert!(Meta::parse(&sent).is_ok());
    let epoch = "e".repeat(crate::proto::EPOCH_BYTES_MAX);
    let place = format!(r#"{{"epoch":"{epoch}","offset":{},"#, u64::MAX);
    let told = format!("{place}{}", headers(META_BYTES_MAX - 1));
    let read = Meta::parse_known(&told).unwrap();
    assert_eq!(read.position.map(|place| place.offset), Some(u64::MAX));
    assert!(read.headers.is_some());
    let over = format!("{{{}", headers(META_BYTES_MAX + PLACE_BYTES_MAX));
    assert_eq!(Meta::parse_known(&over), Err(Fault::MetaTooLong));
}
