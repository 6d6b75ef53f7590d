//! Answers of a blocking connection to requests that have deadlines, are cancelled, or take parts.

use std::time::{Duration, Instant};

use super::Connection;
use crate::client::error::{Error, Execution};
use crate::client::payload::Payload;
use crate::client::wire::encoder::Heading;
use crate::client::wire::frames::{front, last_words};
use crate::client::wire::wait::Wait;
use crate::proto::system::CancelReason;
use crate::proto::{Message, Meta};

impl Connection {
    /// Returns the reason for which nobody wants the answer to a received request any more, if that
    /// is so. It looks at what has arrived, and keeps other messages for
    /// [`receive`](Self::receive).
    ///
    /// # Errors
    /// As [`receive`](Self::receive), and [`Error::Backlog`].
    pub fn cancel_reason(&mut self, request: &Message) -> Result<Option<CancelReason>, Error> {
        while self.take_in(&mut Wait::Not)? {}
        Ok(self.served.find(request).and_then(|entry| entry.reason))
    }

    /// Returns the time for which the requester of a received request still waits, if it told. It is
    /// zero when the time is up.
    pub fn remaining(&self, request: &Message) -> Option<Duration> {
        let deadline = self.served.find(request)?.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns whether the requester of a received request takes its answer in parts. If not,
    /// [`respond`](Self::respond) with the array of all of them.
    pub fn wants_parts(&self, request: &Message) -> bool {
        self.served.find(request).is_some_and(|entry| entry.credit.is_some())
    }

    /// Sends a part of the answer to a received request, and waits before until the requester takes
    /// another one. [`end_parts`](Self::end_parts), [`refuse`](Self::refuse) and
    /// [`respond_error`](Self::respond_error) end the answer.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if nobody wants parts any more, [`Error::Unsupported`] if the requester
    /// takes none; as [`publish`](Self::publish), and [`Error::Backlog`] if more other messages come
    /// meanwhile than are kept.
    pub fn respond_part<T: Payload + ?Sized>(
        &mut self,
        request: &Message,
        part: &T,
    ) -> Result<(), Error> {
        while self.take_in(&mut Wait::Not)? {}
        let seq = loop {
            let entry = self.served.find(request).ok_or(NO_PARTS)?;
            if entry.reason.is_some() {
                self.served.forget(&request.message_id);
                return Err(Error::Cancelled { execution: Execution::Possible });
            }
            if entry.credit.ok_or(NO_PARTS)? > 0 {
                break entry.sent;
            }
            self.take_in(&mut Wait::Forever)?;
        };
        self.send_part(request, part, Meta { seq: Some(seq), ..Meta::default() })?;
        let entry = self.served.entry(request.message_id.clone());
        entry.sent += 1;
        entry.credit = entry.credit.map(|credit| credit.saturating_sub(1));
        Ok(())
    }

    /// Ends an answer after its last part.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Error::Unsupported`] if the requester takes no parts.
    pub fn end_parts(&mut self, request: &Message) -> Result<(), Error> {
        let entry = self.served.find(request).ok_or(NO_PARTS)?;
        let meta = Meta { seq: Some(entry.sent), end: true, ..Meta::default() };
        let is_cancelled = entry.reason.is_some();
        self.served.forget(&request.message_id);
        if is_cancelled { Ok(()) } else { self.send_part(request, &(), meta) }
    }

    fn send_part<T: Payload + ?Sized>(
        &mut self,
        request: &Message,
        part: &T,
        meta: Meta<'_>,
    ) -> Result<(), Error> {
        let mut text = Vec::new();
        meta.append_to(&mut text);
        let heading = Heading::answer(&request.channel_id, &request.message_id);
        self.encoder.value(Heading { meta: Some(&text), ..heading }, part)?;
        self.send()
    }

    /// Takes in the next message without handing it out. Returns false if none came in time.
    fn take_in(&mut self, wait: &mut Wait) -> Result<bool, Error> {
        if !self.await_frame(wait, Execution::Possible)? {
            return Ok(false);
        }
        let envelope = front(&self.buffer, self.welcome.extensions)?;
        let frame_bytes = envelope.frame_bytes;
        if let Some(last_words) = last_words(&envelope) {
            self.buffer.consume(frame_bytes);
            return Err(last_words);
        }
        let notes = !self.welcome.extensions.is_empty() && self.served.note(&envelope);
        let is_for_nobody = notes || self.is_stray(&envelope);
        let message = envelope.message();
        if is_for_nobody {
            self.buffer.consume(frame_bytes);
        } else if !self.keep(message, frame_bytes) {
            return Err(Error::Backlog { messages: self.kept.len() });
        }
        Ok(true)
    }
}

const NO_PARTS: Error = Error::Unsupported { what: "parts for this request" };
