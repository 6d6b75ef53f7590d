//! Requests with options, and those whose answers come in parts.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::background::parts::Parts;
use super::background::waiter::{Slot, Waiter};
use super::client::Client;
use super::error::Error;
use super::payload::Payload;
use super::request_future::{RequestFuture, RequestId};
use super::request_options::RequestOptions;
use super::request_stream::RequestStream;
use crate::proto::Message;

impl Client {
    /// Sends a request with options to whoever serves the channel, and waits for the answer.
    ///
    /// ```
    /// # use ipc_framework::client::{ClientOptions, Endpoint, RequestOptions};
    /// # use ipc_framework::{Config, Server};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut server = Server::bind(Config::default().port(0))?;
    /// # server.application("app", "").channel("echo").on_request(|request| {
    /// #     let payload = request.json();
    /// #     request.reply_json(&payload)
    /// # });
    /// # let port = server.addresses()[0].port().unwrap();
    /// # let handle = server.handle();
    /// # let running = std::thread::spawn(move || server.run());
    /// # let mut options = ClientOptions::new("app");
    /// # options.connection.endpoint = Endpoint::tcp("localhost", port);
    /// # let client = options.connect()?;
    /// let soon = RequestOptions::default().timeout(Duration::from_secs(5)).idempotent(true);
    /// let answer = client.request_with("echo", &"hello", &soon)?;
    /// assert_eq!(answer.payload.decode::<String>()?, "hello");
    /// # client.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`send_request`](Self::send_request); [`Error::Cancelled`] if the token of the options is
    /// cancelled, and [`Error::MetaTooLarge`].
    pub fn request_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<Message, Error> {
        self.shared().ask_and_wait_with(channel_id, payload, options)
    }

    /// Sends a request with options at once, and returns its answer as a future for any executor.
    /// Dropping the future cancels the request.
    ///
    /// # Errors
    /// If the request cannot be sent.
    pub fn request_future_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<RequestFuture, Error> {
        let (slot, shared) = (Arc::new(Slot::default()), self.shared());
        let waiter = Waiter::Slot(Arc::clone(&slot));
        let id = shared.ask_with(channel_id, payload, options, waiter)?;
        let token = options.cancel.as_ref();
        let listening = token.map(|token| token.listen(shared.canceller(id)));
        Ok(RequestFuture::new(slot, id, Arc::downgrade(shared), listening))
    }

    /// Sends a request with options, and calls `callback` with the answer or the error on the
    /// client's thread, or on the thread that cancels its token.
    ///
    /// # Errors
    /// If the request cannot be sent; then the callback is not called.
    pub fn send_request_async_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        self.with_callback(options, callback, |callback| {
            let waiter = Waiter::Callback(callback);
            self.shared().ask_with(channel_id, payload, options, waiter).map(RequestId)
        })
    }

    /// As [`send_request_message`](Self::send_request_message), with options.
    ///
    /// # Errors
    /// As [`send_request_message`](Self::send_request_message).
    pub fn send_request_message_with(
        &self,
        message: &Message,
        options: &RequestOptions,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
    ) -> Result<RequestId, Error> {
        let id = own_id(message)?;
        self.with_callback(options, callback, |callback| {
            let waiter = Waiter::AsItCame(callback);
            self.shared().ask_message_with(message, id.0, options, waiter).map(RequestId)
        })
    }

    /// Sends a request with a callback that stops listening to the token when it is called.
    fn with_callback(
        &self,
        options: &RequestOptions,
        callback: impl FnOnce(Result<Message, Error>) + Send + 'static,
        send: impl FnOnce(Box<dyn FnOnce(Result<Message, Error>) + Send>) -> Result<RequestId, Error>,
    ) -> Result<RequestId, Error> {
        let Some(token) = &options.cancel else { return send(Box::new(callback)) };
        let listening = Arc::new(Mutex::new(None));
        let of_callback = Arc::clone(&listening);
        let id = send(Box::new(move |answer| {
            drop(of_callback);
            callback(answer);
        }))?;
        // If the answer has come meanwhile, this is the last reference, and dropped at once.
        let listens = token.listen(self.shared().canceller(id.0));
        *listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listens);
        Ok(id)
    }

    /// Sends a request whose answer comes in parts, with the default
    /// [`RequestOptions`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ipc_framework::client::ClientOptions::new("models").connect()?;
    /// for token in client.request_stream("complete", &"Once upon a time")? {
    ///     print!("{}", token?.payload.decode::<String>()?);
    /// } // to leave the loop would cancel the request
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`request_stream_with`](Self::request_stream_with).
    pub fn request_stream<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<RequestStream, Error> {
        self.request_stream_with(channel_id, payload, &RequestOptions::default())
    }

    /// Sends a request whose answer comes in parts, and returns them as an iterator and a stream.
    ///
    /// # Errors
    /// If the request cannot be sent; [`Error::Unsupported`] if the server does not know the
    /// extension `call`.
    pub fn request_stream_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<RequestStream, Error> {
        self.stream(options, |waiter| self.shared().ask_with(channel_id, payload, options, waiter))
    }

    /// As [`request_stream_with`](Self::request_stream_with), with a message that is sent without
    /// changing it.
    ///
    /// # Errors
    /// As [`request_stream_with`](Self::request_stream_with) and
    /// [`send_request_message`](Self::send_request_message).
    pub fn request_stream_message(
        &self,
        message: &Message,
        options: &RequestOptions,
    ) -> Result<RequestStream, Error> {
        let id = own_id(message)?;
        self.stream(options, |waiter| {
            self.shared().ask_message_with(message, id.0, options, waiter)
        })
    }

    fn stream(
        &self,
        options: &RequestOptions,
        ask: impl FnOnce(Waiter) -> Result<Uuid, Error>,
    ) -> Result<RequestStream, Error> {
        let parts = Parts::new(options.credit_within_bounds());
        let id = ask(Waiter::Stream(Arc::clone(&parts)))?;
        let token = options.cancel.as_ref();
        let listening = token.map(|token| token.listen(self.shared().canceller(id)));
        Ok(RequestStream::new(parts, id, Arc::downgrade(self.shared()), listening))
    }
}

fn own_id(message: &Message) -> Result<RequestId, Error> {
    RequestId::of_message_id(&message.message_id).ok_or(Error::BadId { field: "message_id" })
}
