use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::json::Json;
use super::meta::Meta;
use super::position::Position;
use super::trace_context::Trace;

/// The server's words about a publication beside its payload, which a client with an extension gets.
///
/// ```
/// use ipc_framework::{Json, Message, MessageType};
///
/// let message = Message::new(MessageType::Publish, "shop", "prices.tea", Json::default());
/// assert!(message.publication.is_none() && message.position().is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Publication {
    /// Its place in the channel's history, if the channel has one.
    pub position: Option<Position>,
    /// Set if its publisher wants it to be kept as the channel's last value.
    pub is_retained: bool,
    trace: Option<Box<str>>,
    headers: Option<Box<str>>,
}

impl Publication {
    /// Returns the trace that its publisher gave it.
    pub fn trace(&self) -> Option<Trace> {
        read(self.trace.as_deref())
    }

    /// Returns the headers that its publisher gave it.
    pub fn headers(&self) -> BTreeMap<String, String> {
        read(self.headers.as_deref()).unwrap_or_default()
    }

    /// Reads the `meta` of a publication. What is not usable counts as absent.
    #[cfg_attr(not(feature = "net"), allow(dead_code, reason = "the clients read it"))]
    #[cold]
    pub(crate) fn of_meta(text: &str) -> Option<Box<Self>> {
        let meta = Meta::parse_known(text).ok()?;
        Some(Box::new(Self {
            position: meta.position.map(|its| Position::new(its.epoch, its.offset)),
            is_retained: meta.retain,
            trace: meta.trace.map(Into::into),
            headers: meta.headers.map(Into::into),
        }))
    }
}

fn read<T: DeserializeOwned>(text: Option<&str>) -> Option<T> {
    Json::trusted(text?).decode_text().ok()
}
