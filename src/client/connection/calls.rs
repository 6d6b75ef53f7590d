//! Requests with options on a blocking connection, and answers in parts.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Connection;
use crate::client::error::{Error, Execution};
use crate::client::payload::Payload;
use crate::client::request_options::RequestOptions;
use crate::client::wire::answer;
use crate::client::wire::encoder::Heading;
use crate::client::wire::frames::{Received, front, last_words};
use crate::client::wire::wait::Wait;
use crate::proto::system::{Cancel, Credit, SYSTEM};
use crate::proto::{Message, MessageType, Meta};

/// What comes in answer to a request.
enum Reply {
    /// An answer that is no part, or an error.
    Whole(Result<Message, Error>),
    Part(u64, Message),
    /// The end of a stream, whose parts came before this number.
    End(u64),
    Broken(String),
}

impl Connection {
    /// As [`request`](Self::request), with options. A [`CancelToken`](crate::client::CancelToken) is
    /// looked at before the request is sent, and not while its answer is waited for.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`Error::Cancelled`] and [`Error::MetaTooLarge`].
    pub fn request_with<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<Message, Error> {
        let terms = options.terms(self.welcome.extensions, self.timeout, false)?;
        let heading = Heading::request(channel_id, terms.meta.as_deref());
        let id = self.encoder.value(heading, payload)?;
        self.send()?;
        let left = terms.deadline.map_or(Duration::MAX, |deadline| deadline - terms.begin);
        self.answer_within(id, left, terms.is_given)
    }

    /// Sends a request whose answer comes in parts, with the default [`RequestOptions`].
    ///
    /// # Errors
    /// As [`request_stream_with`](Self::request_stream_with).
    pub fn request_stream<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
    ) -> Result<ConnectionStream<'_>, Error> {
        self.request_stream_with(channel_id, payload, &RequestOptions::default())
    }

    /// Sends a request whose answer comes in parts, and returns them as an iterator that blocks.
    /// Other messages that come meanwhile are kept for [`receive`](Self::receive).
    ///
    /// # Errors
    /// If the request cannot be sent; [`Error::Unsupported`] if the server does not know the
    /// extension `call`.
    pub fn request_stream_with<T: Payload + ?Sized>(
        &mut self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<ConnectionStream<'_>, Error> {
        let terms = options.terms(self.welcome.extensions, self.timeout, true)?;
        let heading = Heading::request(channel_id, terms.meta.as_deref());
        let id = self.encoder.value(heading, payload)?;
        self.send()?;
        let (window, begin) = (options.credit_within_bounds(), terms.begin);
        let (deadline, is_given) = (terms.deadline, terms.is_given);
        let (next_seq, taken) = (0, 0);
        Ok(ConnectionStream {
            connection: self,
            id,
            begin,
            deadline,
            is_given,
            window,
            taken,
            next_seq,
            is_over: false,
        })
    }

    /// Waits for the answer to the request with this id, whose time is up after `timeout`. If the
    /// server was not told of that time, it is told at its end.
    pub(super) fn answer_within(
        &mut self,
        id: Uuid,
        timeout: Duration,
        is_told: bool,
    ) -> Result<Message, Error> {
        let begin = is_told.then(Instant::now);
        let what = match self.reply_to(id, &mut Wait::at_most(timeout))? {
            Some(Reply::Whole(answer)) => {
                return answer.map_err(|error| match begin {
                    Some(begin) => error.or_deadline(begin, begin.checked_add(timeout)),
                    None => error,
                });
            }
            None => {
                if !is_told {
                    self.cancel(id);
                }
                return Err(Error::deadline("the answer", timeout));
            }
            Some(Reply::Broken(what)) => what,
            Some(_) => "a part of an answer to a request that takes none".to_owned(),
        };
        self.cancel(id);
        Err(Error::broken_stream(&what))
    }

    /// Waits for what comes in answer to the request with this id, and keeps other messages.
    fn reply_to(&mut self, id: Uuid, wait: &mut Wait) -> Result<Option<Reply>, Error> {
        let mut text = Uuid::encode_buffer();
        let id: &str = id.hyphenated().encode_lower(&mut text);
        while self.await_frame(wait, Execution::Possible)? {
            let envelope = front(&self.buffer, self.welcome.extensions)?;
            let frame_bytes = envelope.frame_bytes;
            if envelope.reply_to().is_some_and(|reply_to| reply_to.matches(id)) {
                let reply = read_part(&envelope).unwrap_or_else(|| {
                    let error = answer::error_of(&envelope);
                    Reply::Whole(error.map_or_else(|| envelope.message(), Err))
                });
                self.buffer.consume(frame_bytes);
                return Ok(Some(reply));
            }
            if let Some(last_words) = last_words(&envelope) {
                self.buffer.consume(frame_bytes);
                return Err(last_words);
            }
            let notes = !self.welcome.extensions.is_empty() && self.served.note(&envelope);
            if notes || self.is_stray(&envelope) {
                self.buffer.consume(frame_bytes);
                continue;
            }
            let message = envelope.message();
            if !self.keep(message, frame_bytes) {
                return Err(Error::Backlog { messages: self.kept.len() });
            }
        }
        Ok(None)
    }

    /// Returns whether a message belongs to a request that was given up: a part of a stream, or the
    /// answer to a cancel.
    pub(super) fn is_stray(&self, envelope: &Received<'_>) -> bool {
        let is_part = || envelope.meta().is_some() && read_part(envelope).is_some();
        let is_cancelled = || {
            let error = answer::error_of(envelope);
            error.is_some_and(|error| error.code() == Some("cancelled"))
        };
        envelope.reply_to().is_some() && (is_part() || self.has_cancelled && is_cancelled())
    }

    /// Tells the server that nobody waits for the answer to a request.
    fn cancel(&mut self, id: Uuid) {
        let mut text = Uuid::encode_buffer();
        self.has_cancelled = true;
        let cancel = Cancel::new(id.hyphenated().encode_lower(&mut text));
        self.tell_server(&cancel);
    }

    fn tell_server<T: serde::Serialize>(&mut self, payload: &T) {
        if !self.has_call() {
            return;
        }
        let heading = Heading::new(MessageType::Notification, SYSTEM);
        // If it cannot be sent the connection is lost, and the next call finds that out.
        let _ = self.encoder.value(heading, payload).and_then(|_| self.send());
    }
}

