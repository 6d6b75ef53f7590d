//! A second reading of attachments, by `serde_json` and by the letter of the protocol: it lists all nulls
//! of the payload, and looks for those that `bin` names.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserializer as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::dtype::Dtype;
use super::super::encode::Head;
use super::super::envelope::Envelope;
use super::super::meta::Meta;
use super::super::oracle::Members;
use super::new::{append_frame, body_bytes};
use super::outgoing::{NewAttachment, append_bin};

/// An attachment as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owned {
    pub(crate) pointer: String,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// Checks that the attachments of a body are read, refused, written and spliced into JSON as this
/// module does it. Returns whether they are good.
pub(crate) fn check(body: &[u8]) -> bool {
    let shown = || String::from_utf8_lossy(body).into_owned();
    let Ok(envelope) = Envelope::parse_binary(body) else { return false };
    if !envelope.has_attachments() {
        return false;
    }
    // The other members of `meta` are the business of another target.
    let Ok(meta) = Meta::parse_known(envelope.meta_str().expect("there is one")) else {
        assert!(envelope.attachments().is_err(), "{}", shown());
        return false;
    };
    let expected = meta.bin.and_then(|bin| read(body, envelope.payload_str(), bin));
    let found = envelope.attachments();
    let Ok(attachments) = found else {
        assert_eq!(expected, None, "{found:?} {}", shown());
        return false;
    };
    let ours: Vec<Owned> = attachments
        .iter()
        .map(|each| Owned {
            pointer: each.pointer.into_owned(),
            dtype: each.dtype,
            shape: each.shape.iter().collect(),
            data: each.data.to_vec(),
        })
        .collect();
    assert_eq!(Some(&ours), expected.as_ref(), "{}", shown());
    assert_eq!(attachments.len(), ours.len());
    for each in &ours {
        assert_eq!(attachments.get(&each.pointer).expect("it is there").data, each.data);
    }

    let mut spliced = Vec::new();
    attachments.append_base64_payload(&mut spliced);
    assert_eq!(spliced.len(), attachments.base64_payload_bytes());
    // It reads no numbers such as 1e400, and no half of a surrogate pair.
    let spliced: Option<Value> = serde_json::from_slice(&spliced).ok();
    assert_eq!(spliced, in_json(envelope.payload_str(), &ours), "{}", shown());

    rewrite(&envelope, meta, &ours);
    true
}

/// What is written of these attachments is read as the same again.
fn rewrite(envelope: &Envelope<'_>, meta: Meta<'_>, expected: &[Owned]) {
    let new: Vec<_> = expected
        .iter()
        .map(|each| NewAttachment {
            pointer: &each.pointer,
            dtype: each.dtype,
            shape: &each.shape,
            data: &each.data,
        })
        .collect();
    let mut bin = Vec::new();
    // Without escapes of its sender it may be shorter and never too long; it may have more of its own.
    if append_bin(&new, &mut bin).is_err() {
        return;
    }
    let bin = String::from_utf8(bin).expect("it is UTF-8");
    let mut text = Vec::new();
    Meta { bin: Some(&bin), ..meta }.append_to(&mut text);
    let head = Head {
        message_id: envelope.message_id().raw().as_bytes(),
        app_id: envelope.app_id().raw(),
        channel_id: envelope.channel_id().raw(),
        message_type: envelope.message_type(),
        timestamp: envelope.timestamp_str().as_bytes(),
        reply_to: envelope.reply_to().map(|id| id.raw().as_bytes()),
        meta: Some(&text),
    };
    let payload = envelope.payload_str().as_bytes();
    let json_bytes = head.body_bytes(payload.len());
    let Some(bytes) = body_bytes(json_bytes, new.iter().map(|each| each.data.len())) else {
        return;
    };
    let mut out = Vec::new();
    append_frame(&mut out, &head, payload, &new, bytes);
    let (prefix, body) = out.split_first_chunk().expect("it has a length prefix");
    assert_eq!((u32::from_be_bytes(*prefix) as usize, body.len()), (bytes, bytes));
    let again = Envelope::parse_binary(body).expect("it is a message");
    assert_eq!(again.payload_str(), envelope.payload_str());
    let again = again.attachments().expect("they are as they were");
    assert!(again.iter().zip(&new).all(|(one, other)| one.data == other.data));
    assert_eq!(again.len(), new.len());
}

