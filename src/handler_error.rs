//! What a handler returns when it cannot serve a message, in a server and in a client.

/// Why a handler could not serve a message. The requester reads the text in the
/// `handler_failed` answer, so it must say nothing that is not for it.
///
/// Any error turns into one by `?`, and so does text by `.into()` on [`HandlerError::new`].
///
/// ```
/// use ipc_framework::HandlerError;
///
/// fn stock(item: &str) -> Result<u32, HandlerError> {
///     match item {
///         "tea" => Ok("12".parse()?),
///         _ => Err(HandlerError::new(format!("there is no {item}"))),
///     }
/// }
/// assert!(stock("tea").is_ok() && stock("coffee").is_err());
/// ```
#[derive(Debug)]
pub struct HandlerError {
    message: String,
}

impl HandlerError {
    /// An error with a text for the requester.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.message
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
