//! An answer in parts, from the handler's side.

use super::background::answering::Answering;
use super::background::job::Credit;
use super::call::Call;
use super::error::{Error, Execution};
use super::payload::Payload;
use crate::handler_error::{HandlerError, shortened};
use crate::proto::system::Failure;
use crate::proto::{Attached, ErrorCode, Json, Meta, escaped};

/// Sends the parts of one answer. A requester that takes parts gets each as soon as it is sent; for
/// any other they are collected, and it gets the array of all of them at the end.
///
/// The requester says how many parts it takes: [`send`](Self::send) waits until it takes another
/// one, so that a fast handler does not flood a slow reader. If this is dropped without
/// [`end`](Self::end), the answer ends with `handler_failed`.
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
/// let worker = options.connect()?;
/// worker.serve_stream("count", 2, |request, parts| {
///     for n in 0..request.payload.decode::<u32>()? {
///         parts.send(&n)?; // fails once nobody wants them any more
///     }
///     Ok(())
/// })?;
/// let client = options.connect()?;
/// let parts = client.request_stream("count", &3)?;
/// let parts: Result<Vec<u32>, _> = parts.map(|part| Ok(part?.payload.decode()?)).collect();
/// assert_eq!(parts.map_err(|error: Box<dyn std::error::Error>| error)?, [0, 1, 2]);
/// assert_eq!(client.request("count", &3)?.payload.as_str(), "[0,1,2]");
/// # client.close()?;
/// # worker.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PartSender {
    /// `None` after the answer.
    answering: Option<Answering>,
    call: Call,
    sent: u64,
    /// The text of the last `meta`, or of the parts that were collected.
    text: Vec<u8>,
    /// The attachments of those.
    attached: Option<Box<Attached>>,
    collected: u64,
    collected_bytes_max: usize,
}

/// The rest of a frame besides its payload and the names in it.
const AROUND_BYTES: usize = 256;
const TOO_LARGE: &str =
    "the parts of the answer together fit into no frame; ask for them as a stream";

impl PartSender {
    pub(super) fn new(answering: Answering) -> Self {
        let call = Call::new(answering.job().clone());
        let collected_bytes_max = answering.client().map_or(0, |shared| {
            let announced = shared.lock().limits.map_or(usize::MAX, |it| it.frame_bytes_max);
            let options = &shared.options.connection;
            let names =
                [&options.app_id, answering.job().channel_id(), answering.job().message_id()];
            let around = names.iter().map(|name| escaped(name).len()).sum::<usize>() + AROUND_BYTES;
            announced.min(options.frame_bytes_max).saturating_sub(around)
        });
        Self {
            answering: Some(answering),
            call,
            sent: 0,
            text: Vec::new(),
            attached: None,
            collected: 0,
            collected_bytes_max,
        }
    }

