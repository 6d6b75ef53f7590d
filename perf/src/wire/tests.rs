use super::message::{Until, excerpt};
use super::*;

const PAYLOAD_BYTES: usize = 32;

fn stamped(wire: &dyn Wire, number: u32) -> Vec<u8> {
    let message = wire.message(7);
    let mut bytes = message.bytes().to_vec();
    message.stamp(&mut bytes, id(number));
    bytes
}

fn check(wire: &dyn Wire, answer: &[u8], number: u32) {
    for cut in 0..answer.len() {
        assert_eq!(wire.scan(&answer[..cut]), Ok(Scan::Partial), "{cut} bytes");
    }
    let whole = Ok(Scan::Message { bytes: answer.len(), id: id(number) });
    assert_eq!(wire.scan(answer), whole);
    let more = [answer, answer].concat();
    assert_eq!(wire.scan(&more), whole);
}

fn framed(body: &str) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

#[test]
fn a_number_is_eight_digits() {
    assert_eq!(&id(0), b"00000000");
    assert_eq!(&id(0x1234_abcd), b"1234abcd");
}

#[test]
fn a_request_holds_its_number_in_its_id_and_in_its_payload() {
    let wire = Ipc::new(Dialect::Server, Work::Echo, PAYLOAD_BYTES);
    let bytes = stamped(&wire, 0xfeed);
    let text = String::from_utf8(bytes[4..].to_vec()).unwrap();
    assert_eq!(bytes[..4], (text.len() as u32).to_be_bytes());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json["message_id"].as_str().unwrap().ends_with("-0fed0000feed"), "{text}");
    assert_eq!(json["payload"], "0000feedxxxxxxxxxxxxxxxxxxxxxx");
    assert_eq!(json["reply_to"], serde_json::Value::Null);
}

#[test]
fn an_answer_is_known_by_both_numbers() {
    let wire = Ipc::new(Dialect::Server, Work::Echo, 12);
    let answer = |payload: &str, reply_to: &str| {
        framed(&format!(
            "{{\"message_id\":\"m\",\"payload\":\"{payload}\",\"timestamp\":1.5,\
             \"reply_to\":\"6f1e2d3c-4b5a-4678-9abc-0fed{reply_to}\"}}"
        ))
    };
    check(&wire, &answer("0000000fxx", "0000000f"), 15);
    for wrong in [
        answer("0000000fxx", "0000000e"),
        answer("0000000fx", "0000000f"),
        answer("0000000fxxx", "0000000f"),
        framed("{\"payload\":{\"status\":\"error\"},\"reply_to\":\"0000000f\"}"),
        framed("{}"),
    ] {
        assert!(wire.scan(&wrong).is_err(), "{}", excerpt(&wrong));
    }
}

#[test]
fn a_bare_loop_returns_what_was_sent() {
    for work in [Work::Echo, Work::Fanout] {
        let wire = Ipc::new(Dialect::Bare, work, PAYLOAD_BYTES);
        let sent = stamped(&wire, 3);
        check(&wire, &sent, 3);
        let longer = Ipc::new(Dialect::Bare, work, PAYLOAD_BYTES + 1);
        assert!(longer.scan(&sent).is_err());
    }
}

#[test]
fn the_published_server_finds_the_connection_in_the_payload() {
    let wire = Ipc::new(Dialect::Published, Work::Echo, 12);
    let bytes = stamped(&wire, 9);
    let json: serde_json::Value = serde_json::from_slice(&bytes[4..]).unwrap();
    assert_eq!(json["payload"]["connection_id"], "load-000007");
    let answer = framed(
        "{\"payload\": {\"connection_id\": \"load-000007\", \"text\": \"00000009xx\"}, \
         \"reply_to\": \"6f1e2d3c-4b5a-4678-9abc-0fed00000009\"}",
    );
    check(&wire, &answer, 9);
}

