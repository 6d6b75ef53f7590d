//! Options of one request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::cancel_token::CancelToken;
use super::error::{Error, Execution};
use super::meta_text::meta_text;
use crate::proto::{CREDIT_MAX, Extensions, Meta, Trace};
use crate::setters::setters;

/// Options of a request, for [`Client::request_with`](super::Client::request_with),
/// [`request_stream_with`](super::Client::request_stream_with) and the like.
///
/// They are told to a server that knows the extension `call`, as this one does. With another server
/// the timeout and the cancel take effect in this client alone, a request with headers is refused
/// with [`Error::Unsupported`] before it is sent, and the rest has no effect.
///
/// ```
/// use ipc_framework::client::RequestOptions;
/// use std::time::Duration;
///
/// let options = RequestOptions::default()
///     .timeout(Duration::from_millis(500))
///     .idempotent(true)
///     .header("tenant", "acme");
/// assert_eq!(options.headers["tenant"], "acme");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestOptions {
    /// Time until the requester gives up. The server and the worker are told, so that the worker
    /// knows how much is left and stops when it is up. With `None` the client's own
    /// [`timeout`](super::Options::timeout) holds, of which nobody is told before it is up; for a
    /// stream it is the time to the first part.
    pub timeout: Option<Duration>,
    /// The moment at which the requester gives up. If there is a timeout as well, the earlier of the
    /// two holds.
    pub deadline: Option<Instant>,
    /// Set if the request may be carried out twice. If its worker is lost, the server gives it to
    /// another one, once.
    pub idempotent: bool,
    /// The trace that the request belongs to, for the worker.
    pub trace: Option<Trace>,
    /// Headers for the worker. Together with the trace they take at most about 4 KiB.
    pub headers: BTreeMap<String, String>,
    /// Cancels the request when the token is cancelled. A [`Connection`](super::Connection), whose
    /// only thread waits, looks at it before it sends the request.
    pub cancel: Option<CancelToken>,
    /// The number of parts of a stream that may wait for their reader, from 1 to 65,536; 64 by
    /// default. The worker waits when so many do.
    pub credit: u32,
}

setters! {
    RequestOptions {
        into [timeout: Option<Duration>]
        into [deadline: Option<Instant>]
        [idempotent: bool]
        into [trace: Option<Trace>]
        [headers: BTreeMap<String, String>]
        into [cancel: Option<CancelToken>]
        [credit: u32]
    }
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            deadline: None,
            idempotent: false,
            trace: None,
            headers: BTreeMap::new(),
            cancel: None,
            credit: 64,
        }
    }
}

/// What a request's options come to when it is sent.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The text of `meta`, or none if there is nothing to tell the server.
    pub(crate) meta: Option<Vec<u8>>,
    /// The moment from which its time is counted.
    pub(crate) begin: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Set if the caller gave the deadline, and not the client's own timeout.
    pub(crate) is_given: bool,
}

impl RequestOptions {
    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns the credit of a stream, as the server takes it.
    pub(crate) fn credit_within_bounds(&self) -> u32 {
        self.credit.clamp(1, CREDIT_MAX)
    }

    /// Returns the terms of a request that is sent now, by a connection with these extensions.
    pub(crate) fn terms(
        &self,
        extensions: Extensions,
        own_timeout: Duration,
        is_stream: bool,
    ) -> Result<Terms, Error> {
        let has_call = extensions.contains(Extensions::CALL);
        if is_stream && !has_call {
            return Err(Error::unsupported_streams());
        }
        if !has_call && !self.headers.is_empty() {
            return Err(Error::unsupported_headers());
        }
        if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Err(Error::Cancelled { execution: Execution::Never });
        }
        let now = Instant::now();
        // A timeout that no clock can express means no timeout.
        let by_timeout = self.timeout.and_then(|timeout| now.checked_add(timeout));
        let given = [by_timeout, self.deadline].into_iter().flatten().min();
        let left = given.map(|deadline| deadline.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            let (waiting_for, execution) = ("the answer", Execution::Never);
            return Err(Error::Deadline { waiting_for, waited: Duration::ZERO, execution });
        }
        let is_given = self.timeout.is_some() || self.deadline.is_some();
        let own = || now.checked_add(own_timeout);
        let deadline = if is_given { given } else { own() };
        let meta = if has_call { self.meta(left, is_stream)? } else { None };
        Ok(Terms { meta, begin: now, deadline, is_given })
    }

    fn meta(&self, left: Option<Duration>, is_stream: bool) -> Result<Option<Vec<u8>>, Error> {
        let meta = Meta {
            ttl_millis: left.map(ttl_millis),
            idempotent: self.idempotent,
            stream: is_stream.then(|| self.credit_within_bounds()),
            ..Meta::default()
        };
        meta_text(meta, self.trace.as_ref(), &self.headers)
    }
}

