//! The methods that send: requests and the ways to get their answers, publications, notifications.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::background::outbox::Kind;
use super::background::shared::Limit;
use super::background::waiter::{Slot, Waiter};
use super::client::Client;
use super::error::Error;
use super::payload::Payload;
use super::request_future::{RequestFuture, RequestId};
use super::request_options::RequestOptions;
use super::wire::encoder::Heading;
use crate::proto::Message;
use crate::proto::MessageType;
use crate::proto::system::{Action, SYSTEM};

impl Client {
    /// [`send_request`](Self::send_request) with the timeout of the options, which the server is not
    /// told of.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn request<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Message, Error> {
        self.wait_untold(channel_id, payload, self.timeout())
    }

    fn wait_untold<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        self.shared().ask_and_wait(heading, payload, Kind::AnyConnection, timeout)
    }

    /// As [`request`](Self::request), and reads the answer into a value of your own type.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request); [`Error::BadAnswer`] if the answer has another
    /// shape.
    pub fn request_as<R: DeserializeOwned, T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<R, Error> {
        self.request(channel_id, payload)?.payload.decode().map_err(Error::BadAnswer)
    }

    /// Sends a request to whoever serves the channel, and waits for the answer. A server that knows
    /// the extension `call` is told of the timeout, and tells the worker, unless it is zero.
    ///
    /// # Errors
    /// [`Error::Answered`] if the answer is an error, [`Error::Deadline`] if there is none in
    /// time, [`Error::Lost`] if the connection was lost meanwhile (both say whether the
    /// request may have been executed), [`Error::Disconnected`] or [`Error::QueueFull`] if it
    /// cannot wait for a connection, [`Error::OnClientThread`] in a handler of a subscription.
    pub fn send_request<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        match given(timeout) {
            Some(options) => self.request_with(channel_id, payload, &options),
            None => self.wait_untold(channel_id, payload, timeout),
        }
    }

    /// Sends a request, and calls `callback` with the answer or the error on the client's thread.
    ///
    /// # Errors
    /// If the request cannot be sent; then the callback is not called.
    pub fn send_request_async<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        self.call_untold(channel_id, payload, self.timeout(), callback)
    }

    fn call_untold<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        let waiter = Waiter::Callback(Box::new(callback));
        let limit = Limit::watched(Instant::now().checked_add(timeout));
        self.shared().ask(heading, payload, Kind::AnyConnection, waiter, limit).map(RequestId)
    }

    /// [`send_request_async`](Self::send_request_async) with a timeout of its own, of which the server
    /// is told as by [`send_request`](Self::send_request).
    ///
    /// # Errors
    /// As [`send_request_async`](Self::send_request_async).
    pub fn send_request_async_timeout<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        match given(timeout) {
            Some(options) => self.send_request_async_with(channel_id, payload, &options, callback),
            None => self.call_untold(channel_id, payload, timeout, callback),
        }
    }

    /// Sends a message as a request without changing it, and calls `callback` on the client's
    /// thread with the answer as it came: an answer that is an error is passed on as a message.
    /// This is for programs that build messages themselves, such as bindings to other languages, and
    /// the server is not told of the timeout; see
    /// [`send_request_message_with`](Self::send_request_message_with).
    ///
    /// # Errors
    /// As [`send_request_async`](Self::send_request_async); [`Error::BadId`] if the `message_id` is
    /// not a [`RequestId`], or a request with that id is already in flight.
    pub fn send_request_message(
        &self,
        message: &Message,
        timeout: Duration,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        let RequestId(id) = RequestId::of_message_id(&message.message_id)
            .ok_or(Error::BadId { field: "message_id" })?;
        let waiter = Waiter::AsItCame(Box::new(callback));
        let limit = Limit::watched(Instant::now().checked_add(timeout));
        self.shared().ask_message(message, None, id, waiter, limit).map(RequestId)
    }

    /// Stops waiting for the answer to a request. Its callback is dropped without a call, and a
    /// request that has not left yet is never sent. If it has left, a server that knows the extension
    /// `call` is told, and tells the worker. Returns false if the answer has already come.
    pub fn cancel(&self, request: RequestId) -> bool {
        self.shared().cancel(request.0)
    }

    /// Sends a request at once, and returns its answer as a future for any executor.
    ///
    /// # Errors
    /// If the request cannot be sent.
    pub fn request_future<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<RequestFuture, Error> {
        self.future_untold(channel_id, payload, self.timeout())
    }

    fn future_untold<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<RequestFuture, Error> {
        let heading = Heading::new(MessageType::Request, channel_id);
        let slot = Arc::new(Slot::default());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let limit = Limit::watched(Instant::now().checked_add(timeout));
        let shared = self.shared();
        let id = shared.ask(heading, payload, Kind::AnyConnection, waiter, limit)?;
        Ok(RequestFuture::new(slot, id, Arc::downgrade(shared), None))
    }

    /// [`request_future`](Self::request_future) with a timeout of its own, of which the server is
    /// told as by [`send_request`](Self::send_request).
    ///
    /// # Errors
    /// As [`request_future`](Self::request_future).
    pub fn request_future_timeout<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<RequestFuture, Error> {
        match given(timeout) {
            Some(options) => self.request_future_with(channel_id, payload, &options),
            None => self.future_untold(channel_id, payload, timeout),
        }
    }

    /// Sends a value to whoever serves the channel; there is no answer.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn notify<T: Payload + ?Sized>(&self, channel_id: &str, payload: &T) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Notification, channel_id);
        self.shared().post(heading, payload, Kind::AnyConnection)
    }

    /// Sends a message of any type without changing it, `reply_to` included, and returns its id. An
    /// empty id or application and a time of zero are filled in. Answers to it go to
    /// [`on_message`](Self::on_message).
    ///
    /// Responses, subscriptions and unsubscriptions belong to the current connection: without one
    /// they fail with [`Error::Disconnected`], and later connections do not repeat them.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn send_message(&self, message: &Message) -> Result<String, Error> {
        let kind = match message.message_type {
            MessageType::Request | MessageType::Publish | MessageType::Notification => {
                Kind::AnyConnection
            }
            _ => Kind::ThisConnection,
        };
        let fresh = self.shared().post_message(message, None, kind)?;
        Ok(fresh.map_or_else(|| message.message_id.clone(), |id| id.to_string()))
    }

    /// While this is set, messages wait up to a tenth of a millisecond for others, and leave in one
    /// write with them. Setting it back sends what waits. For programs that send many messages in a
    /// row, and for event loops that know when more are coming.
    ///
    /// The client's own thread sends what waits. While it runs a callback, such as that of
    /// [`on_event`](Self::on_event), messages wait until the callback ends, this is set back, or 64 KiB
    /// are there.
    pub fn set_batching(&self, is_batching: bool) {
        self.shared().set_batching(is_batching);
    }

    /// Sends a request to the server itself, with a payload such as `{"action": "get_stats"}`.
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn system<T: Payload + ?Sized>(&self, payload: &T) -> Result<Message, Error> {
        self.request(SYSTEM, payload)
    }

    /// Measures how long the server takes to answer. The published server does not answer a ping:
    /// there this returns [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn ping(&self) -> Result<Duration, Error> {
        let generation = self.shared().lock().generation;
        let begin = Instant::now();
        self.system(&Action::PING)?;
        let rtt = begin.elapsed();
        let mut state = self.shared().lock();
        state.answers_ping |= state.generation == generation;
        Ok(rtt)
    }

    /// Returns when the server has processed everything that was sent before. The published server
    /// cannot confirm that: there this returns [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request).
    pub fn flush(&self) -> Result<(), Error> {
        self.ping().map(|_rtt| ())
    }

    pub(super) fn timeout(&self) -> Duration {
        self.shared().options.connection.timeout
    }
}

/// Returns the options of a request whose caller gave this timeout. One that is over before it begins
/// is not worth telling: its caller sends a request and does not wait.
fn given(timeout: Duration) -> Option<RequestOptions> {
    (!timeout.is_zero()).then(|| RequestOptions::default().timeout(timeout))
}
