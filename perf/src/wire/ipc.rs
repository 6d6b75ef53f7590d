//! Length-prefixed JSON: this server, the published one, and the bare loops.

use std::cell::Cell;

use memchr::memmem;

use super::message::{
    Exchange, HEADER_BYTES, HISTORY_MESSAGES, ID_BYTES, Id, PATTERN_CHANNEL, Role, Scan, Template,
    Until, Wire, Work, excerpt, frame_bytes, held_patterns, id, matching_pattern, payload,
};

/// The kind of server that answers frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A server that speaks the protocol.
    Server,
    /// The published server, which finds the connection to answer only in the payload, and does not
    /// acknowledge a subscription.
    Published,
    /// A bare loop that returns or relays bytes without any protocol.
    Bare,
}

#[derive(Debug)]
pub(crate) struct Ipc {
    dialect: Dialect,
    work: Work,
    payload_bytes: usize,
    /// The channel of requests.
    channel: &'static str,
    message_bytes: usize,
    /// The offset of the payload's number in the last message.
    id_offset: Cell<usize>,
}

const APPLICATION: &str = "bench";
/// The channel that the server itself answers.
const ECHO: &str = "echo";
/// The channel with a history.
const KEPT: &str = "kept";
/// The channel that a worker answers.
const WORKED: &str = "worked";
/// The beginning of ids, which are as long as the UUIDs of clients and end with a counter.
const ID_PREFIX: &str = "6f1e2d3c-4b5a-4678-9abc-0fed";
/// The end of an answer, after the id that it refers to.
const ANSWER_TAIL: &[u8] = b"\"}";
/// The answers to subscriptions.
const ACKNOWLEDGED: [&[u8]; 2] = [b"\"status\":\"subscribed\"", b"\"status\":\"unsubscribed\""];
/// The greatest length of the fields before the payload.
const PAYLOAD_OFFSET_MAX: usize = 512;

impl Ipc {
    pub(crate) fn new(dialect: Dialect, work: Work, payload_bytes: usize) -> Self {
        Self::to_channel(dialect, work, payload_bytes, ECHO)
    }

    /// Makes requests that this server forwards to a worker.
    pub(crate) fn forwarded(payload_bytes: usize) -> Self {
        Self::to_channel(Dialect::Server, Work::Echo, payload_bytes, WORKED)
    }

    fn to_channel(
        dialect: Dialect,
        work: Work,
        payload_bytes: usize,
        channel: &'static str,
    ) -> Self {
        let id_offset = Cell::new(0);
        let mut wire = Self { dialect, work, payload_bytes, channel, message_bytes: 0, id_offset };
        wire.message_bytes = wire.message(0).bytes().len();
        wire
    }

    /// Returns the messages by which connection number `index` subscribes anew, and asks for all that is
    /// kept.
    pub(crate) fn read_again(&self, index: usize) -> Template {
        let (_, channel) = kind_and_channel(self.work);
        let id = connection_id(index);
        let end = format!("{{\"connection_id\":\"{id}\"}}");
        let begin = format!("{{\"connection_id\":\"{id}\",\"last\":{HISTORY_MESSAGES}}}");
        let end = frame("unsubscribe", channel, end.as_bytes(), "null");
        Template::new([end, frame("subscribe", channel, begin.as_bytes(), "null")].concat())
    }

    fn payload(&self, index: usize) -> Vec<u8> {
        let text = payload(self.payload_bytes);
        if self.dialect != Dialect::Published || self.work != Work::Echo {
            return text;
        }
        let text = String::from_utf8_lossy(&text);
        format!("{{\"connection_id\":\"{}\",\"text\":{text}}}", connection_id(index)).into_bytes()
    }

    /// Reads a publication or the answer of a bare echo, which are the bytes that were sent.
    fn scan_verbatim(&self, frame: &[u8]) -> Option<Id> {
        (frame.len() == self.message_bytes).then(|| self.number_in_payload(frame))?
    }

