use arbitrary::Unstructured;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::layout::{JSON_BYTES_END, padding};
use super::new::{append_frame, append_front, body_bytes};
use super::outgoing::{NewAttachment, append_bin};
use super::*;
use crate::proto::encode::Head;
use crate::proto::scanner::tests::cases;
use crate::proto::{Envelope, ErrorCode, MessageType, Meta};

/// A body whose `meta` has this `bin`.
fn body(payload: &str, bin: &str, datas: &[&[u8]]) -> Vec<u8> {
    let json = format!(
        "{{\"message_id\":\"m\",\"app_id\":\"a\",\"channel_id\":\"c\",\"message_type\":\"publish\",\
         \"payload\":{payload},\"timestamp\":0,\"reply_to\":null,\"meta\":{{\"bin\":{bin}}}}}"
    );
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    for part in std::iter::once(json.as_bytes()).chain(datas.iter().copied()) {
        body.extend_from_slice(part);
        body.extend_from_slice(padding(body.len()));
    }
    body
}

fn base64(payload: &str, bin: &str, datas: &[&[u8]]) -> String {
    let body = body(payload, bin, datas);
    assert!(naive::check(&body));
    let attachments = Envelope::parse_binary(&body).unwrap().attachments().unwrap();
    let mut out = b"before".to_vec();
    attachments.append_base64_payload(&mut out);
    assert_eq!(out.len(), 6 + attachments.base64_payload_bytes());
    String::from_utf8(out.split_off(6)).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
#[cfg_attr(miri, ignore = "reads a file; the other tests go over the same code")]
fn every_reader_agrees_on_the_vectors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/vectors.json");
    // The published package does not contain them.
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(vectors.len() > 100);
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let body = unhex(vector["body"].as_str().unwrap());
        let read =
            Envelope::parse_binary(&body).map_err(|error| error.fault).and_then(|envelope| {
                envelope.read_meta().transpose()?;
                envelope.attachments()
            });
        let found: Vec<Value> = read
            .iter()
            .flat_map(Attachments::iter)
            .map(|each| {
                let digits = each.data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                let data: String =
                    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
                let shape = each.dtype.map(|_| each.shape.iter().collect::<Vec<_>>());
                let dtype = each.dtype.map(Dtype::name);
                json!({"pointer": each.pointer, "dtype": dtype, "shape": shape, "data": data})
            })
            .collect();
        let code = read.map_or_else(|fault| fault.code().as_str(), |_| "ok");
        assert_eq!(code, vector["expect"], "{name}");
        assert_eq!(Value::from(found), vector["attachments"], "{name}");
        assert_eq!(naive::check(&body), code == "ok", "{name}");
    }
}

#[test]
fn base64_stands_in_place_of_the_nulls() {
    for (payload, bin, datas, expected) in [
        (
            "{\"a\": null }",
            "[[\"/a\",5,null,null]]",
            &[&b"hello"[..]][..],
            "{\"a\": {\"$base64\":\"aGVsbG8=\",\"dtype\":null,\"shape\":null} }",
        ),
        (
            "null",
            "[[\"\",0,null,null]]",
            &[b""],
            "{\"$base64\":\"\",\"dtype\":null,\"shape\":null}",
        ),
        (
            "[null,{\"x\":null},null]",
            "[[\"/1/x\",4,\"u16\",[1, 2]],[\"/2\",1,\"bool\",[]]]",
            &[&[0, 255, 128, 7], &[1]],
            "[null,{\"x\":{\"$base64\":\"AP+ABw==\",\"dtype\":\"u16\",\"shape\":[1, 2]}},\
             {\"$base64\":\"AQ==\",\"dtype\":\"bool\",\"shape\":[]}]",
        ),
    ] {
        assert_eq!(base64(payload, bin, datas), expected);
    }
}