    /// Returns what is known of the request.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// See [`Call::is_cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.call.is_cancelled()
    }

    /// Sends a part, and waits before until the requester takes another one.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if nobody wants parts any more: then the handler should end.
    /// [`Error::NotJson`], [`Error::TooLarge`] and [`Error::QueueFull`] if this part cannot be sent;
    /// others still can. If the parts are collected, [`Error::TooLarge`] is for all of them, and the
    /// requester is answered `limit_exceeded`. [`Error::OnClientThread`] on the client's own thread
    /// where this would wait; use [`try_send`](Self::try_send) there.
    pub fn send<T: Payload + ?Sized>(&mut self, part: &T) -> Result<(), Error> {
        let answering = self.answering.as_ref().ok_or(NOT_WANTED)?;
        let job = answering.job();
        let Some(credit) = job.credit() else { return self.collect(part) };
        if !credit.try_take() {
            let is_driver = answering.client().is_some_and(|shared| shared.is_driver());
            if is_driver && !job.is_cancelled() {
                return Err(Error::OnClientThread);
            }
            if !credit.take(|| job.is_cancelled()) {
                return Err(NOT_WANTED);
            }
        }
        self.send_on_credit(part)
    }

    /// Sends a part if the requester takes one now, and returns whether it does. Otherwise nothing is
    /// sent; [`on_credit`](Self::on_credit) tells when to try again.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn try_send<T: Payload + ?Sized>(&mut self, part: &T) -> Result<bool, Error> {
        let answering = self.answering.as_ref().ok_or(NOT_WANTED)?;
        let job = answering.job();
        let Some(credit) = job.credit() else { return self.collect(part).map(|()| true) };
        if job.is_cancelled() {
            return Err(NOT_WANTED);
        }
        if !credit.try_take() {
            return Ok(false);
        }
        self.send_on_credit(part).map(|()| true)
    }

    /// Returns whether a part can be queued at once. Otherwise sending waits until the server has read
    /// enough, which an event loop must not do.
    pub fn has_room(&self) -> bool {
        let client = self.answering.as_ref().and_then(Answering::client);
        client.is_none_or(|shared| shared.has_room_for_answer())
    }

    /// Returns how many parts the requester takes now. Where they are collected there is no limit.
    pub fn credit(&self) -> u32 {
        let Some(answering) = &self.answering else { return 0 };
        answering.job().credit().map_or(u32::MAX, Credit::available)
    }

    /// Calls `listener` whenever the requester takes more parts, and when the request is cancelled:
    /// on the client's thread, which it must not block. A new listener replaces the one before.
    pub fn on_credit(&self, listener: impl Fn() + Send + Sync + 'static) {
        if let Some(credit) = self.answering.as_ref().and_then(|it| it.job().credit()) {
            credit.listen(listener);
        }
    }

    /// Ends the answer after its last part.
    ///
    /// # Errors
    /// If the end, or the parts that were collected, cannot be sent; the requester is told.
    pub fn end(mut self) -> Result<(), Error> {
        let Some(answering) = self.answering.take() else { return Ok(()) };
        if answering.job().credit().is_some() {
            self.write_meta(true);
            return answering.finish(&(), Some(&self.text));
        }
        let all: &[u8] = if self.text.is_empty() { b"[]" } else { b"]" };
        self.text.extend_from_slice(all);
        // Each part is JSON, but all of them may nest too deep by one.
        let all = String::from_utf8(std::mem::take(&mut self.text)).map(Json::parse);
        let attached = self.attached.take();
        let all = all.map(|all| match attached {
            Some(attached) => attached.join(all?),
            None => all,
        });
        match all {
            Ok(Ok(all)) if all.bytes() <= self.collected_bytes_max => {
                answering.finish_or_refuse(&all, None, ErrorCode::LimitExceeded)
            }
            _ => answering.finish(&Failure::new(ErrorCode::LimitExceeded, TOO_LARGE), None),
        }
    }

    /// Ends the answer with an error, after the parts that were sent: one of the application as such,
    /// and any other as `handler_failed`. Parts that were collected are not sent.
    ///
    /// # Errors
    /// If the error cannot be sent.
    pub fn fail(mut self, error: &HandlerError) -> Result<(), Error> {
        let Some(answering) = self.answering.take() else { return Ok(()) };
        if let Some(payload) = error.payload() {
            return answering.finish(payload, None);
        }
        let text = shortened(error.text());
        answering.finish(&Failure::new(ErrorCode::HandlerFailed, text), None)
    }

    fn send_on_credit<T: Payload + ?Sized>(&mut self, part: &T) -> Result<(), Error> {
        self.write_meta(false);
        let answering = self.answering.as_ref().ok_or(NOT_WANTED)?;
        match answering.send(part, &self.text) {
            Ok(true) => {
                self.sent += 1;
                Ok(())
            }
            Ok(false) => Err(NOT_WANTED),
            Err(error) => {
                if let Some(credit) = answering.job().credit() {
                    credit.untake();
                }
                Err(error)
            }
        }
    }

    fn write_meta(&mut self, end: bool) {
        self.text.clear();
        let meta = Meta { seq: Some(self.sent), end, ..Meta::default() };
        meta.append_to(&mut self.text);
    }

    fn collect<T: Payload + ?Sized>(&mut self, part: &T) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(NOT_WANTED);
        }
        let begin = self.text.len();
        self.text.push(if begin > 0 { b',' } else { b'[' });
        let at = self.text.len();
        let carried = match part.append_to(&mut self.text) {
            Ok(carried) => carried,
            Err(error) => {
                self.text.truncate(begin);
                return Err(Error::NotJson(error));
            }
        };
        if let Some(carried) = carried {
            let text = std::str::from_utf8(&self.text[at..]).unwrap_or_default();
            self.attached.get_or_insert_default().add(self.collected, &carried.view(text));
        }
        self.collected += 1;
        // With the bracket behind them.
        let attached_bytes = self.attached.as_ref().map_or(0, |attached| attached.bytes());
        let body_bytes = self.text.len() + 1 + attached_bytes;
        if body_bytes <= self.collected_bytes_max {
            return Ok(());
        }
        self.text = Vec::new();
        if let Some(answering) = self.answering.take() {
            answering.finish(&Failure::new(ErrorCode::LimitExceeded, TOO_LARGE), None)?;
        }
        Err(Error::TooLarge { body_bytes, body_bytes_max: self.collected_bytes_max })
    }
}

const NOT_WANTED: Error = Error::Cancelled { execution: Execution::Possible };
