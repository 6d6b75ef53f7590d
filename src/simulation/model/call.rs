//! The course of one request, and what a worker has of it.

use std::time::Duration;

use serde_json::{Map, Value};

/// What the `meta` of a message asks for.
#[derive(Clone, Debug, Default)]
pub(in crate::simulation) struct Extras {
    pub(in crate::simulation) ttl_millis: Option<u64>,
    /// The credit at the begin.
    pub(in crate::simulation) stream: Option<u64>,
    pub(in crate::simulation) idempotent: bool,
    /// The members that are passed on as they are.
    pub(in crate::simulation) relayed: Map<String, Value>,
}

/// A message by its connection and its index there.
pub(super) type Place = (usize, usize);

/// The course of a request that a worker or another thread answers.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) extras: Extras,
    /// The credits for it, each with the index of its message.
    pub(super) credits: Vec<(usize, u64)>,
    /// The indexes of the messages that cancel it.
    pub(super) cancels: Vec<usize>,
    /// The parts that workers have sent, in order.
    pub(super) sent_parts: Vec<Place>,
    pub(super) has_sent_end: bool,
    /// Parts that the requester has received.
    pub(super) parts: usize,
    /// Responses that break the rules, or may do so. The first one is certain to, if it is known to
    /// its worker.
    pub(super) faults: Vec<(Place, bool)>,
    /// Workers that it was given to.
    pub(super) tries: usize,
    pub(super) outcome: Option<Outcome>,
    /// The latest time at which its `ttl` ends.
    pub(super) due_by: Option<Duration>,
}

/// The end of a request as its requester sees it: the code of an error, or none if its worker answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome(pub(super) Option<String>);

/// A request that a worker has got.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) worker: usize,
    pub(super) id: String,
    pub(super) place: Place,
    /// The credit that it was told of, beyond that of the request.
    pub(super) credit: u64,
    /// Set once the worker has sent what ends it.
    pub(super) is_answered: bool,
    /// The reason for which it was told that the request is over.
    pub(super) told: Option<String>,
}

impl Extras {
    /// Returns the `meta` as its sender writes it.
    pub(in crate::simulation) fn meta(&self) -> Value {
        let mut meta = self.relayed.clone();
        meta.extend(self.ttl_millis.map(|ttl| ("ttl".to_owned(), ttl.into())));
        meta.extend(self.stream.map(|credit| ("stream".to_owned(), credit.into())));
        meta.extend(self.idempotent.then(|| ("idempotent".to_owned(), true.into())));
        Value::Object(meta)
    }
}

impl Call {
    /// Returns the `meta` that is passed on to subscribers.
    pub(super) fn relayed(&self) -> Value {
        Value::Object(self.extras.relayed.clone())
    }
}

/// Returns whether `call` is among some extensions.
pub(super) fn has_call(extensions: &[&str]) -> bool {
    extensions.contains(&"call")
}

/// Checks that a requester and a worker were told the same.
pub(super) fn check_pair(code: Option<&str>, told: Option<&str>) -> Result<(), String> {
    let is_pair = match (code, told) {
        (None, None) => true,
        (Some("cancelled"), told) => told == Some("caller"),
        (Some("timeout"), told) => matches!(told, Some("deadline" | "drain")),
        (Some("limit_exceeded"), told) => told == Some("limit"),
        // It is too large for a worker that it was about to get.
        (Some("unsupported"), told) => told.is_none(),
        // An answer that is too large is its worker's own.
        (Some("handler_failed"), told) => matches!(told, Some("gone" | "limit") | None),
        _ => false,
    };
    if is_pair {
        Ok(())
    } else {
        Err(format!("the requester got {code:?}, and the worker was told {told:?}"))
    }
}
