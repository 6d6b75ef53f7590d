//! The error of a handler that cannot serve a message, in a server and in a client.

use std::fmt;

use serde::Serialize;

use crate::proto::{Json, escape};

/// The error of a handler that could not serve a message.
///
/// There are two kinds. An error of the application, made by [`app`](Self::app), is an answer like
/// any other: it has a code of the application's own, such as `app:not_found`, arrives with it in
/// every client, and is not logged. Every other error is a crash: the requester receives its text in
/// a `handler_failed` answer, so the text must not contain anything secret, and it is logged.
///
/// The operator `?` converts any error into one of the second kind, and `.into()` converts a text as
/// well, as [`HandlerError::new`] does.
///
/// ```
/// use ipc_framework::HandlerError;
///
/// fn stock(item: &str) -> Result<u32, HandlerError> {
///     match item {
///         "tea" => Ok("12".parse()?),
///         _ => Err(HandlerError::app("not_found", format!("there is no {item}")).details(&item)),
///     }
/// }
/// assert_eq!(stock("tea").unwrap(), 12);
/// assert_eq!(stock("coffee").unwrap_err().code(), Some("app:not_found"));
/// ```
#[derive(Debug)]
pub struct HandlerError {
    message: String,
    app: Option<Box<App>>,
}

/// Invariant: `payload` is at most [`PAYLOAD_BYTES_MAX`] long.
#[derive(Debug)]
struct App {
    code: String,
    /// The payload of the answer, without details as long as there are none.
    payload: Json<'static>,
}

/// The beginning of the codes of applications.
pub(crate) const APPLICATION_PREFIX: &str = "app:";
const CODE_BYTES_MAX: usize = 64;
/// The largest payload that is an error. A longer one would be a result for its reader.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 10;

impl HandlerError {
    /// Makes an error with a text for the requester, which is answered `handler_failed`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), app: None }
    }

    /// Makes an error of the application, with a code of its own and a text for the requester. The
    /// code has 1 to 64 letters, digits, `_`, `.` or `-`, and is given with or without the prefix
    /// `app:` that it has on the wire.
    ///
    /// The answer may have 16 KiB, [details](Self::details) included. An error that breaks one of
    /// these rules becomes one without a code, and its text says which rule that is.
    ///
    /// ```
    /// use ipc_framework::HandlerError;
    ///
    /// let error = HandlerError::app("bad_input", "the text is empty");
    /// assert_eq!(error.code(), Some("app:bad_input"));
    /// let mistake = HandlerError::app("bad input", "the text is empty");
    /// assert_eq!(mistake.code(), None);
    /// assert!(mistake.text().contains("letters, digits"));
    /// ```
    pub fn app(code: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        let own = code.strip_prefix(APPLICATION_PREFIX).unwrap_or(code);
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if own.is_empty() || own.len() > CODE_BYTES_MAX || !own.bytes().all(is_allowed) {
            return Self::new(format!(
                "the code {code:?} of an error of the application has to be 1 to {CODE_BYTES_MAX} \
                 letters, digits, '_', '.' or '-'; change it in the handler, whose error is: {text}"
            ));
        }
        Self::within_limit(format!("{APPLICATION_PREFIX}{own}"), text, None)
    }

    /// Adds details for the requester, which can be any value. Only an error of the application has
    /// details; another one stays as it is. Details that cannot be written as JSON, or that make the
    /// answer larger than 16 KiB, break a rule of [`app`](Self::app).
    pub fn details<T: Serialize + ?Sized>(self, details: &T) -> Self {
        match Json::from_serialize(details) {
            Ok(details) => self.details_json(&details),
            Err(error) if self.app.is_some() => Self::new(format!(
                "the details of an error of the application cannot be written as JSON: {error}; \
                 change them in the handler, whose error is: {}",
                self.message
            )),
            Err(_) => self,
        }
    }

    /// Adds details that are JSON text already, see [`details`](Self::details).
    pub fn details_json(self, details: &Json<'_>) -> Self {
        match self.app {
            Some(app) => Self::within_limit(app.code, self.message, Some(details)),
            None => self,
        }
    }

    fn within_limit(code: String, text: String, details: Option<&Json<'_>>) -> Self {
        // An error is small, and goes as text alone.
        let details = details.map(Json::to_base64);
        let details = details.map_or(String::new(), |it| format!(",\"details\":{it}"));
        let escaped = escape(&text);
        let payload = format!(
            "{{\"status\":\"error\",\"code\":\"{code}\",\"error\":\"{escaped}\"{details}}}"
        );
        let payload_bytes = payload.len();
        match Json::parse(payload) {
            Ok(payload) if payload_bytes <= PAYLOAD_BYTES_MAX => {
                Self { message: text, app: Some(Box::new(App { code, payload })) }
            }
            Ok(_) => Self::new(format!(
                "the error {code} of the application takes {payload_bytes} bytes and may take \
                 {PAYLOAD_BYTES_MAX}; shorten its text or its details in the handler"
            )),
            Err(error) => Self::new(format!("the error {code} of the application: {error}")),
        }
    }

    /// Returns the code as it stands on the wire, such as `app:not_found`, or none for an error that
    /// is answered `handler_failed`.
    pub fn code(&self) -> Option<&str> {
        self.app.as_deref().map(|app| &*app.code)
    }

    /// Returns the text for the requester.
    pub fn text(&self) -> &str {
        &self.message
    }

    /// Returns the payload of the answer to an error of the application.
    pub(crate) fn payload(&self) -> Option<&Json<'static>> {
        self.app.as_deref().map(|app| &app.payload)
    }

    pub(crate) fn into_text(self) -> String {
        self.message
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error.into().to_string())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.code().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

