//! Messages as real peers send them, of exactly known sizes.

use std::ops::Range;

/// An id of the length that the ids of all published clients have.
pub(super) const ID: &str = "5b0c7a52-1f5e-4f0a-9f5c-0d6c2f1c9a11";

/// Returns a body with its length prefix.
pub(super) fn framed(body: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).expect("a frame").to_be_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// A message as a compact writer makes it: Node.js, Rust, this server.
pub(super) fn body(message_type: &str, channel_id: &str, payload: &str) -> String {
    body_in_reply(message_type, channel_id, payload, "null")
}

pub(super) fn body_in_reply(
    message_type: &str,
    channel_id: &str,
    payload: &str,
    reply_to: &str,
) -> String {
    format!(
        "{{\"message_id\":\"{ID}\",\"app_id\":\"app\",\"channel_id\":\"{channel_id}\",\
         \"message_type\":\"{message_type}\",\"payload\":{payload},\
         \"timestamp\":1700000000.25,\"reply_to\":{reply_to}}}"
    )
}

pub(super) fn frame(message_type: &str, channel_id: &str, payload: &str) -> Vec<u8> {
    framed(&body(message_type, channel_id, payload))
}

/// A worker's answer to a request that the server gave this id, and the place of that id in it.
pub(super) fn answer_to(id: &str) -> (Vec<u8>, Range<usize>) {
    let reply_to = format!("\"{id}\"");
    let answer = framed(&body_in_reply("response", "work", "{\"n\":2}", &reply_to));
    let end = answer.len() - "\"}".len();
    (answer, end - id.len()..end)
}

/// The id of a message that the server encoded: its first field.
pub(super) fn id_of(frame: &[u8]) -> &[u8] {
    let start = b"....{\"message_id\":\"".len();
    &frame[start..][..ID.len()]
}

/// A very small message: a program that counts its messages sends one short value.
pub(super) fn smallest() -> String {
    padded(152, |pad| {
        body("request", "echo", &format!("\"{pad}\"")).replace(ID, "5b0c7a521f5e4f0a")
    })
}

/// A message such as most programs send: an id that is a UUID, and one short value.
pub(super) fn small(message_type: &str, channel_id: &str) -> String {
    padded(192, |pad| body(message_type, channel_id, &format!("\"{pad}\"")))
}

/// A chat line as Python writes it: blanks after colons and commas, text escaped to ASCII.
pub(super) fn python_chat() -> String {
    padded(390, |pad| {
        format!(
            "{{\"message_id\": \"{ID}\", \"app_id\": \"chat_app\", \"channel_id\": \"general\", \
             \"message_type\": \"request\", \"payload\": {{\"username\": \"Zo\\u00eb\", \
             \"text\": \"she said \\\"hi\\\" \\ud83d\\ude42 {pad}\", \
             \"tags\": [\"a\", \"b\"], \"pinned\": false, \"reply\": null, \
             \"position\": [12.5, -3]}}, \"timestamp\": 1700000000.2512345, \
             \"reply_to\": null}}"
        )
    })
}

/// Readings of many sensors: small objects with numbers, which take longest to scan.
pub(super) fn records(bytes: usize) -> String {
    let record = r#"{"sensor":"cpu-07","value":-12.625,"ok":true,"at":1700000000},"#;
    let count = (bytes - 300) / record.len();
    let records = record.repeat(count);
    padded(bytes, |pad| body("request", "metrics", &format!("[{records}\"{pad}\"]")))
}

/// One long string, such as a picture in base64.
pub(super) fn text(message_type: &str, channel_id: &str, bytes: usize) -> String {
    padded(bytes, |pad| body(message_type, channel_id, &format!("\"{pad}\"")))
}

/// Fills a message up to exactly this many bytes.
fn padded(bytes: usize, make: impl Fn(&str) -> String) -> String {
    let bare = make("").len();
    let padded = make(&"QmFzZTY0".repeat((bytes - bare).div_ceil(8))[..bytes - bare]);
    assert_eq!(padded.len(), bytes);
    padded
}
