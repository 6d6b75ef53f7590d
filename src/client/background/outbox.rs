//! Messages that wait to be sent, by this connection or by the next one.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::client::wire::encoded_frame::EncodedFrame;
use crate::client::wire::encoder::strip_meta;

/// The connections by which a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any connection: if the message has not left by this one, it waits for the next.
    AnyConnection,
    /// This connection only, as for the answers of workers.
    ThisConnection,
    /// As `ThisConnection`, for small messages of the client itself, which do not wait for room in
    /// the queue.
    Control,
    /// As `Control`, for refusals of the server's requests. Since the server decides how many there
    /// are, the bytes of those that wait are counted.
    Refusal,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: EncodedFrame,
    pub(crate) kind: Kind,
    pub(crate) request: Option<Uuid>,
    /// The message's place in the order in which callers sent them.
    pub(crate) number: u64,
    /// The bytes of its `meta`, with the key, which only a connection with an extension takes.
    pub(crate) meta_bytes: usize,
}

/// Invariant: the byte counts are the sizes of the frames in `queue` and `held`.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Messages for this connection. `head_sent` bytes of the first one have been sent.
    queue: VecDeque<Outgoing>,
    head_sent: usize,
    queue_bytes: usize,
    /// The bytes of refusals among them.
    refusal_bytes: usize,
    /// Messages for the next connection, in the order of their numbers.
    held: VecDeque<Outgoing>,
    held_bytes: usize,
    next_number: u64,
}