#[test]
fn a_worker_answers_the_request_that_it_was_given() {
    let wire = Ipc::forwarded(12);
    let request =
        framed("{\"message_id\":\"w-5\",\"channel_id\":\"worked\",\"payload\":\"00000009xx\"}");
    assert_eq!(wire.answer(&request[..20]), Ok(None));
    let (bytes, answer) = wire.answer(&request).unwrap().unwrap();
    assert_eq!(bytes, request.len());
    let json: serde_json::Value = serde_json::from_slice(&answer[4..]).unwrap();
    assert_eq!(json["message_type"], "response");
    assert_eq!(json["reply_to"], "w-5");
    assert_eq!(json["payload"], "00000009xx");
    assert!(wire.answer(&framed("{\"message_id\":\"w-5\"}")).is_err());
}

#[test]
fn redis_is_sent_commands_and_answers_bulk_strings() {
    let wire = Redis::new(Work::Echo, 12);
    assert_eq!(stamped(&wire, 1), b"*2\r\n$4\r\nECHO\r\n$12\r\n\"00000001xx\"\r\n");
    check(&wire, b"$12\r\n\"00000001xx\"\r\n", 1);
    assert!(wire.scan(b"-ERR").is_err());
    assert!(wire.scan(b"$12\r\n\"00000001xxx\"\r\n").is_err());

    let wire = Redis::new(Work::Fanout, 12);
    assert_eq!(
        stamped(&wire, 1),
        b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$12\r\n\"00000001xx\"\r\n"
    );
    check(&wire, b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$12\r\n\"00000001xx\"\r\n", 1);
}

#[test]
fn nats_gives_each_connection_its_own_subject() {
    let wire = Nats::new(Work::Echo, 12);
    assert_eq!(stamped(&wire, 1), b"PUB echo-000007 12\r\n\"00000001xx\"\r\n");
    check(&wire, b"MSG echo-000007 1 12\r\n\"00000001xx\"\r\n", 1);
    assert!(wire.scan(b"-ERR 'no'\r\n").is_err());
    let wire = Nats::new(Work::Fanout, 12);
    assert_eq!(stamped(&wire, 1), b"PUB news 12\r\n\"00000001xx\"\r\n");
    assert!(wire.scan(b"MSG news 2 12\r\n\"00000001xx\"\r\n").is_err());
}

#[test]
fn zmtp_has_short_and_long_lengths() {
    let wire = Zmtp::new(Work::Echo, 12);
    assert_eq!(stamped(&wire, 1), b"\x00\x0c\"00000001xx\"");
    check(&wire, b"\x00\x0c\"00000001xx\"", 1);
    let long = stamped(&Zmtp::new(Work::Echo, 300), 1);
    assert_eq!(long[..9], [2, 0, 0, 0, 0, 0, 0, 1, 44]);
    assert_eq!(long.len(), 309);
}

#[test]
fn an_introduction_that_is_refused_is_no_introduction() {
    let until = Until::FrameWith(b"connected");
    assert_eq!(until.met_by(b"\0\0\0\x09conn"), Ok(None));
    assert_eq!(until.met_by(b"\0\0\0\x09connected, more"), Ok(Some(13)));
    assert!(until.met_by(b"\0\0\0\x04full").is_err());
    assert_eq!(Until::Text(b"PONG\r\n").met_by(b"INFO {}\r\nPONG\r\nmore"), Ok(Some(15)));
    assert_eq!(Until::ShortFrame.met_by(&[4, 2, 0]), Ok(None));
    assert_eq!(Until::ShortFrame.met_by(&[4, 2, 0, 0, 9]), Ok(Some(4)));
    assert_eq!(Until::Bytes(64).met_by(&[0; 70]), Ok(Some(64)));
}