#[test]
fn a_fault_says_which_entry_and_what_to_do() {
    let body =
        body("{\"a\":null,\"b\":1}", "[[\"/a\",1,null,null],[\"/b\",1,null,null]]", &[b"1", b"2"]);
    let fault = Envelope::parse_binary(&body).unwrap().read_meta().unwrap().unwrap_err();
    assert_eq!(fault.code(), ErrorCode::BadMessage);
    assert!(matches!(fault, Fault::Attachment { number: 1, .. }));
    assert_eq!(
        fault.to_string(),
        "entry 1 of the message's bin, counted from 0, is not usable: send a pointer to a null"
    );
    let fault = Envelope::parse_binary(&body[..60]).unwrap_err().fault;
    assert_eq!(
        fault.to_string(),
        "the frame has attachments and is not laid out so: send as much JSON as its length says"
    );
}

#[test]
fn what_is_wrong_with_attachments_leaves_the_message_readable() {
    let whole = body("{\"a\":null}", "[[\"/a\",3,null,null]]", &[b"abc"]);
    let envelope = Envelope::parse_binary(&whole[..whole.len() - 64]).unwrap();
    assert!(envelope.has_attachments() && envelope.message_id().matches("m"));
    assert!(envelope.attachments().is_err() && envelope.read_meta().unwrap().is_err());
    // So do wrong zeros behind the JSON, or too few of them.
    let json_end = 4 + u32::from_be_bytes(*whole.first_chunk().unwrap()) as usize;
    let mut wrong = whole.clone();
    wrong[json_end] = b' ';
    for body in [&wrong[..], &whole[..json_end]] {
        let envelope = Envelope::parse_binary(body).unwrap();
        assert!(envelope.has_attachments() && envelope.message_id().matches("m"));
        let fault = envelope.attachments().unwrap_err();
        assert!(matches!(fault, Fault::Layout { .. }));
        assert_eq!(envelope.read_meta(), Some(Err(fault)));
    }
    // A body of JSON alone is read as before.
    let json = br#"{"message_id":"1","app_id":"a","channel_id":"c","message_type":"publish",
        "payload":null,"timestamp":0}"#;
    let plain = Envelope::parse_binary(json).unwrap();
    assert_eq!(Ok(plain), Envelope::parse(json));
    assert!(!plain.has_attachments() && plain.attachments().unwrap().is_empty());
    // Only who negotiated it gets that far.
    let refused = [Envelope::parse(&whole), Envelope::parse_extended(&whole)];
    assert!(refused.iter().all(|one| one.unwrap_err().fault.code() == ErrorCode::BadFrame));
}

#[test]
fn a_thousand_attachments_are_read_and_one_more_is_not() {
    for (count, is_good) in [(ATTACHMENTS_MAX, true), (ATTACHMENTS_MAX + 1, false)] {
        let payload = format!("[{}]", vec!["null"; count].join(","));
        let entries: Vec<_> = (0..count).map(|at| format!("[\"/{at}\",1,null,null]")).collect();
        let datas: Vec<_> = (0..count).map(|at| [at as u8]).collect();
        let datas: Vec<&[u8]> = datas.iter().map(|data| &data[..]).collect();
        let body = body(&payload, &format!("[{}]", entries.join(",")), &datas);
        assert_eq!(naive::check(&body), is_good);
    }
}

#[test]
fn a_bin_may_have_128_kibibytes() {
    for (more, is_good) in [(0, true), (1, false)] {
        let key = "k".repeat(BIN_BYTES_MAX - "[[\"/\",0,null,null]]".len() + more);
        let body =
            body(&format!("{{\"{key}\":null}}"), &format!("[[\"/{key}\",0,null,null]]"), &[]);
        assert_eq!(Envelope::parse_binary(&body).unwrap().read_meta().unwrap().is_ok(), is_good);
        assert_eq!(naive::check(&body), is_good);
    }
}