/// Shortens the text of an error so far that the answer stays one that its reader takes for an error.
pub(crate) fn shortened(text: &str) -> &str {
    /// The rest of the answer.
    const AROUND_BYTES: usize = 256;
    /// A character in an escape takes six bytes.
    const KEPT_BYTES: usize = (PAYLOAD_BYTES_MAX - AROUND_BYTES) / 6;
    if text.len() <= KEPT_BYTES || escape(text).len() <= PAYLOAD_BYTES_MAX - AROUND_BYTES {
        return text;
    }
    let end = (0..=KEPT_BYTES).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn payload(error: &HandlerError) -> Value {
        serde_json::from_str(error.payload().unwrap().as_str()).unwrap()
    }

    #[test]
    fn an_error_of_the_application_is_written_with_its_prefix_once() {
        for code in ["not_found", "app:not_found"] {
            let error = HandlerError::app(code, "no \"tea\"\n");
            let written =
                json!({"status": "error", "code": "app:not_found", "error": "no \"tea\"\n"});
            assert_eq!(payload(&error), written);
            assert_eq!(error.to_string(), "no \"tea\"\n (app:not_found)");
            let detailed = payload(&error.details(&(1, "two")).details(&["last"]));
            assert_eq!(detailed["details"], json!(["last"]));
            assert_eq!(detailed["error"], written["error"]);
        }
        let raw = Json::parse("{\"n\": 1e400}").unwrap();
        let error = HandlerError::app("x", "").details_json(&raw);
        assert!(error.payload().unwrap().as_str().ends_with(",\"details\":{\"n\": 1e400}}"));
    }

    #[test]
    fn a_code_that_no_client_would_take_is_refused_where_the_error_is_made() {
        let long = "x".repeat(CODE_BYTES_MAX);
        assert_eq!(HandlerError::app(&long, "why").code(), Some(&*format!("app:{long}")));
        for code in ["", "app:", "app:app:x", "a b", "ä", "a\"", &format!("{long}x")] {
            let error = HandlerError::app(code, "why").details(&1);
            assert_eq!(error.code(), None, "{code}");
            assert!(error.text().contains(&format!("{code:?}")), "{}", error.text());
            assert!(error.text().ends_with("why"), "{}", error.text());
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_two_characters() {
        let fits = "x".repeat(16_000);
        assert_eq!(shortened(&fits), fits);
        for text in [fits.repeat(2), "\u{1}".repeat(4_000), "ä".repeat(9_000)] {
            let short = shortened(&text);
            assert!(text.starts_with(short) && short.len() > 2_000, "{}", short.len());
            assert!(escape(short).len() < PAYLOAD_BYTES_MAX - 100);
        }
    }

    #[test]
    fn an_error_over_the_limit_is_refused_where_it_is_made() {
        let bare = HandlerError::app("x", "").payload().unwrap().as_str().len();
        let most = "y".repeat(PAYLOAD_BYTES_MAX - bare);
        assert!(HandlerError::app("x", &*most).code().is_some());
        let error = HandlerError::app("x", format!("{most}y"));
        assert!(error.code().is_none() && error.text().contains("16384"), "{}", error.text());
        let error = HandlerError::app("x", "why").details(&most);
        assert!(error.code().is_none() && error.text().contains("app:x"), "{}", error.text());
        // Escapes count as they are written.
        assert!(HandlerError::app("x", "\u{1}".repeat(PAYLOAD_BYTES_MAX / 6)).code().is_none());
        let error = HandlerError::app("x", "why").details(&f64::NAN);
        assert!(error.code().is_none() && error.text().contains("NaN"), "{}", error.text());
        assert_eq!(HandlerError::new("a crash").details(&1).text(), "a crash");
    }
}
