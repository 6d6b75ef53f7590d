//! `PROTOCOL.md` against a real server: its examples, byte by byte, and its tables.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::Shutdown;

use ipc_framework::proto::Meta;
use ipc_framework::{ErrorCode, HistoryRule, Limits};
use serde_json::{Value, json};

use crate::support::{Peer, TestServer, serve_echo, serve_limited};

const DOCUMENT: &str = include_str!("../../PROTOCOL.md");
const EXAMPLES_MIN: usize = 8;

/// A line of an example: what one client sends or receives.
struct Line<'a> {
    client: char,
    sends: bool,
    /// The bytes that are written in hexadecimal.
    bytes: Vec<u8>,
    text: String,
    /// The bytes behind the text.
    tail: Vec<u8>,
    source: &'a str,
}

/// What the server chose in this run, by the names in the example.
type Chosen = BTreeMap<String, String>;

#[test]
fn every_example_is_what_the_server_does() {
    let examples: Vec<&str> = DOCUMENT
        .split("```wire\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("an example ends").0)
        .collect();
    assert!(examples.len() >= EXAMPLES_MIN, "{} examples", examples.len());
    for example in examples {
        let history = HistoryRule::new("shop", "trades.*");
        let server = serve_limited(Limits::default().histories([history]));
        let mut clients = BTreeMap::new();
        let mut chosen = Chosen::new();
        for line in lines(example) {
            let client = clients.entry(line.client).or_insert_with(|| server.peer());
            run(&line, client, &mut chosen);
        }
        for client in clients.into_values() {
            nothing_else_comes(client, &server);
        }
    }
}

fn lines(example: &str) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for source in example.lines() {
        if let Some(more) = source.strip_prefix("   ") {
            let line = lines.last_mut().expect("a line to continue");
            match more.strip_prefix("+ ") {
                Some(bytes) => line.tail.extend(bytes.split(' ').flat_map(repeated)),
                None => line.text.push_str(more),
            }
            continue;
        }
        let (who, rest) = source.split_once(' ').expect("a client and its line");
        let (client, direction) = who.split_at(1);
        assert!(matches!(direction, "<" | ">"), "neither sent nor received: {source}");
        let is_hexadecimal = |word: &str| {
            word.len() == 2 && word.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut text = rest;
        let mut bytes = Vec::new();
        while let Some(word) = text.split(' ').next().filter(|word| is_hexadecimal(word)) {
            bytes.push(u8::from_str_radix(word, 16).unwrap());
            text = text[word.len()..].trim_start_matches(' ');
        }
        let client = client.chars().next().unwrap();
        let (sends, text) = (direction == ">", text.to_owned());
        lines.push(Line { client, sends, bytes, text, tail: Vec::new(), source });
    }
    lines
}

/// A byte in hexadecimal, once or as often as the number behind the star says.
fn repeated(word: &str) -> Vec<u8> {
    let (byte, times) = word.split_once('*').unwrap_or((word, "1"));
    vec![u8::from_str_radix(byte, 16).expect(word); times.parse().expect(word)]
}

impl Line<'_> {
    /// The bytes before a text: the length of the body, and that of its JSON if bytes follow it.
    fn lengths(&self, text: &str) -> Vec<u8> {
        if self.tail.is_empty() {
            return length(text.len());
        }
        let body_bytes = 4 + text.len() + self.tail.len();
        assert_eq!(body_bytes % 64, 0, "{}", self.source);
        [length(body_bytes), length(text.len())].concat()
    }
}

fn run(line: &Line<'_>, client: &mut Peer, chosen: &mut Chosen) {
    println!("{}", line.source);
    match (line.sends, &*line.text) {
        (true, "end") => client.stream.shutdown(Shutdown::Write).unwrap(),
        (false, "end") => client.expect_end(),
        (true, text) => {
            let text = with_chosen(text, chosen);
            if text.starts_with('{') {
                assert_eq!(line.bytes, line.lengths(&text), "the length of {text}");
            }
            let bytes = [&line.bytes, text.as_bytes(), &line.tail].concat();
            client.stream.write_all(&bytes).unwrap();
        }
        (false, text) if line.bytes.is_empty() => {
            // What is left of a `ttl` is a number.
            let text = text.replace(":<ttl>", ":\"<ttl>\"");
            let expected: Value = serde_json::from_str(&text).expect("the document has JSON");
            let body = client.try_receive_body().expect("a frame before the stream ends");
            let mut received: Value = serde_json::from_slice(&body).expect("every frame is JSON");
            if expected["timestamp"] == 0 {
                assert!(received["timestamp"].as_f64().is_some_and(|now| now > 1e9), "{received}");
                received["timestamp"] = json!(0);
            }
            compare(&expected, &received, chosen);
        }
        (false, text) => {
            assert_eq!(line.bytes, line.lengths(text), "the length of {text}");
            let body = client.try_receive_body().expect("a frame");
            let expected = [&line.bytes[4..], text.as_bytes(), &line.tail].concat();
            assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(&expected));
            assert_eq!(body, expected);
        }
    }
}