#[test]
fn what_is_sent_is_checked() {
    let new =
        NewAttachment { pointer: "/a\"b", dtype: Some(Dtype::F32), shape: &[2, 1], data: &[1; 8] };
    let mut bin = b"before".to_vec();
    append_bin(&[new, NewAttachment { dtype: None, shape: &[], ..new }], &mut bin).unwrap();
    assert_eq!(bin, b"before[[\"/a\\\"b\",8,\"f32\",[2,1]],[\"/a\\\"b\",8,null,null]]");
    for wrong in [
        NewAttachment { shape: &[3], ..new },
        NewAttachment { shape: &[1; 33], dtype: Some(Dtype::U8), data: &[1], ..new },
        NewAttachment { dtype: None, ..new },
        NewAttachment { shape: &[1 << 62, 0, 4], data: &[], ..new },
    ] {
        let refused = append_bin(&[new, wrong], &mut bin);
        assert!(matches!(refused, Err(Fault::Attachment { number: 1, .. })), "{wrong:?}");
    }
    assert!(append_bin(&[], &mut bin).is_err());
    assert!(append_bin(&vec![new; ATTACHMENTS_MAX + 1], &mut bin).is_err());
    let long = "x".repeat(BIN_BYTES_MAX);
    assert!(append_bin(&[NewAttachment { pointer: &long, ..new }], &mut bin).is_err());
    assert_eq!(body_bytes(60, [0, 1, 64, 65]), Some(64 + 64 + 64 + 128));
    assert_eq!(body_bytes(61, [0]), Some(128));
    assert!(
        body_bytes(JSON_BYTES_END - 1, []).is_some() && body_bytes(JSON_BYTES_END, []).is_none()
    );
}

#[test]
fn a_frame_is_written_in_one_piece_or_from_its_pieces() {
    let new = [NewAttachment { pointer: "/a", dtype: None, shape: &[], data: b"abc" }];
    let mut bin = Vec::new();
    append_bin(&new, &mut bin).unwrap();
    let mut meta = Vec::new();
    let bin = std::str::from_utf8(&bin).unwrap();
    Meta { bin: Some(bin), ttl_millis: Some(5), ..Meta::default() }.append_to(&mut meta);
    let head = Head {
        message_id: b"m",
        app_id: "a",
        channel_id: "c",
        message_type: MessageType::Request,
        timestamp: b"1.5",
        reply_to: None,
        meta: Some(&meta),
    };
    let payload = b"{\"a\":null}";
    let bytes = body_bytes(head.body_bytes(payload.len()), [3]).unwrap();
    let mut whole = b"before".to_vec();
    append_frame(&mut whole, &head, payload, &new, bytes);
    let mut pieces = b"before".to_vec();
    append_front(&mut pieces, &head, payload, bytes);
    pieces.extend_from_slice(b"abc");
    pieces.extend_from_slice(padding(3));
    assert_eq!(whole, pieces);
    let envelope = Envelope::parse_binary(&whole[10..]).unwrap();
    assert_eq!(envelope.read_meta().unwrap().unwrap().ttl_millis, Some(5));
    let attachments = envelope.attachments().unwrap();
    assert_eq!(attachments.get("/a").unwrap().data, b"abc");
    assert_eq!(Attachments::default().frame_bytes(), 0);

    let mut meta = Vec::new();
    Meta { bin: Some(bin), ..Meta::default() }.append_to(&mut meta);
    let added = (0..64).map(|id_bytes| {
        let message_id = vec![b'm'; id_bytes];
        let alone = Head { message_id: &message_id, meta: None, ..head };
        let with = Head { meta: Some(&meta), ..alone };
        let bytes = body_bytes(with.body_bytes(payload.len()), [3]).unwrap();
        bytes - alone.body_bytes(payload.len())
    });
    assert_eq!(
        added.max(),
        Some(attachments.frame_bytes()),
        "the zeros are as many as they may be"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn the_naive_decoder_agrees(input in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::attachments(&input);
    }
}

#[test]
fn bodies_of_the_fuzzer_are_good_and_bad() {
    let mut state = 1_u64;
    let (mut good, mut bad) = (0, 0);
    for _ in 0..cases(2_000) {
        let input: Vec<u8> = (0..200)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let body = fuzzing::body(&mut Unstructured::new(&input)).unwrap();
        *(if naive::check(&body) { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > cases(2_000) / 10 && bad > cases(2_000) / 10, "{good} good, {bad} bad");
}