/// Returns what a message is if its `meta` makes it a part of a stream. A part is never an error,
/// whatever its payload.
fn read_part(envelope: &Received<'_>) -> Option<Reply> {
    let meta = envelope.meta()?;
    if envelope.message_type() != MessageType::Response {
        return None;
    }
    match Meta::parse_known(meta.as_str()) {
        Err(fault) => Some(Reply::Broken(fault.to_string())),
        Ok(meta) if meta.end => meta.seq.map(Reply::End),
        Ok(meta) => meta.seq.map(|seq| match envelope.message() {
            Ok(part) => Reply::Part(seq, part),
            Err(error) => Reply::Broken(error.to_string()),
        }),
    }
}

/// The parts of an answer on a [`Connection`], as an iterator that blocks. It ends after the last
/// part, or after one error. An answer that does not come in parts is the only part. Dropping it
/// before the end cancels the request.
///
/// The client's own timeout holds up to the first part, and for each later one the server's
/// [`request_timeout`](crate::client::ServerLimits::request_timeout) and it together.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// # let worker = options.connect()?;
/// # worker.serve_stream("count", 1, |_, parts| Ok((0..9).try_for_each(|n| parts.send(&n))?))?;
/// let mut connection = options.connection.connect()?;
/// for part in connection.request_stream("count", &())?.take(3) {
///     println!("{}", part?.payload);
/// } // the rest is cancelled
/// # connection.close()?;
/// # worker.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConnectionStream<'a> {
    connection: &'a mut Connection,
    id: Uuid,
    begin: Instant,
    deadline: Option<Instant>,
    /// Set if the caller gave the deadline, and not the connection's own timeout.
    is_given: bool,
    window: u32,
    /// Parts that were taken since credit was last given.
    taken: u32,
    next_seq: u64,
    is_over: bool,
}

impl ConnectionStream<'_> {
    /// Returns the time for which the next part is waited for.
    fn patience(&self) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        if self.is_given || self.next_seq == 0 {
            return self.deadline.map_or(Duration::MAX, left);
        }
        let server = self.connection.server_limits().map(|limits| limits.request_timeout);
        match server {
            Some(None) => Duration::MAX,
            Some(Some(timeout)) => timeout.saturating_add(self.connection.timeout),
            None => self.connection.timeout,
        }
    }

    fn part(&mut self, seq: u64, part: Message) -> Result<Message, Error> {
        if seq != self.next_seq {
            return Err(Error::broken_stream("a part of a stream out of order"));
        }
        self.next_seq += 1;
        self.taken += 1;
        // Credit is given in batches, each a message of its own.
        if self.taken >= self.window.div_ceil(2) {
            let mut text = Uuid::encode_buffer();
            let id = self.id.hyphenated().encode_lower(&mut text);
            let credit = Credit::new(id, std::mem::take(&mut self.taken));
            self.connection.tell_server(&credit);
        }
        Ok(part)
    }

    /// Ends it with an error. If the server still works for it, it is told.
    fn fail(&mut self, error: Error, is_cancelled: bool) -> Error {
        self.is_over = true;
        if is_cancelled {
            self.connection.cancel(self.id);
        }
        error
    }
}

impl Iterator for ConnectionStream<'_> {
    type Item = Result<Message, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let patience = self.patience();
        let reply = match self.connection.reply_to(self.id, &mut Wait::at_most(patience)) {
            Ok(reply) => reply,
            // Nothing of it is lost: it goes on after those messages were received.
            Err(error @ Error::Backlog { .. }) => return Some(Err(error)),
            Err(error) => return Some(Err(self.fail(error, false))),
        };
        let broken = |what: &str| Error::broken_stream(what);
        Some(match reply {
            Some(Reply::Part(seq, part)) => match self.part(seq, part) {
                Ok(part) => Ok(part),
                Err(error) => Err(self.fail(error, true)),
            },
            Some(Reply::End(seq)) if seq == self.next_seq => {
                self.is_over = true;
                return None;
            }
            Some(Reply::End(_)) => {
                Err(self.fail(broken("the end of a stream out of order"), false))
            }
            Some(Reply::Broken(what)) => Err(self.fail(broken(&what), true)),
            Some(Reply::Whole(Ok(_))) if self.next_seq > 0 => {
                Err(self.fail(broken("an answer after parts of a stream"), false))
            }
            Some(Reply::Whole(answer)) => {
                self.is_over = true;
                let deadline = self.deadline.filter(|_| self.is_given);
                answer.map_err(|error| error.or_deadline(self.begin, deadline))
            }
            None => {
                let error = Error::deadline("the next part of the answer", patience);
                Err(self.fail(error, !self.is_given))
            }
        })
    }
}

impl Drop for ConnectionStream<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.cancel(self.id);
        }
    }
}
