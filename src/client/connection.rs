//! The blocking client: all its work happens on the caller's own thread.

pub(super) mod calls;
pub(super) mod opening;
mod served;
mod serving;
mod sharing;
mod topics;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use self::served::Served;
use super::endpoint::Endpoint;
use super::error::{Error, Execution};
use super::payload::Payload;
use super::server_limits::ServerLimits;
use super::wire::answer::Welcome;
use super::wire::encoder::{Encoder, Heading, check_id};
use super::wire::frames::{front, last_words};
use super::wire::read_buffer::ReadBuffer;
use super::wire::socket::Socket;
use super::wire::wait::Wait;
use crate::handler_error::{HandlerError, shortened};
use crate::proto::Message;
use crate::proto::frame::Frame;
use crate::proto::system::{Action, Failure, SYSTEM, Serve};
use crate::proto::{ErrorCode, Extensions, Json, MessageType};

/// Time to wait for the reason of a server that closed the connection.
const REASON_TIME: Duration = Duration::from_millis(100);
/// Bytes that kept messages may hold together, even if they are few.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A blocking connection for one thread. Sending a message takes one write, receiving one that is
/// there takes one read, and nothing is allocated but the [`Message`] that is returned.
///
/// To use it inside a poll loop, wait until [`as_raw_fd`](AsRawFd::as_raw_fd) is readable and call
/// [`try_receive`](Self::try_receive) until it returns `None`, because one read may bring many
/// messages.
///
/// ```
/// use ipc_framework::client::{Endpoint, Options};
/// use ipc_framework::{Config, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// let mut options = Options::new("app");
/// options.endpoint = Endpoint::tcp("localhost", port);
/// let mut connection = options.connect()?;
///
/// connection.subscribe("news")?;
/// connection.publish("news", &"it works")?;
/// let message = connection.receive(None)?.expect("waits until there is one");
/// assert_eq!(message.payload.decode::<String>()?, "it works");
///
/// let error = connection.request("nobody", &()).unwrap_err();
/// assert!(error.to_string().contains("no_handler"));
/// connection.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    encoder: Encoder,
    buffer: ReadBuffer,
    /// Messages that came while a request waited for its answer, oldest first.
    kept: VecDeque<Result<Message, Error>>,
    kept_bytes: usize,
    kept_messages_max: usize,
    endpoint: Endpoint,
    id: String,
    welcome: Welcome,
    timeout: Duration,
    spin: bool,
    /// Set after a cancel, whose answer is nobody's.
    has_cancelled: bool,
    served: Served,
    /// Set after a part of a frame was sent. The next frame would be read as the rest of that one.
    torn: bool,
}

/// What a client that drives the socket itself takes over.
pub(super) struct Parts {
    pub(super) socket: Socket,
    pub(super) buffer: ReadBuffer,
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) welcome: Welcome,
}

impl Connection {
    /// Returns the address of the server: of several, the one that welcomed the client.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the id by which the server knows this connection.
    pub fn connection_id(&self) -> &str {
        &self.id
    }

