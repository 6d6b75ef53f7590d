//! Peers of the base protocol get the bytes that they got before there were extensions, whatever the
//! peers at the other end have. `plain.txt` has their conversations as the server before extensions
//! had them, and every line of it that a peer gets is compared.

use std::collections::BTreeSet;

use super::*;

const CONVERSATIONS: &str = include_str!("plain.txt");
/// The conversations of one world begin with this.
const TITLE: &str = "## ";
/// A member of every message of a peer that has extensions, and those of its requests.
const META: &str = r#","meta":{"headers":{"for":"others"}}}"#;
const META_OF_REQUESTS: &str =
    r#","meta":{"ttl":2147483648,"stream":4,"headers":{"for":"others"}}}"#;

/// One conversation while it is repeated.
struct Conversation {
    world: World,
    /// The peers by their letters.
    peers: BTreeMap<char, ConnectionKey>,
    /// The id of the last request that a peer got, which it may answer.
    last_ids: BTreeMap<char, String>,
    /// The connections of which the end is written down.
    ended: Vec<ConnectionKey>,
    transcript: Vec<String>,
    /// The only peer without extensions, if that is not all of them.
    plain: Option<char>,
}

impl Conversation {
    fn new(plain: Option<char>) -> Self {
        let limits = Limits { pending_per_connection_max: 4, ..Limits::default() };
        let mut world = World::new(limits);
        let mut app = world.broker.application("app", "The App");
        app.channel("echo").on_request(|request| {
            let payload: Value = request.payload()?;
            request.reply(&payload)
        });
        app.channel("fails").on_request(|_| Err("it always fails".into()));
        let (peers, last_ids) = (BTreeMap::new(), BTreeMap::new());
        Self { world, peers, last_ids, ended: Vec::new(), transcript: Vec::new(), plain }
    }

    /// Repeats a line, unless a peer gets it.
    fn repeat(&mut self, line: &str) {
        let Some((who, what)) = line.split_once(' ') else { return };
        if who.ends_with('<') {
            return;
        }
        self.transcript.push(line.to_owned());
        match (who, what) {
            ("pass", seconds) => {
                self.world.pass(Duration::from_secs(seconds.parse().expect("a number of seconds")));
            }
            ("server", "drains") => {
                self.world.broker.begin_drain();
                self.world.act();
            }
            (_, "hangs up") => {
                let key = self.peer(who);
                self.world.hang_up(key);
            }
            (_, body) => {
                let who = who.strip_suffix('>').expect("a peer that sends");
                let key = self.peer(who);
                let letter = who.chars().next().expect("a letter");
                let body = body.replace("{id}", self.last_id(letter)).replace("{nothing}", "");
                let body = self.extend(letter, &body);
                self.world.deliver(key, &framed_text(&body));
            }
        }
        self.note_received();
    }

    fn peer(&mut self, who: &str) -> ConnectionKey {
        let letter = who.chars().next().expect("a letter");
        *self.peers.entry(letter).or_insert_with(|| self.world.broker.accept().expect("room"))
    }

    fn last_id(&self, letter: char) -> &str {
        self.last_ids.get(&letter).map_or("", String::as_str)
    }