    /// Reads an answer, which has the number in its payload and in the id that it refers to.
    fn scan_answer(&self, frame: &[u8]) -> Option<Id> {
        let head = frame.strip_suffix(ANSWER_TAIL)?;
        let answered = &head[head.len().checked_sub(ID_BYTES)?..];
        let id = self.number_in_payload(frame)?;
        (answered == id).then_some(id)
    }

    fn number_in_payload(&self, frame: &[u8]) -> Option<Id> {
        // The fields before the payload rarely change their length.
        self.number_at(frame, self.id_offset.get()).or_else(|| {
            let key: &[u8] = match self.dialect {
                Dialect::Published if self.work == Work::Echo => b"\"text\":",
                _ => b"\"payload\":",
            };
            let head = &frame[..frame.len().min(PAYLOAD_OFFSET_MAX)];
            let mut offset = memmem::find(head, key)? + key.len();
            // The published server writes a space after a colon.
            offset += usize::from(frame.get(offset) == Some(&b' ')) + 1;
            self.id_offset.set(offset);
            self.number_at(frame, offset)
        })
    }

    /// Returns the number at `offset`, if a payload of the right length is there.
    fn number_at(&self, frame: &[u8], offset: usize) -> Option<Id> {
        let start = offset.checked_sub(1)?;
        let text = frame.get(start..start + self.payload_bytes)?;
        let is_payload = text[0] == b'"' && text[self.payload_bytes - 1] == b'"';
        is_payload.then(|| text[1..=ID_BYTES].try_into().ok())?
    }
}

impl Wire for Ipc {
    fn join(&self, role: Role, index: usize) -> Vec<Exchange> {
        if self.dialect == Dialect::Bare {
            return match (self.work, role) {
                (Work::Echo, _) => Vec::new(),
                (_, Role::Subscriber) => hello(b"S"),
                (_, _) => hello(b"P"),
            };
        }
        let own_id = format!("{{\"connection_id\":\"{}\",\"ack\":true}}", connection_id(index));
        let until = Until::FrameWith(b"connected");
        let speaks_topic = matches!(
            (self.work, role),
            (Work::Patterns | Work::History, Role::Subscriber | Role::Idle | Role::PatternHolder)
        );
        let extensions = if speaks_topic { "\"extensions\":[\"topic\"]" } else { "" };
        let mut steps = vec![Exchange { send: connect(index, extensions), until }];
        let subscribe = |channel: &str| frame("subscribe", channel, own_id.as_bytes(), "null");
        let send = match role {
            Role::Subscriber if self.work == Work::Patterns => {
                subscribe_pattern(&matching_pattern(index), index)
            }
            Role::PatternHolder => {
                let patterns = held_patterns(index);
                patterns.flat_map(|pattern| subscribe_pattern(&pattern, index)).collect()
            }
            Role::Subscriber => subscribe(kind_and_channel(self.work).1),
            Role::IdleSubscriber => subscribe(&format!("news-{index}")),
            Role::Worker => {
                let serve = format!("{{\"action\":\"serve\",\"channel\":\"{}\"}}", self.channel);
                frame("request", "system", serve.as_bytes(), "null")
            }
            Role::Sender | Role::Idle => return steps,
        };
        let until = match (self.dialect, role) {
            (Dialect::Published, _) => Until::Bytes(0),
            (_, Role::Worker) => Until::FrameWith(b"serving"),
            _ => Until::FrameWith(b"subscribed"),
        };
        steps.push(Exchange { send, until });
        steps
    }

    fn message(&self, index: usize) -> Template {
        let (kind, mut channel) = kind_and_channel(self.work);
        if self.work == Work::Echo {
            channel = self.channel;
        }
        Template::new(frame(kind, channel, &self.payload(index), "null"))
    }

