//! What a server says of the requests that a blocking connection serves: deadlines, cancels and
//! credit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::proto::system::{CancelReason, SYSTEM};
use crate::proto::{Envelope, Message, MessageType, Meta};

/// Requests that are remembered until they are answered. Of more the oldest ones are forgotten,
/// which a server only brings about that is told of no answers.
const SERVED_MAX: usize = 4096;

/// The requests of which the server said more than the message.
#[derive(Debug, Default)]
pub(super) struct Served(VecDeque<Entry>);

#[derive(Debug)]
pub(super) struct Entry {
    message_id: String,
    pub(super) deadline: Option<Instant>,
    /// The parts that the requester takes, if it takes any.
    pub(super) credit: Option<u32>,
    pub(super) sent: u64,
    pub(super) reason: Option<CancelReason>,
}

/// A notification of the server about a request.
#[derive(Deserialize)]
struct Told {
    action: String,
    message_id: String,
    reason: Option<String>,
    n: Option<u32>,
}

impl Served {
    /// Takes note of what a message says of a request. Returns whether it says nothing else.
    pub(super) fn note(&mut self, envelope: &Envelope<'_>) -> bool {
        match envelope.message_type() {
            MessageType::Request if envelope.meta().is_some() => self.note_request(envelope),
            MessageType::Notification if envelope.channel_id().matches(SYSTEM) => {
                return self.note_told(envelope);
            }
            _ => {}
        }
        false
    }

    fn note_request(&mut self, envelope: &Envelope<'_>) {
        let Some(text) = envelope.meta() else { return };
        let Ok(meta) = Meta::parse_known(text.as_str()) else { return };
        let left = meta.ttl_millis.map(|millis| Duration::from_millis(millis.into()));
        let entry = self.entry(envelope.message_id().decode().into_owned());
        entry.deadline = left.and_then(|left| Instant::now().checked_add(left));
        entry.credit = meta.stream;
    }

    fn note_told(&mut self, envelope: &Envelope<'_>) -> bool {
        let Ok(told) = envelope.payload().decode_text::<Told>() else { return false };
        match (&*told.action, told.n) {
            ("cancel", _) => {
                let reason = told.reason.as_deref().map(CancelReason::from_wire);
                let entry = self.entry(told.message_id);
                entry.reason = entry.reason.or(Some(reason.unwrap_or(CancelReason::Gone)));
            }
            ("credit", Some(more)) => {
                // Without an entry it was answered meanwhile.
                let entry = self.0.iter_mut().find(|entry| entry.message_id == told.message_id);
                if let Some(credit) = entry.and_then(|entry| entry.credit.as_mut()) {
                    *credit = credit.saturating_add(more);
                }
            }
            _ => return false,
        }
        true
    }

    pub(super) fn entry(&mut self, message_id: String) -> &mut Entry {
        let at = self.0.iter().position(|entry| entry.message_id == message_id);
        let at = at.unwrap_or_else(|| {
            if self.0.len() >= SERVED_MAX {
                self.0.pop_front();
            }
            let (deadline, credit, sent, reason) = (None, None, 0, None);
            self.0.push_back(Entry { message_id, deadline, credit, sent, reason });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(super) fn find(&self, request: &Message) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.message_id == request.message_id)
    }

    /// Forgets a request that was answered.
    pub(super) fn forget(&mut self, message_id: &str) {
        if let Some(at) = self.0.iter().position(|entry| entry.message_id == message_id) {
            self.0.remove(at);
        }
    }
}