#[test]
fn an_attachment_follows_its_json_at_a_multiple_of_64_bytes() {
    let wire = Attached::new(Dialect::Server, Work::Echo, 100);
    let bytes = stamped(&wire, 0xfeed);
    let body = &bytes[4..];
    assert_eq!(bytes[..4], (body.len() as u32).to_be_bytes());
    let length = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&body[4..4 + length]).unwrap();
    assert_eq!(json["payload"], serde_json::json!({ "data": null }));
    assert_eq!(json["meta"]["bin"], serde_json::json!([["/data", 100, null, null]]));
    let start = (4 + length).next_multiple_of(64);
    assert!(body[4 + length..start].iter().all(|byte| *byte == 0));
    assert_eq!(body[start..start + 10], *b"0000feedxx");
    assert_eq!(body[start + 100..], [0; 28]);
}

#[test]
fn an_answer_with_an_attachment_is_known_by_both_numbers() {
    let wire = Attached::new(Dialect::Server, Work::Echo, 100);
    let request = stamped(&wire, 15);
    let answer = |reply_to: &str| {
        let json = format!(
            "{{\"payload\":{{\"data\":null}},\"reply_to\":\"6f1e{reply_to}\",\
             \"meta\":{{\"bin\":[[\"/data\",100,null,null]]}}}}"
        );
        let mut body = [&(json.len() as u32).to_be_bytes()[..], json.as_bytes()].concat();
        body.resize(body.len().next_multiple_of(64), 0);
        body.extend_from_slice(&request[request.len() - 128..]);
        [&(body.len() as u32).to_be_bytes()[..], &body].concat()
    };
    check(&wire, &answer("0000000f"), 15);
    assert!(wire.scan(&answer("0000000e")).is_err());
    let bare = Attached::new(Dialect::Bare, Work::Fanout, 100);
    check(&bare, &stamped(&bare, 15), 15);
}

#[test]
fn patterns_for_one_channel_differ_and_match_it() {
    use super::message::{PATTERN_CHANNEL, held_patterns, matching_pattern};
    let matches = |pattern: &str| {
        let tokens = || pattern.split('.').zip(PATTERN_CHANNEL.split('.'));
        pattern.len() == PATTERN_CHANNEL.len()
            && tokens().all(|(any, own)| any == "*" || any == own)
    };
    let all: std::collections::BTreeSet<String> = (1..=31).map(matching_pattern).collect();
    assert_eq!(all.len(), 31);
    assert!(all.iter().all(|pattern| matches(pattern)));
    assert!(!held_patterns(11).any(|pattern| matches(&pattern)));
}

#[test]
fn a_subscriber_to_a_pattern_reads_what_its_peer_sends_for_it() {
    let wire = Redis::new(Work::Patterns, 12);
    let message = |pattern: &str| {
        format!(
            "*4\r\n$8\r\npmessage\r\n$9\r\n{pattern}\r\n$9\r\nn.e.w.s.x\r\n$12\r\n\
             \"00000001xx\"\r\n"
        )
    };
    check(&wire, message("*.e.w.s.x").as_bytes(), 1);
    check(&wire, message("n.e.*.*.x").as_bytes(), 1);
    assert!(wire.scan(message("*.e.w.s.x").replace("n.e.w.s.x", "n.e.w.s.y").as_bytes()).is_err());
    let wire = Nats::new(Work::Patterns, 12);
    check(&wire, b"MSG n.e.w.s.x 1 12\r\n\"00000001xx\"\r\n", 1);
}

#[test]
fn a_message_of_a_history_has_more_than_was_published() {
    let wire = Ipc::new(Dialect::Server, Work::History, 12);
    let sent = String::from_utf8(stamped(&wire, 3)[4..].to_vec()).unwrap();
    let body = sent.trim_end_matches('}').to_owned() + ",\"meta\":{\"epoch\":\"e\",\"offset\":4}}";
    check(&wire, &framed(&body), 3);
    let answer = framed("{\"payload\":{\"status\":\"subscribed\",\"recovered\":true}}");
    assert_eq!(wire.scan(&answer), Ok(Scan::Aside { bytes: answer.len() }));
    assert!(wire.scan(&framed("{\"payload\":{\"status\":\"error\"}}")).is_err());
}
