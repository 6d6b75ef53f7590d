//! Options of one publication.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Error;
use super::meta_text::meta_text;
use crate::proto::{Extensions, Meta, Trace};
use crate::setters::setters;

/// Options of a publication, for [`Client::publish_with`](super::Client::publish_with) and the like.
///
/// A server that does not know the extension `topic` keeps no last values: there a publication with
/// `retain` is refused with [`Error::Unsupported`] before it is sent. One that knows no extension at
/// all passes on neither headers, which are refused likewise, nor a trace, which is left out.
///
/// ```
/// use ipc_framework::client::PublishOptions;
///
/// let options = PublishOptions::default().retain(true).header("unit", "EUR");
/// assert_eq!(options.headers["unit"], "EUR");
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// Keep it as the last value of its channel, for those who subscribe later. With `null` as its
    /// payload it reaches all who subscribe now, and the server forgets the value.
    pub retain: bool,
    /// The trace that it belongs to, for the subscribers.
    pub trace: Option<Trace>,
    /// Headers for the subscribers. Together with the trace they take at most about 4 KiB.
    pub headers: BTreeMap<String, String>,
    /// Time to wait for the server's acknowledgement, where one is asked for. With `None` it is the
    /// client's own [`timeout`](super::Options::timeout).
    pub timeout: Option<Duration>,
}

setters! {
    PublishOptions {
        [retain: bool]
        into [trace: Option<Trace>]
        [headers: BTreeMap<String, String>]
        into [timeout: Option<Duration>]
    }
}

impl PublishOptions {
    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns the text of `meta` for a connection with these extensions, or none if there is nothing
    /// to tell the server.
    pub(super) fn meta(&self, extensions: Extensions, ack: bool) -> Result<Option<Vec<u8>>, Error> {
        if (self.retain || ack) && !extensions.contains(Extensions::TOPIC) {
            return Err(Error::unsupported_topics());
        }
        if extensions.is_empty() && !self.headers.is_empty() {
            return Err(Error::unsupported_headers());
        }
        let trace = self.trace.as_ref().filter(|_| !extensions.is_empty());
        let meta = Meta { retain: self.retain, ack, ..Meta::default() };
        meta_text(meta, trace, &self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_caller_gave_and_the_server_knows_is_told() {
        let meta = |options: &PublishOptions, extensions, ack| {
            let text = options.meta(extensions, ack).map_err(|error| error.to_string());
            text.map(|text| text.map(|text| String::from_utf8(text).unwrap()))
        };
        let plain = PublishOptions::default();
        assert_eq!(meta(&plain, Extensions::TOPIC, false), Ok(None));
        let acked = meta(&plain, Extensions::TOPIC, true).unwrap().unwrap();
        assert!(Meta::parse(&acked).unwrap().ack, "{acked}");
        assert!(meta(&plain, Extensions::CALL, true).is_err());

        let traced = plain.clone().trace(Trace::new("00-1-2-01"));
        assert_eq!(meta(&traced, Extensions::NONE, false), Ok(None));
        let all = traced.retain(true).header("a", "\"");
        let told = meta(&all, Extensions::TOPIC, false).unwrap().unwrap();
        let read = Meta::parse(&told).unwrap();
        assert!(read.retain && !read.ack, "{told}");
        assert_eq!(read.headers, Some(r#"{"a":"\""}"#));
        assert_eq!(read.trace, Some(r#"{"traceparent":"00-1-2-01"}"#));
        assert!(meta(&all, Extensions::CALL, false).unwrap_err().contains("`topic`"));
        let headers = plain.header("a", "b");
        assert!(meta(&headers, Extensions::BINARY, false).unwrap().is_some());
        assert!(meta(&headers, Extensions::NONE, false).unwrap_err().contains("headers"));
    }
}
