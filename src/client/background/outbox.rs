//! Messages on their way to the kernel: for this connection, and for the next one.

use std::collections::VecDeque;

use uuid::Uuid;

/// What a message is to the connection it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits for the next connection where it did not leave by this one.
    AnyConnection,
    /// Has no meaning on another connection: the answers of workers.
    ThisConnection,
    /// As bound, small and the client's own: it does not wait for room in the queue.
    Control,
    /// As control, and as many as the server asks for: those that wait are counted.
    Refusal,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) request: Option<Uuid>,
    /// The order in which messages were sent by those who sent them.
    pub(crate) number: u64,
}

/// Invariant: the byte counts are what the frames in `queue` and `held` have.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// For this connection. Of the first one, `head_sent` bytes are with the kernel.
    queue: VecDeque<Outgoing>,
    head_sent: usize,
    queue_bytes: usize,
    /// Of these, what refusals have.
    refusal_bytes: usize,
    /// For the next connection, by their numbers.
    held: VecDeque<Outgoing>,
    held_bytes: usize,
    next_number: u64,
}

impl Outbox {
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.queue_bytes + self.held_bytes
    }

    /// What waits for this connection.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub(crate) fn refusal_bytes(&self) -> usize {
        self.refusal_bytes
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many messages wait for the next connection.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Behind all that is for this connection; `sent` bytes of it have left, if it is the first.
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

    /// For the next connection, where its number has it.
    pub(crate) fn hold(&mut self, outgoing: Outgoing) {
        self.held_bytes += outgoing.frame.len();
        let at = self.held.partition_point(|held| held.number < outgoing.number);
        self.held.insert(at, outgoing);
    }

    /// What of the first message is still to be sent.
    pub(crate) fn rest(&self) -> Option<&[u8]> {
        self.queue.front().map(|head| &head.frame[self.head_sent..])
    }

    /// So many bytes of the first message left. Returns it if that was all.
    pub(crate) fn advance(&mut self, bytes: usize) -> Option<Outgoing> {
        self.head_sent += bytes;
        if self.head_sent < self.queue.front()?.frame.len() {
            return None;
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let head = self.queue.pop_front()?;
        self.head_sent = 0;
        let frame_bytes = head.frame.len();
        self.queue_bytes -= frame_bytes;
        self.refusal_bytes -= if head.kind == Kind::Refusal { frame_bytes } else { 0 };
        Some(head)
    }

    /// The first message is a request of which nothing has left.
    pub(crate) fn unbegun(&self) -> Option<Uuid> {
        self.queue.front().filter(|_| self.head_sent == 0)?.request
    }

    /// The first message is the request of which a part has left.
    pub(crate) fn begun(&self) -> Option<Uuid> {
        self.queue.front().filter(|_| self.head_sent > 0)?.request
    }

    pub(crate) fn skip(&mut self) {
        self.pop();
    }

    /// Takes out the requests that nobody waits for any more, and was told so.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(Uuid) -> bool) {
        let begun = usize::from(self.head_sent > 0);
        let mut at = 0;
        let keep = |outgoing: &Outgoing, bytes: &mut usize| {
            let keeps = outgoing.request.is_none_or(&is_wanted);
            *bytes -= if keeps { 0 } else { outgoing.frame.len() };
            keeps
        };
        // No refusal is a request.
        self.queue.retain(|outgoing| {
            at += 1;
            at <= begun || keep(outgoing, &mut self.queue_bytes)
        });
        self.held.retain(|outgoing| keep(outgoing, &mut self.held_bytes));
    }

    /// The connection is gone: what is free waits for the next. Returns the requests that do not.
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

    /// A new connection: what was held follows what is queued already.
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
        Outgoing { frame: vec![0; 10], kind: Kind::AnyConnection, request, number: outbox.number() }
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
        assert!(outbox.advance(4).is_none());
        outbox.retain(|_| false);
        assert_eq!((outbox.waiting_bytes(), outbox.begun()), (10, Some(ids[1])));
        assert!(outbox.link_down().is_empty());
        outbox.hold(refused);
        outbox.release();
        assert_eq!((outbox.waiting_bytes(), outbox.unbegun()), (20, Some(ids[0])));
        assert_eq!(outbox.advance(10).unwrap().request, Some(ids[0]));
        assert_eq!(outbox.rest().unwrap().len(), 10);
    }
}
