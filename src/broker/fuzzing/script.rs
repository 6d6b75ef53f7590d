//! The peers' messages and deeds, made of a fuzzer's bytes.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use serde_json::{Value, json};

use super::attached::{self, Attached, Extended, Form};
use super::wish::{Place, Wish};
use crate::proto::{Envelope, EnvelopeError, MessageType};

/// One more than the server takes.
pub(super) const FRAME_BYTES_MAX: usize = 2_048;

pub(super) const PEERS: usize = 6;

/// The padding of messages with a `meta` is below this, so that they stay within the limit.
const META_PADDING_MAX: u8 = 200;

#[derive(Arbitrary, Debug)]
pub(super) struct Script<'a> {
    pub(super) steps: Vec<Step<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    Accept(Slot),
    /// With how many bytes of the frame come first; zero is all.
    Say(Slot, Speech<'a>, u8),
    Stall(Slot),
    /// The peer's kernel takes so many bytes; zero is all from now on.
    Read(Slot, u16),
    HangUp(Slot, bool),
    Pass(u16),
    /// From inside the process.
    Publish(App, Channel, u8),
    Drain,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Speech<'a> {
    Connect(App, Id, Extended),
    Subscribe(Channel, Ack, Whose),
    Unsubscribe(Channel, Ack, Whose),
    /// The same with more wishes, and for patterns.
    Follow(Channel, Wish),
    Watch(Pattern, Wish),
    Unwatch(Pattern),
    Publish(Channel, u8, Manner),
    Request(Channel, u8, Manner),
    Notification(Channel, u8),
    /// Cancels requests, or allows a stream more parts.
    Cancel(u8),
    Credit(u8, u8),
    /// Answers some request, its own or not.
    Respond(u8, u8, Manner),
    Serve(Channel),
    StopServing(Channel),
    System(SystemAction),
    /// A message for another application.
    Abroad(Channel),
    Raw(&'a [u8]),
    TooLarge,
}

/// By one byte each, and what leads somewhere more often than what ends a conversation.
impl<'a> Arbitrary<'a> for Step<'a> {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(match input.arbitrary::<u8>()? {
            0..=7 => Self::Accept(input.arbitrary()?),
            8..=159 => Self::Say(input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            160..=179 => Self::Stall(input.arbitrary()?),
            180..=203 => Self::Read(input.arbitrary()?, input.arbitrary()?),
            204..=215 => Self::HangUp(input.arbitrary()?, input.arbitrary()?),
            216..=229 => Self::Pass(input.arbitrary()?),
            230..=253 => Self::Publish(input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            254.. => Self::Drain,
        })
    }
}

impl<'a> Arbitrary<'a> for Speech<'a> {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let byte = input.arbitrary::<u8>()?;
        let manner = Manner(byte / 32);
        Ok(match byte % 32 {
            0 => {
                let extended = Extended::by(manner.0);
                Self::Connect(input.arbitrary()?, input.arbitrary()?, extended)
            }
            1..=2 => Self::Subscribe(input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            3..=4 => Self::Follow(input.arbitrary()?, input.arbitrary()?),
            5..=6 if manner.0 > 4 => Self::Unwatch(input.arbitrary()?),
            5..=6 => Self::Unsubscribe(input.arbitrary()?, input.arbitrary()?, input.arbitrary()?),
            7..=11 => Self::Publish(input.arbitrary()?, input.arbitrary()?, manner),
            12..=13 => Self::Watch(input.arbitrary()?, input.arbitrary::<Wish>()?.of_pattern()),
            14..=15 => Self::Request(input.arbitrary()?, input.arbitrary()?, manner),
            16..=17 if manner.0 == 5 => Self::Cancel(input.arbitrary()?),
            16..=17 if manner.0 > 5 => Self::Credit(input.arbitrary()?, input.arbitrary()?),
            16..=17 => Self::Notification(input.arbitrary()?, input.arbitrary()?),
            18..=20 => Self::Respond(input.arbitrary()?, input.arbitrary()?, manner),
            21..=24 => Self::Serve(input.arbitrary()?),
            25 => Self::StopServing(input.arbitrary()?),
            26..=28 => Self::System(input.arbitrary()?),
            29 => Self::Abroad(input.arbitrary()?),
            30 => Self::Raw(input.arbitrary()?),
            _ => Self::TooLarge,
        })
    }
}