/// Reads the attachments of a body whose JSON is known to be a message with this payload and `bin`.
/// `None`: something is wrong with them.
fn read(body: &[u8], payload: &str, bin: &str) -> Option<Vec<Owned>> {
    type Entry = (String, Value, Option<String>, Option<Vec<Value>>);
    let json_bytes = usize::try_from(u32::from_be_bytes(*body.first_chunk()?)).ok()?;
    let mut at = 4 + json_bytes;
    let zeros = |at: &mut usize| {
        while !at.is_multiple_of(64) {
            if *body.get(*at)? != 0 {
                return None;
            }
            *at += 1;
        }
        Some(())
    };
    zeros(&mut at)?;
    if json_bytes >= 1 << 24 || bin.len() > 131_072 {
        return None;
    }
    let entries: Vec<Entry> = serde_json::from_str(bin).ok()?;
    if !(1..=1024).contains(&entries.len()) {
        return None;
    }
    let mut found = Vec::new();
    for (pointer, bytes, dtype, shape) in entries {
        let bytes = usize::try_from(bytes.as_u64()?).ok()?;
        let data = body.get(at..at.checked_add(bytes)?)?.to_vec();
        at += bytes;
        zeros(&mut at)?;
        let (dtype, shape) = match (dtype, shape) {
            (None, None) => (None, Vec::new()),
            (Some(name), Some(shape)) => {
                let dtype = Dtype::from_name(&name)?;
                let shape = shape.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
                let sizes = shape.iter().map(|size| u128::from(*size));
                let no_zeros = sizes.clone().filter(|size| *size > 0);
                let item = dtype.item_bytes() as u128;
                let largest = no_zeros.fold(item, u128::saturating_mul);
                if shape.len() > 32 || largest >= 1 << 53 {
                    return None;
                }
                if sizes.fold(item, u128::saturating_mul) != bytes as u128 {
                    return None;
                }
                (Some(dtype), shape)
            }
            _ => return None,
        };
        found.push(Owned { pointer, dtype, shape, data });
    }
    let mut nulls = Vec::new();
    list(payload, String::new(), false, &mut nulls);
    let mut nulls = nulls.into_iter();
    for each in &found {
        let (_, is_twice) = nulls.find(|(pointer, _)| *pointer == each.pointer)?;
        if is_twice {
            return None;
        }
    }
    (at == body.len()).then_some(found)
}

/// Lists the pointers to all nulls, each with whether it leads through a key that is given twice.
fn list(text: &str, pointer: String, is_twice: bool, out: &mut Vec<(String, bool)>) {
    let text = text.trim_ascii_start();
    if text.starts_with("null") {
        out.push((pointer, is_twice));
    } else if text.starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(text).expect("it is an array");
        for (at, element) in elements.iter().enumerate() {
            list(element.get(), format!("{pointer}/{at}"), is_twice, out);
        }
    } else if text.starts_with('{') {
        let members = serde_json::Deserializer::from_str(text).deserialize_map(Members);
        let members = members.expect("it is an object");
        for (key, value) in &members {
            let Some(key) = key else { continue };
            let same = members.iter().filter(|(other, _)| other.as_ref() == Some(key)).count();
            let token = key.replace('~', "~0").replace('/', "~1");
            list(value.get(), format!("{pointer}/{token}"), is_twice || same > 1, out);
        }
    }
}

/// The payload with each attachment as base64.
fn in_json(payload: &str, attachments: &[Owned]) -> Option<Value> {
    let mut value: Value = serde_json::from_str(payload).ok()?;
    for each in attachments {
        *value.pointer_mut(&each.pointer).expect("it is there") = json!({
            "$base64": BASE64_STANDARD.encode(&each.data),
            "dtype": each.dtype.map(Dtype::name),
            "shape": each.dtype.map(|_| &each.shape),
        });
    }
    Some(value)
}
