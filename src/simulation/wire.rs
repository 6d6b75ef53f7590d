//! Frames as a client writes and reads them, implemented from the protocol's description alone.

use serde_json::Value;

pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Returns the frame of a message whose ids need no escaping and whose payload is JSON text.
pub(super) fn message(
    app: &str,
    channel: &str,
    kind: &str,
    id: &str,
    payload: &str,
    reply_to: Option<&str>,
) -> Vec<u8> {
    let reply_to = reply_to.map_or("null".to_owned(), |id| format!("\"{id}\""));
    let body = format!(
        "{{\"message_id\":\"{id}\",\"app_id\":\"{app}\",\"channel_id\":\"{channel}\",\
         \"message_type\":\"{kind}\",\"payload\":{payload},\"timestamp\":0.5,\
         \"reply_to\":{reply_to}}}"
    );
    frame(body.as_bytes())
}

/// Takes the next whole frame from the front of the received bytes.
pub(super) fn take_frame(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header: [u8; 4] = received.get(..4)?.try_into().ok()?;
    let end = 4 + u32::from_be_bytes(header) as usize;
    let body = received.get(4..end)?.to_vec();
    received.drain(..end);
    Some(body)
}

/// A message as published clients accept it: these seven keys and no others.
pub(super) struct Received {
    pub(super) app: String,
    pub(super) channel: String,
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) payload: Value,
    pub(super) reply_to: Option<String>,
}

impl Received {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(body).into_owned();
        let value: Value =
            serde_json::from_slice(body).map_err(|error| format!("{error} in {}", shown()))?;
        let Value::Object(mut fields) = value else {
            return Err(format!("no object: {}", shown()));
        };
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(format!("{name} is {other:?} in {}", shown())),
        };
        let (app, channel) = (text("app_id")?, text("channel_id")?);
        let (kind, id) = (text("message_type")?, text("message_id")?);
        let payload = fields.remove("payload").ok_or_else(|| format!("no payload: {}", shown()))?;
        if !fields.remove("timestamp").is_some_and(|timestamp| timestamp.is_number()) {
            return Err(format!("no timestamp in {}", shown()));
        }
        let reply_to = match fields.remove("reply_to") {
            Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            other => return Err(format!("reply_to is {other:?} in {}", shown())),
        };
        if !fields.is_empty() {
            return Err(format!("{fields:?} are no fields of a message"));
        }
        Ok(Self { app, channel, kind, id, payload, reply_to })
    }

    /// Returns the code of an error answer.
    pub(super) fn code(&self) -> Option<&str> {
        (self.payload["status"] == "error").then(|| self.payload["code"].as_str()).flatten()
    }
}
