//! Attachments of the peers' messages, by the letter of the protocol: as they are said, and as each peer
//! should get them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};

/// The extensions for which a peer asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) call: bool,
    pub(super) binary: bool,
    pub(super) topic: bool,
}

impl Extended {
    /// Any of the eight, by three bits.
    pub(super) fn by(bits: u8) -> Self {
        Self { call: bits & 1 != 0, topic: bits & 2 != 0, binary: bits & 4 != 0 }
    }

    pub(super) fn is_none(self) -> bool {
        !self.call && !self.binary && !self.topic
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        let names = [(self.call, "call"), (self.binary, "binary"), (self.topic, "topic")];
        names.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }
}

/// An attachment, which stands in place of a null in the member `parts` of a payload.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    dtype: Option<&'static str>,
    shape: Value,
    data: Vec<u8>,
}

/// The lengths of plain bytes, of which each kind of padding follows.
const LENGTHS: [usize; 4] = [0, 1, 64, 100];
/// The length of one that fits into a frame, and into none in base64.
const HUGE_BYTES: usize = 1_400;

/// Returns the attachments of a message. By its padding every eighth one has some.
pub(super) fn some(serial: u32, bytes: u8) -> Vec<Attached> {
    let count = match (bytes % 8, bytes / 8 % 4) {
        (7, 3) => return vec![Attached::plain(serial, HUGE_BYTES)],
        (7, more) => u32::from(more) + 1,
        _ => 0,
    };
    (0..count)
        .map(|at| {
            let tensor = |dtype, shape: Value, bytes| {
                let plain = Attached::plain(serial + at, bytes);
                Attached { dtype: Some(dtype), shape, ..plain }
            };
            match (serial + at) % 4 {
                0 => tensor("u16", json!([2, 25]), 100),
                1 => tensor("f32", json!([0, 3]), 0),
                2 => tensor("c128", json!([]), 16),
                _ => Attached::plain(serial, LENGTHS[(serial / 4 + at) as usize % LENGTHS.len()]),
            }
        })
        .collect()
}

impl Attached {
    fn plain(serial: u32, bytes: usize) -> Self {
        let data = (0..bytes).map(|at| (at * 31 + serial as usize) as u8).collect();
        Self { dtype: None, shape: Value::Null, data }
    }

    pub(super) fn is_huge(&self) -> bool {
        self.data.len() == HUGE_BYTES
    }

    fn in_base64(&self) -> Value {
        let data = BASE64_STANDARD.encode(&self.data);
        json!({"$base64": data, "dtype": self.dtype, "shape": self.shape})
    }
}

/// Returns `meta.bin`.
pub(super) fn bin(attached: &[Attached]) -> Value {
    let entry = |(at, one): (usize, &Attached)| {
        json!([format!("/parts/{at}"), one.data.len(), one.dtype, one.shape])
    };
    attached.iter().enumerate().map(entry).collect()
}

/// Returns the body of a message with this text.
pub(super) fn body(text: &str, attached: &[Attached]) -> Vec<u8> {
    if attached.is_empty() {
        return text.as_bytes().to_vec();
    }
    let mut body = (text.len() as u32).to_be_bytes().to_vec();
    for piece in std::iter::once(text.as_bytes()).chain(attached.iter().map(|one| &one.data[..])) {
        body.extend_from_slice(piece);
        body.resize(body.len().next_multiple_of(64), 0);
    }
    body
}

/// The parts of a message that are not the same for every receiver.
#[derive(Debug, PartialEq)]
pub(super) struct Form {
    pub(super) payload: Value,
    pub(super) meta: Option<Value>,
    pub(super) attached: Option<Value>,
}

/// Keys of `meta` for which a peer needs the extension `call`.
const OF_CALL: [&str; 5] = ["ttl", "idempotent", "stream", "seq", "end"];

/// Keys of `meta` for which a peer needs the extension `topic`.
const OF_TOPIC: [&str; 4] = ["retain", "ack", "epoch", "offset"];

/// Returns whether a `meta` has a key of an extension that its sender does not have.
pub(super) fn exceeds(meta: &Value, from: Extended) -> bool {
    let has_any = |keys: &[&str]| keys.iter().any(|key| meta.get(key).is_some());
    (!from.call && has_any(&OF_CALL)) || (!from.topic && has_any(&OF_TOPIC))
}

impl Form {
    /// The form for a peer with these extensions.
    pub(super) fn of(
        payload: &Value,
        meta: Option<&Value>,
        attached: &[Attached],
        to: Extended,
    ) -> Self {
        let mut payload = payload.clone();
        if !to.binary {
            for (at, one) in attached.iter().enumerate() {
                payload["parts"][at] = one.in_base64();
            }
        }
        let mut members = meta.and_then(Value::as_object).cloned().unwrap_or_default();
        members.retain(|key, _| match &**key {
            "idempotent" | "ack" => false,
            "bin" => to.binary,
            key if OF_TOPIC.contains(&key) => to.topic,
            key if OF_CALL.contains(&key) => to.call,
            _ => !to.is_none(),
        });
        let data = attached.iter().map(|one| encoded(&one.data)).collect();
        Self {
            payload,
            meta: Some(members).filter(|members| !members.is_empty()).map(Value::Object),
            attached: (to.binary && !attached.is_empty()).then_some(data),
        }
    }

    /// The form of a message that was received.
    pub(super) fn found(message: &Value) -> Self {
        Self {
            payload: message["payload"].clone(),
            meta: message.get("meta").cloned(),
            attached: message.get(ATTACHED).cloned(),
        }
    }
}

/// A key for the attachments of a message that was received, which no message has.
const ATTACHED: &str = "\u{0}attached";

fn encoded(data: &[u8]) -> Value {
    BASE64_STANDARD.encode(data).into()
}

/// Reads a body, with what is attached to it under a key of its own.
pub(super) fn read(body: &[u8]) -> Value {
    let parse = |text| serde_json::from_slice(text).expect("every frame is JSON");
    if body.first() != Some(&0) {
        return parse(body);
    }
    let (prefix, behind) = body.split_first_chunk::<4>().expect("the length of the JSON");
    let (text, _) = behind.split_at(u32::from_be_bytes(*prefix) as usize);
    let mut message: Value = parse(text);
    let mut at = 4 + text.len();
    let mut next = |bytes: usize| {
        let (start, end) = (at.next_multiple_of(64), at.next_multiple_of(64) + bytes);
        assert!(body[at..start].iter().all(|byte| *byte == 0), "zeros before an attachment");
        at = end;
        &body[start..end]
    };
    let entries = message["meta"]["bin"].as_array().expect("a list of attachments");
    let lengths = entries.iter().map(|entry| entry[1].as_u64().expect("a length") as usize);
    let data: Vec<Value> = lengths.map(|bytes| encoded(next(bytes))).collect();
    assert!(next(0).is_empty() && at == body.len(), "zeros behind the last one, and no more");
    let members: &mut Map<_, _> = message.as_object_mut().expect("an object");
    members.insert(ATTACHED.to_owned(), data.into());
    message
}