    /// Gives a message of a peer that has extensions a `meta`, and its connect their names.
    fn extend(&self, letter: char, body: &str) -> String {
        if self.plain.is_none_or(|plain| plain == letter) {
            return body.to_owned();
        }
        let connect = r#""action":"connect","#;
        if body.contains(connect) {
            return body.replacen(connect, &format!(r#"{connect}"extensions":["call"],"#), 1);
        }
        let Some(open) = body.strip_suffix('}') else { return body.to_owned() };
        let spaced = body.replace("\": ", "\":");
        let is_request = spaced.contains(r#""message_type":"request""#)
            && !spaced.contains(r#""channel_id":"system""#);
        [open, if is_request { META_OF_REQUESTS } else { META }].concat()
    }

    fn note_received(&mut self) {
        for (letter, key) in &self.peers {
            let bytes = self.world.received.remove(key).unwrap_or_default();
            let mut rest = &bytes[..];
            while let Some((header, behind)) = rest.split_first_chunk::<4>() {
                let (body, next) = behind.split_at(u32::from_be_bytes(*header) as usize);
                let body = std::str::from_utf8(body).expect("every frame is UTF-8");
                let message: Value = serde_json::from_str(body).expect("every frame is JSON");
                if message["message_type"] == "request" {
                    let id = message["message_id"].as_str().expect("an id");
                    self.last_ids.insert(*letter, id.to_owned());
                }
                self.transcript.push(format!("{letter}< {}", without_sentence(body, &message)));
                rest = next;
            }
            assert!(rest.is_empty(), "whole frames only");
            let has_ended = self.world.closed.contains(key) || self.world.shut.contains(key);
            if has_ended && !self.ended.contains(key) {
                self.ended.push(*key);
                self.transcript.push(format!("{letter}< the end"));
            }
        }
    }
}

/// Leaves out what may change with any release: the sentences of the server's errors, and its version.
fn without_sentence(body: &str, message: &Value) -> String {
    let body = body.replace(concat!("/", env!("CARGO_PKG_VERSION"), "\""), "/{version}\"");
    match message["payload"]["error"].as_str() {
        Some(sentence) if message["message_id"].as_str().is_some_and(is_own) => {
            body.replace(&json!(sentence).to_string(), "\"{sentence}\"")
        }
        _ => body,
    }
}

/// The ids of the server's own messages begin with what it drew first from its seed.
fn is_own(message_id: &str) -> bool {
    message_id.starts_with("e4d0cb59-3fbc-41e3-")
}

/// Has the conversations again, and returns their lines.
fn converse(text: &str, plain: Option<char>) -> Vec<String> {
    let mut conversation = Conversation::new(plain);
    text.lines().filter(|line| !line.is_empty()).for_each(|line| conversation.repeat(line));
    conversation.transcript
}

fn conversations() -> impl Iterator<Item = (&'static str, &'static str)> {
    CONVERSATIONS.split(TITLE).skip(1).map(|text| text.split_once('\n').expect("a title"))
}

#[test]
fn peers_without_extensions_get_what_they_got_before_there_were_any() {
    let mut frames = 0;
    for (title, text) in conversations() {
        let now = converse(text, None);
        frames += now.iter().filter(|line| line.contains("< ")).count();
        let before: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let at = before.iter().zip(&now).position(|(was, is)| was != is);
        let at = at.unwrap_or(before.len().min(now.len()));
        assert_eq!(before.get(at).copied(), now.get(at).map(String::as_str), "{title}: {now:#?}");
    }
    assert!(frames > 60, "{frames} frames");
}

/// The ids of the server's own messages are numbered, also those to others.
fn without_own_ids(lines: &[String], letter: char) -> Vec<Value> {
    let received = lines.iter().filter_map(|line| line.strip_prefix(&format!("{letter}< ")));
    let mut messages: Vec<Value> =
        received.map(|body| serde_json::from_str(body).unwrap_or_else(|_| json!(body))).collect();
    for message in &mut messages {
        if message["message_id"].as_str().is_some_and(is_own) {
            message["message_id"] = json!("the server's own");
        }
    }
    messages
}

#[test]
fn peers_without_extensions_do_not_notice_those_of_others() {
    for (title, text) in conversations() {
        let all_plain = converse(text, None);
        let letters: BTreeSet<char> =
            all_plain.iter().filter_map(|line| line.split_once("< ")?.0.chars().next()).collect();
        for letter in letters {
            let mixed = converse(text, Some(letter));
            let [alone, beside] = [&all_plain, &mixed].map(|lines| without_own_ids(lines, letter));
            assert_eq!(alone, beside, "{letter} in: {title}");
        }
    }
}