impl Outbox {
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.queue_bytes + self.held_bytes
    }

    /// Returns the bytes that wait for this connection.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub(crate) fn refusal_bytes(&self) -> usize {
        self.refusal_bytes
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns how many messages wait for the next connection.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Appends a message for this connection. `sent` bytes of it have left, if it is the first.
    pub(crate) fn queue(&mut self, outgoing: Outgoing, sent: usize) {
        debug_assert!(sent == 0 || self.queue.is_empty());
        if self.queue.is_empty() {
            self.head_sent = sent;
        }
        let frame_bytes = outgoing.frame.len();
        self.queue_bytes += frame_bytes;
        self.refusal_bytes += if outgoing.kind == Kind::Refusal { frame_bytes } else { 0 };
        self.queue.push_back(outgoing);
    }

    /// Keeps a message for the next connection, at the place that its number gives it.
    pub(crate) fn hold(&mut self, outgoing: Outgoing) {
        self.held_bytes += outgoing.frame.len();
        let at = self.held.partition_point(|held| held.number < outgoing.number);
        self.held.insert(at, outgoing);
    }

    /// Returns the unsent part of the first message, and the messages behind it up to a request
    /// that nobody waits for any more.
    pub(crate) fn parts(&self, is_wanted: impl Fn(Uuid) -> bool) -> impl Iterator<Item = &[u8]> {
        let head = self.queue.front().into_iter().flat_map(|head| head.frame.rest(self.head_sent));
        let others = self.queue.iter().skip(1);
        let others = others.take_while(move |one| one.request.is_none_or(&is_wanted));
        head.chain(others.flat_map(|one| one.frame.rest(0)))
    }

    /// Notes that more bytes have left: takes them from `bytes` up to the end of the first message,
    /// and returns the message if that was its end.
    pub(crate) fn advance(&mut self, bytes: &mut usize) -> Option<Outgoing> {
        let left = self.queue.front()?.frame.len() - self.head_sent;
        let of_head = left.min(*bytes);
        *bytes -= of_head;
        self.head_sent += of_head;
        if of_head < left { None } else { self.pop() }
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let head = self.queue.pop_front()?;
        self.head_sent = 0;
        let frame_bytes = head.frame.len();
        self.queue_bytes -= frame_bytes;
        self.refusal_bytes -= if head.kind == Kind::Refusal { frame_bytes } else { 0 };
        Some(head)
    }

    /// Returns the first message's request, if nothing of it has left.
    pub(crate) fn unbegun(&self) -> Option<Uuid> {
        self.queue.front().filter(|_| self.head_sent == 0)?.request
    }

    /// Returns how many bytes of the first message have left.
    pub(crate) fn begun_bytes(&self) -> u64 {
        self.head_sent as u64
    }

    /// Returns the first message's request, if a part of it has left.
    pub(crate) fn begun(&self) -> Option<Uuid> {
        self.queue.front().filter(|_| self.head_sent > 0)?.request
    }

    /// Removes the first message, if a part of it has left and its frame has this size.
    pub(crate) fn take_begun(&mut self, frame_bytes: usize) -> Option<Outgoing> {
        let is_it = self.head_sent > 0 && self.queue.front()?.frame.len() == frame_bytes;
        if is_it { self.pop() } else { None }
    }

    pub(crate) fn skip(&mut self) {
        self.pop();
    }

    /// Removes requests for which nobody waits any more.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(Uuid) -> bool) {
        let begun = usize::from(self.head_sent > 0);
        let mut at = 0;
        let keep = |outgoing: &Outgoing, bytes: &mut usize| {
            let keeps = outgoing.request.is_none_or(&is_wanted);
            *bytes -= if keeps { 0 } else { outgoing.frame.len() };
            keeps
        };
        // Refusals stay, because they are not requests.
        self.queue.retain(|outgoing| {
            at += 1;
            at <= begun || keep(outgoing, &mut self.queue_bytes)
        });
        self.held.retain(|outgoing| keep(outgoing, &mut self.held_bytes));
    }

    /// Keeps messages for the next connection after this one was lost. Returns the requests that
    /// cannot be sent by another.
    pub(crate) fn link_down(&mut self) -> Vec<Uuid> {
        self.head_sent = 0;
        let mut void = Vec::new();
        (self.queue_bytes, self.refusal_bytes) = (0, 0);
        while let Some(outgoing) = self.queue.pop_back() {
            if outgoing.kind == Kind::AnyConnection {
                self.hold(outgoing);
            } else {
                void.extend(outgoing.request);
            }
        }
        void
    }

    /// Removes the `meta` of the messages for the next connection, which does not take it.
    pub(crate) fn strip_held(&mut self) {
        for held in &mut self.held {
            self.held_bytes -= held.frame.len();
            strip_meta(&mut held.frame.front, std::mem::take(&mut held.meta_bytes));
            self.held_bytes += held.frame.len();
        }
    }

    /// Removes the messages that wait for the next connection, which does not take them.
    pub(crate) fn take_held(&mut self, is_meant: impl Fn(&Outgoing) -> bool) -> Vec<Outgoing> {
        if !self.held.iter().any(&is_meant) {
            return Vec::new();
        }
        let held = std::mem::take(&mut self.held);
        let (taken, others): (Vec<_>, Vec<_>) = held.into_iter().partition(is_meant);
        self.held = others.into();
        self.held_bytes -= taken.iter().map(|one| one.frame.len()).sum::<usize>();
        taken
    }

    /// Queues the kept messages for a new connection, after those that are queued already.
    pub(crate) fn release(&mut self) {
        self.queue.append(&mut self.held);
        self.queue_bytes += std::mem::take(&mut self.held_bytes);
    }

    pub(crate) fn clear(&mut self) {
        let next_number = self.next_number;
        *self = Self { next_number, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(outbox: &mut Outbox, request: Option<Uuid>) -> Outgoing {
        let frame = EncodedFrame { front: vec![0; 10], tail: None };
        let number = outbox.number();
        Outgoing { frame, kind: Kind::AnyConnection, request, number, meta_bytes: 0 }
    }

    #[test]
    fn what_comes_back_takes_its_old_place_and_what_is_begun_is_not_taken_out() {
        let mut outbox = Outbox::default();
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let refused = outgoing(&mut outbox, Some(ids[0]));
        for id in &ids[1..] {
            let next = outgoing(&mut outbox, Some(*id));
            outbox.queue(next, 0);
        }
        assert!(outbox.advance(&mut 4).is_none());
        outbox.retain(|_| false);
        assert_eq!((outbox.waiting_bytes(), outbox.begun()), (10, Some(ids[1])));
        assert!(outbox.link_down().is_empty());
        outbox.hold(refused);
        outbox.release();
        assert_eq!((outbox.waiting_bytes(), outbox.unbegun()), (20, Some(ids[0])));
        let parts: Vec<usize> = outbox.parts(|_| true).map(<[u8]>::len).collect();
        assert_eq!(parts, [10, 10]);
        assert_eq!(outbox.parts(|id| id != ids[1]).count(), 1);
        let mut sent = 13;
        assert_eq!(outbox.advance(&mut sent).unwrap().request, Some(ids[0]));
        assert!(outbox.advance(&mut sent).is_none());
        assert_eq!(sent, 0);
        assert_eq!(outbox.parts(|_| true).next().unwrap().len(), 7);
    }
}
