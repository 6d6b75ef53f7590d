//! How a program subscribes to a channel or a pattern.

use std::sync::{Arc, PoisonError};

use ipc_framework::client::{Error, SubscribeOptions};
use pyo3::prelude::*;

use super::Client;
use super::errors::raise;
use super::inbox::{Item, Matched};

impl Client {
    /// Subscribes, unless the client does so already. The messages of a pattern have its number.
    pub(super) fn listen(
        &self,
        py: Python<'_>,
        name: &str,
        options: SubscribeOptions,
        number: Option<u64>,
    ) -> PyResult<()> {
        let client = self.open().map_err(|error| raise(py, &error))?;
        let mut known = self.subscriptions.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), options.pattern);
        if let Some(conflates) = known.get(&key) {
            let joins = options.last.is_none() && options.since.is_none();
            if joins && *conflates == options.conflate {
                return Ok(());
            }
            // The server sends kept messages once, before the live ones.
            return Err(raise(py, &Error::AlreadySubscribed { channel_id: key.0 }));
        }
        let (put, conflates) = (Arc::clone(&self.inbox), options.conflate);
        let listen = move |message| {
            put.put(if number.is_none() && !conflates {
                Item::Message(message)
            } else {
                Item::Matched(Matched { message, number, conflates })
            });
        };
        client.on_publication_with(name, &options, listen).map_err(|error| raise(py, &error))?;
        known.insert(key, conflates);
        Ok(())
    }
}
