//! How messages of a program leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_framework::Message;
use ipc_framework::client::{self, Error, PublishOptions, RequestId, RequestOptions};
use pyo3::prelude::*;

use super::asked::{Asked, Place};
use super::errors::raise;
use super::refused::refused;
use super::waiter::Waiter;
use super::{Client, seconds};
use crate::inside::Inside;

/// Pause between checks whether a full queue has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

impl Client {
    pub(super) fn ask_for(
        &self,
        inside: &Inside<'_>,
        message: Message,
        (timeout, travels): (f64, bool),
        waiter: Option<&Waiter>,
    ) -> PyResult<()> {
        let py = inside.py();
        let client = self.open().map_err(|error| raise(py, &error))?;
        let place = self.place(waiter, &message);
        self.wait_for_room(inside, &client)?;
        let timeout = seconds(timeout);
        // A time that is over before it begins is not worth telling.
        let travels = travels && !timeout.is_zero();
        let asked = Asked::new(place, &self.asked, &self.is_ending, travels.then_some(timeout));
        let told = move |answer| asked.take(answer);
        let asked = inside.detached(|| {
            self.begin_alone(&client);
            if travels {
                let options = RequestOptions::default().timeout(timeout);
                client.send_request_message_with(&message, &options, told)
            } else {
                client.send_request_message(&message, timeout, told)
            }
        });
        let request = asked.map_err(|error| raise(py, &error))?;
        if let Some(waiter) = waiter {
            // A waiter is used once.
            let _ = waiter.asked.set((client.downgrade(), request));
        }
        Ok(())
    }

    /// Sends a publication of which the server says when it has taken it.
    pub(super) fn publish_and_ask<'py>(
        &self,
        inside: &Inside<'py>,
        message: &Message,
        options: &PublishOptions,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = inside.py();
        let client = self.open().map_err(|error| raise(py, &error))?;
        // An event loop must not be blocked.
        let waiter = self.inbox.descriptor().is_none().then(Waiter::default);
        let place = self.place(waiter.as_ref(), message);
        self.wait_for_room(inside, &client)?;
        let asked = Asked::new(place, &self.asked, &self.is_ending, None);
        let sent = inside.detached(|| {
            self.begin_alone(&client);
            let told = move |answer| asked.take_place(answer);
            client.publish_message_acknowledged(message, options, told)
        });
        sent.map_err(|error| raise(py, &error))?;
        let Some(waiter) = waiter else { return Ok(None) };
        if let Some(request) = RequestId::of_message_id(&message.message_id) {
            let _ = waiter.asked.set((client.downgrade(), request));
        }
        waiter.wait_for_place(inside)
    }

    /// Sends a message that may be one of many in a row, which leave together. Returns what `post`
    /// returns.
    pub(super) fn send_one_of_many<T: Send>(
        &self,
        inside: &Inside<'_>,
        message: PyResult<Message>,
        post: impl FnOnce(&client::Client, &Message) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let py = inside.py();
        let message = message.map_err(|error| refused(py, error))?;
        let client = self.open().map_err(|error| raise(py, &error))?;
        self.wait_for_room(inside, &client)?;
        let is_batching = self.burst.goes_on();
        let sent = inside.detached(|| {
            client.set_batching(is_batching);
            post(&client, &message)
        });
        sent.map_err(|error| raise(py, &error))
    }

    fn place(&self, waiter: Option<&Waiter>, message: &Message) -> Place {
        match waiter {
            Some(waiter) => Place::Room(Arc::clone(&waiter.room)),
            None => Place::Inbox(Arc::clone(&self.inbox), message.message_id.clone()),
        }
    }

    /// Waits while sending would block, in a way that signals can interrupt.
    pub(super) fn wait_for_room(
        &self,
        inside: &Inside<'_>,
        client: &client::Client,
    ) -> PyResult<()> {
        let begin = Instant::now();
        while client.waiting_bytes() >= self.queue_bytes_max && client.is_connected() {
            // An event loop checks for room before it sends, and must not be blocked.
            if self.inbox.descriptor().is_some() || begin.elapsed() >= self.timeout {
                let full = Error::QueueFull { bytes_max: self.queue_bytes_max };
                return Err(raise(inside.py(), &full));
            }
            inside.detached(|| std::thread::sleep(ROOM_PAUSE));
            inside.py().check_signals()?;
        }
        Ok(())
    }

    /// Sends what waits for others, before a message that is none of many. An event loop decides by
    /// itself, see `take_now`.
    pub(super) fn begin_alone(&self, client: &client::Client) {
        if self.inbox.descriptor().is_none() {
            client.set_batching(false);
        }
    }
}