    fn answer(&self, received: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
        const KEY: &[u8] = b"\"message_id\":\"";
        let Some(bytes) = frame_bytes(received) else { return Ok(None) };
        let Some(request) = received.get(..bytes) else { return Ok(None) };
        let answer = || {
            let start = memmem::find(request, KEY)? + KEY.len();
            let end = start + memchr::memchr(b'"', &request[start..])?;
            self.number_in_payload(request)?;
            let payload = self.id_offset.get() - 1;
            let payload = &request[payload..payload + self.payload_bytes];
            let reply_to = format!("\"{}\"", String::from_utf8_lossy(&request[start..end]));
            Some(frame("response", self.channel, payload, &reply_to))
        };
        match answer() {
            Some(answer) => Ok(Some((bytes, answer))),
            None => Err(format!("a worker was sent {}", excerpt(request))),
        }
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        let Some(bytes) = frame_bytes(received) else { return Ok(Scan::Partial) };
        let Some(frame) = received.get(..bytes) else { return Ok(Scan::Partial) };
        let id = match (self.dialect, self.work) {
            (Dialect::Bare, _) | (Dialect::Server, Work::Fanout | Work::Patterns) => {
                self.scan_verbatim(frame)
            }
            (Dialect::Server, Work::History) => {
                // The server has added the place in the history.
                let id = self.number_in_payload(frame);
                if id.is_none() && ACKNOWLEDGED.iter().any(|ack| memmem::find(frame, ack).is_some())
                {
                    return Ok(Scan::Aside { bytes });
                }
                id
            }
            // The published server encodes a publication again.
            (Dialect::Published, Work::Fanout | Work::Patterns | Work::History) => {
                self.number_in_payload(frame)
            }
            (_, Work::Echo) => self.scan_answer(frame),
        };
        match id {
            Some(id) => Ok(Scan::Message { bytes, id }),
            None => Err(format!("the peer sent {}", excerpt(frame))),
        }
    }
}

fn hello(role: &[u8]) -> Vec<Exchange> {
    vec![Exchange { send: role.to_vec(), until: Until::Bytes(1) }]
}

/// Returns the message by which connection number `index` subscribes to a pattern. It is acknowledged.
fn subscribe_pattern(pattern: &str, index: usize) -> Vec<u8> {
    let id = connection_id(index);
    let payload = format!("{{\"connection_id\":\"{id}\",\"ack\":true,\"pattern\":true}}");
    frame("subscribe", pattern, payload.as_bytes(), "null")
}

fn connection_id(index: usize) -> String {
    format!("load-{index:06}")
}

/// Returns the request by which connection number `index` introduces itself.
pub(super) fn connect(index: usize, more: &str) -> Vec<u8> {
    let comma = if more.is_empty() { "" } else { "," };
    let connection = connection_id(index);
    let payload =
        format!("{{\"action\":\"connect\",\"connection_id\":\"{connection}\"{comma}{more}}}");
    frame("request", "system", payload.as_bytes(), "null")
}

/// Returns the type of the messages that do this work, and their channel.
pub(super) fn kind_and_channel(work: Work) -> (&'static str, &'static str) {
    match work {
        Work::Echo => ("request", ECHO),
        Work::Fanout => ("publish", "news"),
        Work::Patterns => ("publish", PATTERN_CHANNEL),
        Work::History => ("publish", KEPT),
    }
}

fn frame(kind: &str, channel: &str, payload: &[u8], reply_to: &str) -> Vec<u8> {
    frame_with(kind, channel, payload, reply_to, "")
}

/// Returns a frame with more keys behind the usual ones.
pub(super) fn frame_with(
    kind: &str,
    channel: &str,
    payload: &[u8],
    reply_to: &str,
    more: &str,
) -> Vec<u8> {
    let number = String::from_utf8_lossy(&id(0)).into_owned();
    let mut bytes = vec![0; HEADER_BYTES];
    let head = format!(
        "{{\"message_id\":\"{ID_PREFIX}{number}\",\"app_id\":\"{APPLICATION}\",\
         \"channel_id\":\"{channel}\",\"message_type\":\"{kind}\",\"payload\":"
    );
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(payload);
    let tail = format!(",\"timestamp\":1767225600.123456,\"reply_to\":{reply_to}{more}}}");
    bytes.extend_from_slice(tail.as_bytes());
    let body = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..HEADER_BYTES].copy_from_slice(&body.to_be_bytes());
    bytes
}