impl Speech<'_> {
    /// Returns the attachments of its message.
    fn attached(self, serial: u32) -> Vec<Attached> {
        match self {
            // A value is forgotten with an empty payload.
            Self::Publish(_, _, Manner(6)) => Vec::new(),
            Self::Publish(_, bytes, _)
            | Self::Request(_, bytes, _)
            | Self::Notification(_, bytes) => attached::some(serial, bytes),
            // The end of a stream has no payload.
            Self::Respond(_, bytes, manner) if manner.answered(0).1 => {
                attached::some(serial, bytes)
            }
            _ => Vec::new(),
        }
    }

    /// Returns whether a peer may begin with it. Everything else is said after a connect.
    pub(super) fn introduces(self) -> bool {
        matches!(self, Self::Connect(..) | Self::Raw(_) | Self::TooLarge | Self::Abroad(_))
    }
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SystemAction {
    Ping,
    GetStats,
    ListChannels,
    ListApplications,
    ListServices,
    GetLatency,
    Unknown,
    Nothing,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    Implied,
    Foreign,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack(pub(super) bool);

/// One of eight ways to ask or to answer, most of them with a `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner(pub(super) u8);

impl Manner {
    /// Returns the `meta` of a request.
    fn asked(self) -> Option<Value> {
        match self.0 {
            0 | 1 => None,
            2 => Some(json!({"stream": 0})),
            3 => Some(json!({"ttl": 50})),
            4 => Some(json!({"stream": 1})),
            5 => Some(json!({"stream": 2, "idempotent": true})),
            6 => Some(json!({"stream": 65_536, "ttl": 2_000, "headers": {"a": "b"}})),
            _ => Some(json!({"idempotent": true})),
        }
    }

    /// Returns the `meta` of a publication, and whether it has a payload.
    fn published(self) -> (Option<Value>, bool) {
        match self.0 {
            0..=2 => (None, true),
            3 => (Some(json!({"retain": true})), true),
            4 => (Some(json!({"ack": true})), true),
            5 => (Some(json!({"retain": true, "ack": true, "headers": {"a": "b"}})), true),
            6 => (Some(json!({"retain": true})), false),
            _ => (Some(json!({"epoch": "own", "offset": 1})), true),
        }
    }

    /// Returns the `meta` of a response, where the next part has this number, and whether it has a
    /// payload.
    fn answered(self, next_seq: u64) -> (Option<Value>, bool) {
        match self.0 {
            0..=2 => (None, true),
            3 | 4 => (Some(json!({"seq": next_seq})), true),
            5 => (Some(json!({"seq": next_seq, "end": true})), false),
            6 => (Some(json!({"seq": next_seq + 1})), true),
            _ => (Some(json!({"seq": next_seq, "end": true})), true),
        }
    }
}

/// What a peer knows of that it speaks about.
pub(super) struct Known {
    /// The request that it answers.
    pub(super) request: String,
    pub(super) next_seq: u64,
    /// The place of the newest publication on the channel that it subscribes to.
    pub(super) newest: Option<Place>,
}

/// One of few names, so that they meet, and some more often than others.
macro_rules! name {
    ($name:ident: $($text:literal)*, $choices:expr) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) struct $name(pub(super) usize);

        impl $name {
            pub(super) const NAMES: &[&str] = &[$($text),*];

            pub(super) fn name(self) -> &'static str {
                Self::NAMES[self.0]
            }
        }

        impl Arbitrary<'_> for $name {
            fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
                const CHOICES: &[usize] = &$choices;
                Ok(Self(CHOICES[usize::from(input.arbitrary::<u8>()?) % CHOICES.len()]))
            }
        }
    };
}

name!(App: "app" "other", [0, 0, 0, 1]);
// The first three may have workers. Those behind the fourth are published to alone, and some read like
// patterns.
name!(
    Channel: "news" "work" "a \"quoted\" \u{e9}" "system" "log.a" "log.b" "log.*" "a" ">" "*.a" "*" "a.>.b",
    [0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5, 5, 6, 7]
);