/// Puts what the server chose in place of its names.
fn with_chosen(text: &str, chosen: &Chosen) -> String {
    let put = |text: String, (name, value): (&String, &String)| text.replace(&**name, value);
    chosen.iter().fold(text.to_owned(), put)
}

fn length(bytes: usize) -> Vec<u8> {
    u32::try_from(bytes).unwrap().to_be_bytes().to_vec()
}

/// Compares a message with that of the document, and notes what the server chose.
fn compare(expected: &Value, received: &Value, chosen: &mut Chosen) {
    match (expected, received) {
        (Value::Object(expected), Value::Object(received)) => {
            let keys = |object: &serde_json::Map<String, Value>| {
                object.keys().cloned().collect::<BTreeSet<String>>()
            };
            assert_eq!(keys(expected), keys(received), "{received:?}");
            expected.iter().for_each(|(key, value)| compare(value, &received[key], chosen));
        }
        (Value::String(name), Value::String(value)) if name.starts_with('<') => {
            let known = chosen.entry(name.clone()).or_insert_with(|| value.clone());
            assert_eq!(known, value, "{name} is two things");
        }
        (Value::String(name), Value::Number(left)) if name == "<ttl>" => {
            assert!(left.as_u64().is_some_and(|left| (1..=60_000).contains(&left)), "{left}");
        }
        _ => assert_eq!(expected, received),
    }
}

/// Nothing follows an example: its end comes next, or the answer to a ping.
fn nothing_else_comes(mut client: Peer, server: &TestServer) {
    let id = "behind-the-example";
    let ping = json!({"message_id": id, "app_id": "shop", "channel_id": "system",
        "message_type": "request", "payload": {"action": "ping"}, "timestamp": 0});
    // The server may have closed the connection.
    let sent = client.stream.write_all(&crate::support::frames([&ping]));
    match sent.and_then(|()| client.try_receive()) {
        Ok(answer) if answer["reply_to"] == id => {}
        Ok(other) => panic!("the document does not show {other}"),
        Err(error) => {
            let ends = [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::BrokenPipe,
                io::ErrorKind::ConnectionReset,
            ];
            assert!(ends.contains(&error.kind()), "{error}");
        }
    }
    assert_eq!(server.stats().counters.handler_failures, 0);
}

/// The cells of the table with this heading, without its ruler.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = DOCUMENT.split_once(heading).expect("the table").1.lines().skip(2);
    let rows: Vec<Vec<&str>> = rows
        .take_while(|row| row.starts_with('|'))
        .map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no rows below {heading}");
    rows
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_table_of_errors_has_every_code_and_what_becomes_of_the_connection() {
    let rows = table("| code | when | the connection |");
    let codes: Vec<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(codes, ErrorCode::ALL.map(ErrorCode::as_str));
    for (row, code) in rows.iter().zip(ErrorCode::ALL) {
        assert_eq!(row[2] == "is closed", code.closes_connection(), "{row:?}");
    }
}

#[test]
fn the_table_of_meta_has_what_the_server_takes() {
    let rows = table("| member | extension | on | meaning |");
    let of_clients = rows.iter().filter(|row| !row[2].contains("from the server alone"));
    let listed: Vec<&str> = of_clients.flat_map(|row| quoted(row[0])).collect();
    let error = Meta::parse(r#"{"colour":"red"}"#).unwrap_err().to_string();
    let named = error.split_once("send ").unwrap().1.split_once(" alone").unwrap().0;
    let named: Vec<&str> =
        named.split([',', ' ']).filter(|word| word.len() > 2 && *word != "and").collect();
    assert_eq!(listed, named);
}

#[test]
fn the_table_of_actions_has_those_that_the_server_names() {
    let server = serve_echo();
    let mut peer = server.connected("app", "curious");
    let refused = peer.request("system", json!({"action": "none of them"}));
    let text = refused["error"].as_str().unwrap();
    let named = text.split_once("its actions are ").expect("their names").1;
    let named: BTreeSet<&str> = named.split([',', ' ']).filter(|word| word.len() > 3).collect();
    let rows = table("| action | payload of the answer |");
    let listed: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| quoted(row[0]))
        .filter(|word| !["app", "channel"].contains(word))
        .collect();
    assert_eq!(listed, named);
}