/// Returns the time as the server takes it: a part of a millisecond counts as a whole one, and more
/// than nearly 25 days as so much.
fn ttl_millis(left: Duration) -> u32 {
    const MILLIS_MAX: u128 = 1 << 31;
    left.as_nanos().div_ceil(1_000_000).clamp(1, MILLIS_MAX) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::META_BYTES_MAX;

    fn meta(options: &RequestOptions, is_stream: bool) -> Option<String> {
        let terms = options.terms(Extensions::CALL, Duration::from_secs(10), is_stream).unwrap();
        terms.meta.map(|meta| String::from_utf8(meta).unwrap())
    }

    #[test]
    fn only_what_the_caller_gave_is_told() {
        let plain = RequestOptions::default();
        assert_eq!(meta(&plain, false), None);
        assert_eq!(meta(&plain, true).unwrap(), r#"{"stream":64}"#);
        let terms = plain.terms(Extensions::CALL, Duration::from_secs(10), false).unwrap();
        assert!(terms.deadline.is_some() && !terms.is_given);
        let all = RequestOptions::default()
            .timeout(Duration::from_nanos(1_500_000_001))
            .idempotent(true)
            .trace(Trace::new("00-1-2-01"))
            .header("a", "\"")
            .credit(0);
        let told = meta(&all, true).unwrap();
        assert!(told.starts_with(r#"{"stream":1,"idempotent":true,"#), "{told}");
        let read = Meta::parse(&told).unwrap();
        assert_eq!(read.trace, Some(r#"{"traceparent":"00-1-2-01"}"#));
        assert_eq!(read.headers, Some(r#"{"a":"\""}"#));
        assert!((1..=1_501).contains(&read.ttl_millis.unwrap()), "{told}");
        assert!(all.terms(Extensions::CALL, Duration::ZERO, true).unwrap().is_given);
        let all = RequestOptions { headers: BTreeMap::new(), ..all };
        assert!(all.terms(Extensions::NONE, Duration::ZERO, false).unwrap().meta.is_none());
    }

    #[test]
    fn the_earlier_of_two_limits_holds() {
        let soon = Instant::now() + Duration::from_secs(5);
        let options = RequestOptions::default().timeout(Duration::from_secs(60)).deadline(soon);
        let terms = options.terms(Extensions::CALL, Duration::ZERO, false).unwrap();
        assert_eq!(terms.deadline, Some(soon));
        let never = RequestOptions::default().timeout(Duration::MAX);
        let terms = never.terms(Extensions::CALL, Duration::from_secs(1), false).unwrap();
        assert_eq!((terms.deadline, terms.meta), (None, None));
        assert_eq!(ttl_millis(Duration::from_nanos(1)), 1);
        assert_eq!(ttl_millis(Duration::from_millis(2)), 2);
        assert_eq!(ttl_millis(Duration::MAX), 1 << 31);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_before() {
        let terms = |options: &RequestOptions, extensions| {
            options.terms(extensions, Duration::from_secs(1), false).map(drop)
        };
        let past = RequestOptions::default().deadline(Instant::now());
        let late = terms(&past, Extensions::CALL);
        assert!(matches!(late, Err(Error::Deadline { execution: Execution::Never, .. })));
        let token = CancelToken::new();
        token.cancel();
        let cancelled = terms(&RequestOptions::default().cancel(token), Extensions::NONE);
        assert!(matches!(cancelled, Err(Error::Cancelled { execution: Execution::Never })));
        let large = RequestOptions::default().header("a", "x".repeat(META_BYTES_MAX));
        assert!(matches!(terms(&large, Extensions::CALL), Err(Error::MetaTooLarge { .. })));
        let headers = terms(&RequestOptions::default().header("a", "b"), Extensions::NONE);
        assert_eq!(headers.unwrap_err().code(), Some("unsupported"));
        let stream = RequestOptions::default().terms(Extensions::NONE, Duration::ZERO, true);
        assert_eq!(stream.unwrap_err().code(), Some("unsupported"));
    }
}