/// A channel that is named as a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pattern(pub(super) Channel);

impl Arbitrary<'_> for Pattern {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        const CHOICES: &[usize] = &[8, 8, 6, 6, 6, 9, 10, 0, 4, 11];
        Ok(Self(Channel(CHOICES[usize::from(input.arbitrary::<u8>()?) % CHOICES.len()])))
    }
}

name!(Id: "one" "two" "three", [0, 1, 2]);

/// The place of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(pub(super) usize);

impl Arbitrary<'_> for Slot {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(Self(usize::from(input.arbitrary::<u8>()?) % PEERS))
    }
}

/// One message on its way to the server.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) what: What,
    /// Empty where it has none.
    pub(super) message_id: String,
    pub(super) payload: Value,
    pub(super) meta: Option<Value>,
    pub(super) attached: Vec<Attached>,
    pub(super) frame: Vec<u8>,
    /// When the server had the last byte.
    pub(super) arrived: Duration,
    /// Bytes that the server has read.
    pub(super) given: usize,
    /// Bytes that come before the others.
    pub(super) held_back: usize,
}

/// A speech, as far as it is not in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Connect(App, Id, Extended),
    Subscribe(Channel, Ack, Whose),
    Unsubscribe(Channel, Ack, Whose),
    Follow(Channel, Wish),
    /// What else it says is in the payload.
    Unwatch(Channel),
    Publish(Channel),
    Request(Channel),
    Notification(Channel),
    /// Of the requests with this id.
    Cancel(String),
    Credit(String, u32),
    /// To the request with this id.
    Respond(String),
    Serve(Channel),
    StopServing(Channel),
    System(SystemAction),
    Abroad,
    /// No message; with the error that it makes, if one is sent.
    Raw(Option<&'static str>),
    TooLarge,
}

/// Returns a payload with places for attachments, if there are any, and names them in the `meta`.
fn attach(mut payload: Value, meta: &mut Option<Value>, attached: &[Attached]) -> Value {
    if attached.is_empty() {
        return payload;
    }
    meta.get_or_insert_with(|| json!({}))["bin"] = attached::bin(attached);
    let shorter = usize::from(ATTACHED_PADDING_MAX) * 7;
    let padding = payload["padding"].as_str().and_then(|padding| padding.get(..shorter));
    if let Some(padding) = padding.map(str::to_owned) {
        payload["padding"] = padding.into();
    }
    payload["parts"] = json!(vec![Value::Null; attached.len()]);
    payload
}

/// Returns what is said on the system channel. `None` for what is said elsewhere.
fn to_the_server(speech: Speech<'_>) -> Option<(What, MessageType, Channel, Value)> {
    Some(match speech {
        Speech::Cancel(nth) => {
            let id = nth_id(nth.into());
            let payload = json!({"action": "cancel", "message_id": id});
            (What::Cancel(id), MessageType::Notification, Channel(3), payload)
        }
        Speech::Credit(nth, n) => {
            let (id, n) = (nth_id(nth.into()), [0, 1, 2, 3, 65_536][usize::from(n) % 5]);
            let payload = json!({"action": "credit", "message_id": id, "n": n});
            (What::Credit(id, n), MessageType::Notification, Channel(3), payload)
        }
        Speech::Serve(Channel(at)) => {
            let channel = Channel(at % 3);
            let payload = json!({"action": "serve", "channel": channel.name()});
            (What::Serve(channel), MessageType::Request, Channel(3), payload)
        }
        Speech::StopServing(Channel(at)) => {
            let channel = Channel(at % 3);
            let payload = json!({"action": "stop_serving", "channel": channel.name()});
            (What::StopServing(channel), MessageType::Request, Channel(3), payload)
        }
        Speech::System(action) => {
            let payload = action.payload();
            (What::System(action), MessageType::Request, Channel(3), payload)
        }
        _ => return None,
    })
}

