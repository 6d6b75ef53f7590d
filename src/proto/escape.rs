//! Text as it stands in JSON.

use std::borrow::Cow;

/// Returns `text` as it stands between the quotes of a JSON string.
pub(crate) fn escape(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_else(|_| unreachable!("a string is JSON"));
    quoted[1..quoted.len() - 1].to_owned()
}

/// Does what [`escape`] does, and allocates only if something has to be escaped.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let is_plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if is_plain { Cow::Borrowed(text) } else { Cow::Owned(escape(text)) }
}
