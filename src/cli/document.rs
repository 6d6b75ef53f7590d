//! A message as a JSON document of one line.

use ipc_framework::Message;

use super::failure::Failure;

/// The payload stays as it came, except for line breaks between its tokens.
pub(super) fn of(message: &Message) -> Result<String, Failure> {
    let quoted = |text: &str| {
        serde_json::to_string(text)
            .map_err(|error| Failure::runtime(format!("cannot write JSON: {error}")))
    };
    let mut place = String::new();
    if let Some(position) = message.position() {
        place = format!(",\"epoch\":{},\"offset\":{}", quoted(&position.epoch)?, position.offset);
    }
    if message.is_retained() {
        place.push_str(",\"retained\":true");
    }
    Ok(format!(
        "{{\"channel\":{},\"type\":{},\"payload\":{},\"timestamp\":{},\"message_id\":{}{place}}}",
        quoted(&message.channel_id)?,
        quoted(message.message_type.as_str())?,
        one_line(message.payload.as_str()),
        serde_json::Value::from(message.timestamp),
        quoted(&message.message_id)?,
    ))
}

/// JSON has line breaks between its tokens only, never inside one.
pub(super) fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}
