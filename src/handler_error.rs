//! The error of a handler that cannot serve a message, in a server and in a client.

/// The error of a handler that could not serve a message. The requester receives the text in a
/// `handler_failed` answer, so the text must not contain anything secret.
///
/// The operator `?` converts any error into this one, and `.into()` converts a text as well, as
/// [`HandlerError::new`] does.
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
    /// Makes an error with a text for the requester.
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
