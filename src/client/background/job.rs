//! A request that a handler of this client has or is going to get, and what its server says of it
//! later: cancels and credit.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::shield::shielded;
use crate::client::cancel_token::{CancelToken, Cancellation};
use crate::proto::system::CancelReason;
use crate::proto::{Envelope, Message, MessageType, Meta};

/// The part of a message that its answer needs, and its state.
pub(crate) struct Job {
    /// The channel's id, and behind it that of the message.
    names: Box<str>,
    channel_bytes: usize,
    /// A notification is never answered.
    is_request: bool,
    key: Option<Uuid>,
    /// The connection by which it came. An answer by another one would reach nobody.
    pub(crate) generation: u64,
    cancellation: Cancellation,
    reason: OnceLock<CancelReason>,
    extras: Option<Box<Extras>>,
    /// The token of requests that the handler makes for this one.
    nested: OnceLock<CancelToken>,
}

/// Things that only few requests have.
#[derive(Default)]
pub(crate) struct Extras {
    deadline: Option<Instant>,
    credit: Option<Credit>,
    trace: Option<Box<str>>,
    headers: Option<Box<str>>,
}

impl Extras {
    /// Reads what the server sent beside a request. What is not usable counts as absent.
    pub(crate) fn of(envelope: &Envelope<'_>) -> Option<Box<Self>> {
        let meta = envelope.meta()?;
        let meta = Meta::parse_known(meta.as_str()).ok()?;
        let left = meta.ttl_millis.map(|millis| Duration::from_millis(millis.into()));
        Some(Box::new(Self {
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            credit: meta.stream.map(Credit::new),
            trace: meta.trace.map(Into::into),
            headers: meta.headers.map(Into::into),
        }))
    }
}

impl Job {
    pub(crate) fn new(message: &Message, extras: Option<Box<Extras>>, generation: u64) -> Self {
        let is_request = message.message_type == MessageType::Request;
        let mut names = String::with_capacity(message.channel_id.len() + message.message_id.len());
        names.push_str(&message.channel_id);
        names.push_str(&message.message_id);
        Self {
            names: names.into_boxed_str(),
            channel_bytes: message.channel_id.len(),
            is_request,
            key: Some(&message.message_id)
                .filter(|_| is_request)
                .and_then(|id| Uuid::try_parse(id).ok()),
            generation,
            cancellation: Cancellation::default(),
            reason: OnceLock::new(),
            extras,
            nested: OnceLock::new(),
        }
    }

    pub(crate) fn is_request(&self) -> bool {
        self.is_request
    }

    pub(crate) fn channel_id(&self) -> &str {
        &self.names[..self.channel_bytes]
    }

    pub(crate) fn message_id(&self) -> &str {
        &self.names[self.channel_bytes..]
    }

    /// Returns the key under which the server's later words find it. A server of this project names
    /// every request by a UUID.
    pub(crate) fn key(&self) -> Option<Uuid> {
        self.key
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Tells the handler that nobody wants the answer any more. Must not be called with a lock held.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        // The first reason counts.
        let _ = self.reason.set(reason);
        self.cancellation.cancel();
        if let Some(credit) = self.credit() {
            credit.changed();
        }
    }

    pub(crate) fn reason(&self) -> Option<CancelReason> {
        self.reason.get().copied().filter(|_| self.is_cancelled())
    }

    pub(crate) fn on_cancel(&self, listener: impl FnOnce() + Send + 'static) {
        self.cancellation.listen(listener);
    }

    /// Drops the listeners after the answer, when there is nothing left to cancel.
    pub(crate) fn forget_listeners(&self) {
        self.cancellation.forget_all();
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.extras.as_ref()?.deadline
    }

    /// Returns the credit of a requester that takes the answer in parts.
    pub(crate) fn credit(&self) -> Option<&Credit> {
        self.extras.as_ref()?.credit.as_ref()
    }

    pub(crate) fn trace(&self) -> Option<&str> {
        self.extras.as_ref()?.trace.as_deref()
    }

    pub(crate) fn headers(&self) -> Option<&str> {
        self.extras.as_ref()?.headers.as_deref()
    }