/// An error, if one is sent, and the id of the message that it answers, if that could be read.
pub(super) type Unread = (Option<&'static str>, String);

/// The padding of messages with attachments is below this, so that only those with a huge one are too large
/// in base64.
const ATTACHED_PADDING_MAX: u8 = 32;

pub(super) fn payload(serial: u32, bytes: u8) -> Value {
    json!({"serial": serial, "padding": "x".repeat(usize::from(bytes) * 7)})
}

impl Said {
    /// `own` is the application and id under which the speaker is known, `request` the id of
    /// the request that it answers. `None` for bytes that are a message by chance.
    pub(super) fn new(
        speech: Speech<'_>,
        serial: u32,
        own: Option<(App, Id)>,
        known: Known,
    ) -> Option<Self> {
        let (app, id) = own.unwrap_or((App(0), Id(0)));
        let member = |whose, ack: Ack| match whose {
            Whose::Own => json!({"connection_id": id.name(), "ack": ack.0}),
            Whose::Implied => json!({"ack": ack.0}),
            Whose::Foreign => json!({"connection_id": "somebody", "ack": ack.0}),
        };
        let numbered = |bytes| payload(serial, bytes);
        // The end of a stream has no payload.
        let attached = speech.attached(serial);
        let Known { request, next_seq, newest } = known;
        let mut meta = None;
        let (what, kind, channel, payload) = match speech {
            Speech::Connect(app, id, extended) => {
                let mut payload = json!({"action": "connect", "connection_id": id.name()});
                if !extended.is_none() {
                    payload["extensions"] = json!(extended.names());
                }
                (What::Connect(app, id, extended), MessageType::Request, Channel(3), payload)
            }
            Speech::Subscribe(channel, ack, whose) => {
                let what = What::Subscribe(channel, ack, whose);
                (what, MessageType::Subscribe, channel, member(whose, ack))
            }
            Speech::Unsubscribe(channel, ack, whose) => {
                let what = What::Unsubscribe(channel, ack, whose);
                (what, MessageType::Unsubscribe, channel, member(whose, ack))
            }
            Speech::Follow(channel, wish) | Speech::Watch(Pattern(channel), wish) => {
                let payload = wish.payload(newest.as_ref());
                (What::Follow(channel, wish), MessageType::Subscribe, channel, payload)
            }
            Speech::Unwatch(Pattern(channel)) => {
                let payload = json!({"pattern": true, "ack": true});
                (What::Unwatch(channel), MessageType::Unsubscribe, channel, payload)
            }
            Speech::Publish(channel, bytes, manner) => {
                let has_payload;
                (meta, has_payload) = manner.published();
                let bytes = if meta.is_some() { bytes % META_PADDING_MAX } else { bytes };
                let payload = if has_payload { numbered(bytes) } else { Value::Null };
                (What::Publish(channel), MessageType::Publish, channel, payload)
            }
            // Requests on the system channel are another speech.
            Speech::Request(Channel(at), bytes, manner) => {
                let channel = Channel(at % 3);
                meta = manner.asked();
                let bytes = if meta.is_some() { bytes % META_PADDING_MAX } else { bytes };
                (What::Request(channel), MessageType::Request, channel, numbered(bytes))
            }
            Speech::Notification(Channel(at), bytes) => {
                let channel = Channel(at % 3);
                (What::Notification(channel), MessageType::Notification, channel, numbered(bytes))
            }
            Speech::Respond(_, bytes, manner) => {
                let what = What::Respond(request.clone());
                let has_payload;
                (meta, has_payload) = manner.answered(next_seq);
                let bytes = if meta.is_some() { bytes % META_PADDING_MAX } else { bytes };
                let payload = if has_payload { numbered(bytes) } else { Value::Null };
                (what, MessageType::Response, Channel(0), payload)
            }
            Speech::Cancel(_)
            | Speech::Credit(..)
            | Speech::Serve(_)
            | Speech::StopServing(_)
            | Speech::System(_) => to_the_server(speech)?,
            Speech::Abroad(channel) => (What::Abroad, MessageType::Publish, channel, numbered(0)),
            Speech::Raw(body) => return Self::raw(body),
            Speech::TooLarge => {
                let frame = (FRAME_BYTES_MAX as u32 + 1).to_be_bytes().to_vec();
                return Some(Self::of(What::TooLarge, String::new(), Value::Null, frame));
            }
        };
        let app = match what {
            What::Connect(app, ..) => app.name(),
            What::Abroad => "abroad",
            _ => app.name(),
        };
        let payload = attach(payload, &mut meta, &attached);
        let message_id = nth_id(serial);
        let reply_to = matches!(speech, Speech::Respond(..)).then_some(request);
        let message = json!({
            "message_id": message_id, "app_id": app, "channel_id": channel.name(),
            "message_type": kind.as_str(), "payload": payload, "timestamp": 1.5,
            "reply_to": reply_to,
        });
        let mut body = message.to_string();
        if let Some(meta) = &meta {
            body.pop();
            body = format!("{body},\"meta\":{meta}}}");
        }
        let frame = framed(&attached::body(&body, &attached));
        let said = Self::of(what, message_id, payload, frame);
        Some(Self { meta, attached, ..said })
    }

    fn raw(body: &[u8]) -> Option<Self> {
        let body = &body[..body.len().min(FRAME_BYTES_MAX)];
        let (code, message_id) = unread(Envelope::parse(body).err()?);
        for other in [Envelope::parse_extended(body), Envelope::parse_binary(body)] {
            // Not everybody would read it in the same way.
            if unread(other.err()?) != (code, message_id.clone()) {
                return None;
            }
        }
        Some(Self::of(What::Raw(code), message_id, Value::Null, framed(body)))
    }

    fn of(what: What, message_id: String, payload: Value, frame: Vec<u8>) -> Self {
        let (meta, attached, arrived) = (None, Vec::new(), Duration::ZERO);
        Self { what, message_id, payload, meta, attached, frame, arrived, given: 0, held_back: 0 }
    }

    /// The frame's own message, if it is one.
    pub(super) fn message(&self) -> Value {
        match self.what {
            What::Raw(_) | What::TooLarge => Value::Null,
            _ => attached::read(&self.frame[4..]),
        }
    }

    /// Returns the error that it makes of a connection with these extensions, which does not let it be read.
    pub(super) fn unread_from(&self, from: Extended) -> Option<Unread> {
        let body = &self.frame[4..];
        let parsed = match from {
            _ if self.meta.is_none() => return None,
            _ if from.is_none() => Envelope::parse(body),
            Extended { binary: false, .. } => Envelope::parse_extended(body),
            _ => Envelope::parse_binary(body),
        };
        parsed.err().map(unread)
    }

    /// Returns whether its `meta` has keys of an extension that a connection does not have.
    pub(super) fn exceeds(&self, from: Extended) -> bool {
        self.meta.as_ref().is_some_and(|meta| attached::exceeds(meta, from))
    }

    /// Returns the form in which a peer with these extensions should get it.
    pub(super) fn form(&self, to: Extended) -> Form {
        Form::of(&self.payload, self.meta.as_ref(), &self.attached, to)
    }

    /// Returns whether such a peer cannot get it, because it is too large in base64.
    pub(super) fn is_too_large(&self, to: Extended) -> bool {
        !to.binary && self.attached.iter().any(Attached::is_huge)
    }
}

impl SystemAction {
    fn payload(self) -> Value {
        let action = match self {
            Self::Ping => "ping",
            Self::GetStats => "get_stats",
            Self::ListChannels => "list_channels",
            Self::ListApplications => "list_applications",
            Self::ListServices => "list_services",
            Self::GetLatency => "get_latency",
            Self::Unknown => "make_tea",
            Self::Nothing => return Value::Null,
        };
        json!({"action": action})
    }
}

fn unread(error: EnvelopeError<'_>) -> Unread {
    let EnvelopeError { fault, message_id, message_type, .. } = error;
    let code = (message_type != Some(MessageType::Response)).then(|| fault.code().as_str());
    (code, message_id.map(|id| id.decode().into_owned()).unwrap_or_default())
}

/// Few, so that requesters use the same ones.
fn nth_id(nth: u32) -> String {
    format!("message {}", nth % 4)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}