    /// Returns the name that the server gave itself, such as `ipc-framework/0.1.0`. The published
    /// server gives none, and answers no [`ping`](Self::ping), [`serve`](Self::serve) or
    /// [`subscribe_confirmed`](Self::subscribe_confirmed); a program that works with both servers
    /// checks this first.
    ///
    /// ```
    /// # use ipc_framework::client::{Endpoint, Options};
    /// # use ipc_framework::{Config, Server};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind(Config::default().port(0))?;
    /// # let port = server.addresses()[0].port().unwrap();
    /// # let handle = server.handle();
    /// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
    /// # let mut options = Options::new("app");
    /// # options.endpoint = Endpoint::tcp("localhost", port);
    /// let connection = options.connect()?;
    /// assert!(connection.server().unwrap().starts_with("ipc-framework/"));
    /// # connection.close()?;
    /// # handle.stop();
    /// # running.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn server(&self) -> Option<&str> {
        self.welcome.server.as_deref()
    }

    /// Returns whether the server streams answers in parts, and lets requests have deadlines that
    /// travel and be cancelled. Other servers are asked as ever, and streams from them are refused
    /// with [`Error::Unsupported`].
    pub fn has_call(&self) -> bool {
        self.welcome.extensions.contains(Extensions::CALL)
    }

    /// Returns whether the server takes attachments: bytes and tensors beside the JSON of a message. To
    /// other servers they are refused with [`Error::Unsupported`] before anything is sent.
    pub fn has_binary(&self) -> bool {
        self.welcome.extensions.contains(Extensions::BINARY)
    }

    /// Returns whether the server knows patterns, last values and histories of channels. From other
    /// servers they are refused with [`Error::Unsupported`] before anything is sent.
    pub fn has_topic(&self) -> bool {
        self.welcome.extensions.contains(Extensions::TOPIC)
    }

    /// Returns whether messages go through shared memory, because
    /// [`Options::shared_memory`](super::Options::shared_memory) asked for it and the server has it.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")]
    /// # {
    /// use ipc_framework::client::{Endpoint, Options};
    /// use ipc_framework::{Config, Limits, Server, UnixSocket};
    ///
    /// let path = std::env::temp_dir().join(format!("shares-memory-{}.sock", std::process::id()));
    /// let config = Config::default()
    ///     .host(None)
    ///     .unix(UnixSocket::at(&path))
    ///     .limits(Limits::default().shared_memory(true));
    /// let mut server = Server::bind(config)?;
    /// let stop = server.handle();
    /// let running = std::thread::spawn(move || server.run());
    ///
    /// let mut options = Options::new("app");
    /// options.endpoint = Endpoint::unix(&path);
    /// options.shared_memory = true;
    /// let connection = options.connect()?;
    /// assert!(connection.shares_memory());
    ///
    /// options.shared_memory = false;
    /// assert!(!options.connect()?.shares_memory());
    /// stop.stop();
    /// running.join().unwrap()?;
    /// # }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn shares_memory(&self) -> bool {
        self.socket.shares_memory()
    }

    /// Returns the limits that the server announced, if it did.
    pub fn server_limits(&self) -> Option<ServerLimits> {
        self.welcome.limits
    }

    /// Returns how long a request waits for its answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Changes how long later requests wait for their answers.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a request to whoever serves the channel, and waits for the answer. Other messages that
    /// come meanwhile are kept for [`receive`](Self::receive).
    ///
    /// # Errors
    /// [`Error::Answered`] if the answer is an error, [`Error::Deadline`] if there is none in
    /// time, [`Error::Lost`] if the connection is gone, [`Error::Backlog`] if more other
    /// messages come than are kept; [`Error::NotJson`], [`Error::TooLarge`] and
    /// [`Error::BadId`] for what cannot be sent. After a deadline a server that knows the extension
    /// `call` is told, and tells the worker; from another one the answer may still come, and
    /// [`receive`](Self::receive) returns it.
    #[doc(alias = "send_request")]
    pub fn request<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Message, Error> {
        let id = self.encoder.value(Heading::new(MessageType::Request, channel_id), payload)?;
        self.send()?;
        self.answer(id)
    }

    /// As [`request`](Self::request), and reads the answer into a value of your own type.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`Error::BadAnswer`] if the answer has another shape.
    pub fn request_as<R: DeserializeOwned, T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<R, Error> {
        self.request(channel_id, payload)?.payload.decode().map_err(Error::BadAnswer)
    }

    /// As [`request`](Self::request), with a document that is already JSON.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn request_json(&mut self, channel_id: &str, payload: &Json<'_>) -> Result<Message, Error> {
        self.request(channel_id, payload)
    }

    /// Sends a value to whoever serves the channel; there is no answer.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn notify<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<(), Error> {
        self.encoder.value(Heading::new(MessageType::Notification, channel_id), payload)?;
        self.send()
    }

    /// Sends a message without changing it. An empty id or application and a time of zero are
    /// filled in.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn send_message(&mut self, message: &Message) -> Result<(), Error> {
        self.encoder.message(message, None)?;
        self.send()
    }

    /// Becomes a worker of the channel: its requests are returned by [`receive`](Self::receive),
    /// and answered with [`respond`](Self::respond). The published server has no workers: there
    /// this returns [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn serve(&mut self, channel_id: &str) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        self.system(&Serve::start(channel_id)).map(|_serving| ())
    }

    /// Ends being a worker of the channel. Requests that were received before are still to be
    /// answered.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn stop_serving(&mut self, channel_id: &str) -> Result<(), Error> {
        check_id("channel_id", channel_id)?;
        self.system(&Serve::stop(channel_id)).map(|_stopped| ())
    }

    /// Answers a request that [`receive`](Self::receive) returned.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn respond<T: Payload + ?Sized>(
        &mut self,
        request: &Message,
        payload: &T,
    ) -> Result<(), Error> {
        let heading = Heading::answer(&request.channel_id, &request.message_id);
        self.encoder.value(heading, payload)?;
        self.served.forget(&request.message_id);
        self.send()
    }

    /// Answers a request with an error. The text should tell the requester what to do.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn respond_error(
        &mut self,
        request: &Message,
        code: ErrorCode,
        text: &str,
    ) -> Result<(), Error> {
        self.respond(request, &Failure::new(code, text))
    }

    /// Answers a request with a handler's error: one of the application as such, and any other as
    /// `handler_failed`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn refuse(&mut self, request: &Message, error: &HandlerError) -> Result<(), Error> {
        match error.payload() {
            Some(payload) => self.respond(request, payload),
            None => self.respond_error(request, ErrorCode::HandlerFailed, shortened(error.text())),
        }
    }

    /// Sends a request to the server itself, with a payload such as `{"action": "get_stats"}`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn system<T: Payload + ?Sized>(&mut self, payload: &T) -> Result<Message, Error> {
        self.request(SYSTEM, payload)
    }

    /// Measures how long the server takes to answer. By then it has processed everything that was
    /// sent before. The published server does not answer a ping: there this returns
    /// [`Error::Deadline`].
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn ping(&mut self) -> Result<Duration, Error> {
        let begin = Instant::now();
        self.system(&Action::PING)?;
        Ok(begin.elapsed())
    }

    /// Returns the next message, and waits for it as long as `timeout` (`None` waits forever).
    /// Returns `None` if none came.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection is gone, [`Error::Answered`] with the server's reason
    /// before it closes the connection, [`Error::Protocol`] if the received bytes are not the
    /// protocol. An error that answers a message sent by [`send_message`](Self::send_message) is
    /// returned as a message.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Option<Message>, Error> {
        if !self.kept.is_empty() {
            return self.take_kept();
        }
        self.next(&mut timeout.map_or(Wait::Forever, Wait::at_most))
    }

    /// Returns the next message if it has already arrived; never blocks.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<Message>, Error> {
        if !self.kept.is_empty() {
            return self.take_kept();
        }
        self.next(&mut Wait::Not)
    }

    /// Closes the connection in good order: when this returns, the server has processed everything
    /// that was sent. Messages from the server that nobody received are dropped. Dropping a
    /// connection instead of closing it may lose the last messages sent.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection broke instead, [`Error::Deadline`] if the server does
    /// not close its end.
    pub fn close(mut self) -> Result<(), Error> {
        let gone = |source| Error::lost(Execution::Possible, Some(source));
        self.socket.finish().map_err(gone)?;
        let mut wait = Wait::at_most(self.timeout);
        let mut scrap = vec![0; 64 << 10];
        loop {
            match wait.read(&mut self.socket, &mut scrap, self.spin) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Error::deadline("the end of the connection", self.timeout));
                }
                Err(error) => return Err(gone(error)),
            }
        }
    }

    /// Takes the connection apart, for a client that drives the socket itself.
    pub(super) fn into_parts(self) -> Parts {
        let Self { socket, buffer, endpoint, id, welcome, .. } = self;
        Parts { socket, buffer, endpoint, id, welcome }
    }

    /// Sends the frame that was encoded last.
    fn send(&mut self) -> Result<(), Error> {
        let sent = self.write();
        self.encoder.release();
        sent
    }

    fn write(&mut self) -> Result<(), Error> {
        if self.encoder.has_attachments() && !self.has_binary() {
            return Err(Error::unsupported_attachments());
        }
        if self.torn {
            return Err(Error::lost(Execution::Never, None));
        }
        let frame = self.encoder.frame();
        let (frame_bytes, mut sent) = (frame.len(), 0);
        while sent < frame_bytes {
            match self.socket.send_frame(frame, sent) {
                Ok(bytes) => sent += bytes,
                Err(error) => {
                    self.torn = sent > 0;
                    return Err(if error.kind() == ErrorKind::WouldBlock {
                        let waiting_for = "room at the server, which does not read,";
                        Error::deadline(waiting_for, self.timeout)
                    } else {
                        self.reason().unwrap_or_else(|| Error::lost(Execution::Never, error))
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the reason for which the server closed the connection, if it sent one before this
    /// side noticed. Other messages are kept, as far as there is room.
    fn reason(&mut self) -> Option<Error> {
        let mut wait = Wait::at_most(REASON_TIME);
        while self.await_frame(&mut wait, Execution::Never).ok()? {
            let envelope = front(&self.buffer, self.welcome.extensions).ok()?;
            let frame_bytes = envelope.frame_bytes;
            let last_words = last_words(&envelope);
            let message = envelope.message();
            if last_words.is_some() {
                self.buffer.consume(frame_bytes);
                return last_words;
            }
            if !self.keep(message, frame_bytes) {
                return None;
            }
        }
        None
    }

    /// Waits for the answer to the message with this id.
    fn answer(&mut self, id: Uuid) -> Result<Message, Error> {
        self.answer_within(id, self.timeout, false)
    }

    /// Keeps the message at the buffer's front, or returns false if there is no room. Then it stays
    /// in the buffer, and is received after those that were kept.
    fn keep(&mut self, message: Result<Message, Error>, frame_bytes: usize) -> bool {
        if self.kept.len() >= self.kept_messages_max
            || self.kept_bytes + frame_bytes > KEPT_BYTES_MAX
        {
            return false;
        }
        self.kept_bytes += message.as_ref().map_or(0, Message::payload_bytes);
        self.kept.push_back(message);
        self.buffer.consume(frame_bytes);
        true
    }

    fn take_kept(&mut self) -> Result<Option<Message>, Error> {
        let message = self.kept.pop_front().transpose()?;
        self.kept_bytes -= message.as_ref().map_or(0, Message::payload_bytes);
        Ok(message)
    }

    fn next(&mut self, wait: &mut Wait) -> Result<Option<Message>, Error> {
        while self.await_frame(wait, Execution::Never)? {
            let envelope = front(&self.buffer, self.welcome.extensions)?;
            let frame_bytes = envelope.frame_bytes;
            let notes = !self.welcome.extensions.is_empty() && self.served.note(&envelope);
            let is_stray = notes || self.is_stray(&envelope);
            let message = last_words(&envelope).map_or_else(|| envelope.message(), Err);
            self.buffer.consume(frame_bytes);
            if !is_stray {
                return message.map(Some);
            }
        }
        Ok(None)
    }

    /// Reads until the buffer begins with a whole frame; false if none came in time.
    fn await_frame(&mut self, wait: &mut Wait, execution: Execution) -> Result<bool, Error> {
        while let Frame::Partial { .. } = self.buffer.peek() {
            match wait.read(&mut self.socket, self.buffer.room(), self.spin) {
                Ok(0) => return Err(Error::lost(execution, None)),
                Ok(bytes) => self.buffer.filled(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Error::lost(execution, error)),
            }
        }
        self.buffer.detach();
        Ok(true)
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