    /// Returns a token that is cancelled with this request.
    pub(crate) fn nested(&self) -> CancelToken {
        let token = self.nested.get_or_init(|| {
            let token = CancelToken::new();
            let nested = token.clone();
            self.on_cancel(move || nested.cancel());
            token
        });
        token.clone()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("channel_id", &self.channel_id())
            .field("message_id", &self.message_id())
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// The number of parts that the requester of a stream takes.
pub(crate) struct Credit {
    inside: Mutex<Inside>,
    changed: Condvar,
}

struct Inside {
    available: u32,
    listener: Option<Listener>,
}

impl Credit {
    fn new(available: u32) -> Self {
        let inside = Inside { available, listener: None };
        Self { inside: Mutex::new(inside), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, credit: u32) {
        let mut inside = self.lock();
        inside.available = inside.available.saturating_add(credit);
        drop(inside);
        self.changed();
    }

    /// Gives back what was taken for a part that was not sent.
    pub(crate) fn untake(&self) {
        self.lock().available += 1;
    }

    /// Wakes whoever waits for credit, or for the end.
    fn changed(&self) {
        let listener = self.lock().listener.clone();
        self.changed.notify_all();
        if let Some(listener) = listener {
            shielded(|| listener());
        }
    }

    pub(crate) fn available(&self) -> u32 {
        self.lock().available
    }

    pub(crate) fn try_take(&self) -> bool {
        let mut inside = self.lock();
        let left = inside.available.checked_sub(1);
        inside.available = left.unwrap_or(0);
        left.is_some()
    }

    /// Takes credit for one part, and waits until there is some. Returns false if the request is
    /// over before.
    pub(crate) fn take(&self, is_over: impl Fn() -> bool) -> bool {
        let mut inside = self.lock();
        loop {
            if is_over() {
                return false;
            }
            if inside.available > 0 {
                inside.available -= 1;
                return true;
            }
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        let older = self.lock().listener.replace(Arc::new(listener));
        drop(older);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::proto::Json;

    fn job(extras: Option<Box<Extras>>) -> Job {
        let mut message = Message::new(MessageType::Request, "app", "a channel", Json::null());
        message.message_id = "67e55044-10b1-426f-9247-bb680e5fe0c8".into();
        Job::new(&message, extras, 1)
    }

    fn extras(meta: &str) -> Option<Box<Extras>> {
        let head = r#"{"message_id":"1","app_id":"a","channel_id":"c","message_type":"request","#;
        let body = head.to_owned()
            + &format!(r#""payload":1,"timestamp":1,"reply_to":null,"meta":{meta}}}"#);
        Extras::of(&Envelope::parse_extended(body.as_bytes()).unwrap())
    }

    #[test]
    fn what_came_beside_a_request_is_found_and_what_is_unusable_counts_as_absent() {
        let plain = job(None);
        assert_eq!(plain.channel_id(), "a channel");
        assert_eq!(plain.message_id(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
        assert!(plain.key().is_some() && plain.deadline().is_none() && plain.credit().is_none());
        let told = r#"{"stream":2,"trace":{"traceparent":"x"},"headers":{"a":"b"},"ttl":60000}"#;
        let full = job(extras(told));
        assert!(full.deadline().unwrap() > Instant::now());
        assert_eq!(full.credit().unwrap().available(), 2);
        assert_eq!(full.trace(), Some(r#"{"traceparent":"x"}"#));
        assert_eq!(full.headers(), Some(r#"{"a":"b"}"#));
        for bad in ["[]", r#"{"ttl":0}"#, r#"{"stream":70000}"#, r#"{"ttl":1,"ttl":1}"#] {
            let job = job(extras(bad));
            assert!(job.deadline().is_none() && job.credit().is_none(), "{bad}");
        }
        assert!(job(extras(r#"{"ttl":2147483648,"newer":1}"#)).deadline().is_some());
    }

    #[test]
    fn credit_is_taken_part_by_part_and_the_end_wakes_who_waits() {
        let job = Arc::new(job(extras(r#"{"stream":1}"#)));
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let credit = job.credit().unwrap();
        credit.listen(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        assert!(credit.try_take() && !credit.try_take());
        credit.untake();
        assert!(credit.try_take());
        credit.add(u32::MAX);
        credit.add(1);
        assert_eq!(credit.available(), u32::MAX);
        while credit.available() > u32::MAX - 2 {
            assert!(credit.take(|| false));
        }
        let waiting = Arc::clone(&job);
        let waits = std::thread::spawn(move || {
            let credit = waiting.credit().unwrap();
            credit.lock().available = 0;
            credit.take(|| waiting.is_cancelled())
        });
        let nested = job.nested();
        job.cancel(CancelReason::Deadline);
        job.cancel(CancelReason::Gone);
        assert!(!waits.join().unwrap());
        assert!(nested.is_cancelled() && job.nested().is_cancelled());
        assert_eq!(job.reason(), Some(CancelReason::Deadline));
        assert_eq!(told.load(Ordering::SeqCst), 4);
    }
}
