//! What waits for NATS, and what NATS has not confirmed.
//!
//! Control and tunnels go before publications, each in its order. What was handed over is unconfirmed until
//! a mark behind it comes back, and only so much may be: NATS' client takes any amount and loses it with its
//! connection, without a word.

use std::collections::VecDeque;
use std::time::Duration;

use super::events::Command;

/// The most messages that are unconfirmed. The client's own queue takes twice as many.
pub(crate) const UNCONFIRMED_MAX: usize = 1_024;
/// The most bytes that are unconfirmed, unless a single message has more.
pub(crate) const UNCONFIRMED_BYTES_MAX: usize = 4 << 20;
/// A mark follows so many messages.
const MARK_EVERY: usize = UNCONFIRMED_MAX / 8;
/// A mark follows so many bytes.
const MARK_EVERY_BYTES: usize = UNCONFIRMED_BYTES_MAX / 8;
/// How long the last messages wait for a mark.
const MARK_DELAY: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Waiting {
    subject: String,
    payload: Vec<u8>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.subject.len() + self.payload.len()
    }
}

/// What was handed over between two marks.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    mark: u64,
    messages: usize,
    bytes: usize,
    publications: u64,
}

/// The queue to NATS.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes_max: usize,
    control: VecDeque<Waiting>,
    publications: VecDeque<Waiting>,
    queued_bytes: usize,
    control_bytes: usize,
    is_connected: bool,
    /// Marked and not confirmed, from the oldest on.
    marked: VecDeque<Span>,
    /// Handed over behind the last mark.
    open: Span,
    /// When the open span gets its mark at the latest.
    mark_at: Option<Duration>,
    marks: u64,
    unconfirmed: usize,
    unconfirmed_bytes: usize,
}

impl Outbox {
    /// A queue of at most so many bytes of publications.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            control: VecDeque::new(),
            publications: VecDeque::new(),
            queued_bytes: 0,
            control_bytes: 0,
            is_connected: false,
            marked: VecDeque::new(),
            open: Span::default(),
            mark_at: None,
            marks: 0,
            unconfirmed: 0,
            unconfirmed_bytes: 0,
        }
    }

    /// Takes a publication, unless there is no room for it.
    pub(crate) fn publication(&mut self, subject: String, payload: Vec<u8>) -> bool {
        let waiting = Waiting { subject, payload };
        if self.queued_bytes + waiting.bytes() > self.bytes_max {
            return false;
        }
        self.queued_bytes += waiting.bytes();
        self.publications.push_back(waiting);
        true
    }

    /// Drops the publications whose payloads are larger, and returns how many.
    pub(crate) fn drop_larger(&mut self, payload_bytes_max: usize) -> u64 {
        let before = self.publications.len();
        self.publications.retain(|waiting| waiting.payload.len() <= payload_bytes_max);
        self.queued_bytes = self.publications.iter().map(Waiting::bytes).sum();
        (before - self.publications.len()) as u64
    }

    /// The bytes that go before publications.
    pub(crate) fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Takes what goes before publications. It is bounded by what makes it: credit and rates. Without a
    /// connection it is dropped, since it would be out of date.
    pub(crate) fn control(&mut self, subject: String, payload: Vec<u8>) {
        if self.is_connected {
            let waiting = Waiting { subject, payload };
            self.control_bytes += waiting.bytes();
            self.control.push_back(waiting);
        }
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self) {
        self.is_connected = true;
    }

    /// The connection is gone. Returns how many publications nobody will confirm.
    pub(crate) fn disconnected(&mut self) -> u64 {
        self.is_connected = false;
        self.control.clear();
        self.control_bytes = 0;
        self.mark_at = None;
        self.unconfirmed = 0;
        self.unconfirmed_bytes = 0;
        let marked: u64 = self.marked.drain(..).map(|span| span.publications).sum();
        marked + std::mem::take(&mut self.open).publications
    }

    /// A mark came back. Returns how many publications it confirms. A mark of an earlier connection, and one
    /// that never was, confirm nothing.
    pub(crate) fn confirmed(&mut self, mark: u64) -> u64 {
        let mut publications = 0;
        while self.marked.front().is_some_and(|span| span.mark <= mark) {
            let Some(span) = self.marked.pop_front() else { break };
            self.unconfirmed -= span.messages;
            self.unconfirmed_bytes -= span.bytes;
            publications += span.publications;
        }
        publications
    }

    /// Returns the next thing to do, if there is any.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Command> {
        if !self.is_connected {
            return None;
        }
        let is_full = self.open.messages >= MARK_EVERY || self.open.bytes >= MARK_EVERY_BYTES;
        let is_late = self.mark_at.is_some_and(|at| at <= now);
        if self.open.messages > 0 && (is_full || is_late) {
            return Some(self.mark());
        }
        // What is under way fills the window only once it is marked, so a full window comes back.
        if self.unconfirmed >= UNCONFIRMED_MAX || self.unconfirmed_bytes >= UNCONFIRMED_BYTES_MAX {
            return (self.open.messages > 0).then(|| self.mark());
        }
        let (waiting, publications) = if let Some(waiting) = self.control.pop_front() {
            self.control_bytes -= waiting.bytes();
            (waiting, 0)
        } else {
            let waiting = self.publications.pop_front()?;
            self.queued_bytes -= waiting.bytes();
            (waiting, 1)
        };
        let bytes = waiting.bytes();
        self.open.messages += 1;
        self.open.bytes += bytes;
        self.open.publications += publications;
        self.unconfirmed += 1;
        self.unconfirmed_bytes += bytes;
        self.mark_at.get_or_insert(now + MARK_DELAY);
        Some(Command::Publish { subject: waiting.subject, payload: waiting.payload })
    }

    fn mark(&mut self) -> Command {
        self.marks += 1;
        self.mark_at = None;
        self.marked.push_back(Span { mark: self.marks, ..std::mem::take(&mut self.open) });
        Command::Mark(self.marks)
    }

    /// Marks what is open without waiting.
    pub(crate) fn hurry(&mut self) {
        if self.open.messages > 0 {
            self.mark_at = Some(Duration::ZERO);
        }
    }

    /// When something is to be done although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.mark_at
    }

    /// The bytes that wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes + self.control_bytes
    }

    /// Returns whether everything was handed over and confirmed.
    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.publications.is_empty() && self.unconfirmed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn outbox(bytes_max: usize) -> Outbox {
        let mut outbox = Outbox::new(bytes_max);
        outbox.connected();
        outbox
    }

    fn drain(outbox: &mut Outbox, now: Duration) -> (usize, Vec<u64>) {
        let (mut messages, mut marks) = (0, Vec::new());
        while let Some(command) = outbox.next(now) {
            match command {
                Command::Publish { .. } => messages += 1,
                Command::Mark(mark) => marks.push(mark),
                other => panic!("{other:?}"),
            }
        }
        (messages, marks)
    }

    #[test]
    fn control_goes_first_and_each_in_order() {
        let mut outbox = outbox(100);
        assert!(outbox.publication("p".into(), vec![1]));
        assert!(outbox.publication("p".into(), vec![2]));
        outbox.control("c".into(), vec![3]);
        outbox.control("c".into(), vec![4]);
        let order: Vec<u8> = std::iter::from_fn(|| match outbox.next(NOW)? {
            Command::Publish { payload, .. } => Some(payload[0]),
            other => panic!("{other:?}"),
        })
        .collect();
        assert_eq!(order, [3, 4, 1, 2]);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let mut outbox = Outbox::new(10);
        assert!(outbox.publication("p".into(), vec![0; 9]));
        assert!(!outbox.publication("p".into(), vec![]));
        outbox.connected();
        assert_eq!(drain(&mut outbox, NOW).0, 1);
        assert!(outbox.publication("p".into(), vec![]));
    }

    #[test]
    fn what_is_over_a_smaller_limit_goes() {
        let mut outbox = outbox(100);
        for bytes in [1, 9, 5] {
            assert!(outbox.publication("p".into(), vec![0; bytes]));
        }
        assert_eq!(outbox.drop_larger(5), 1);
        assert_eq!(outbox.queued_bytes(), 8);
        assert_eq!(drain(&mut outbox, NOW).0, 2);
    }

    #[test]
    fn no_more_than_the_window_is_unconfirmed_and_marks_open_it_again() {
        let mut outbox = outbox(1 << 20);
        for _ in 0..UNCONFIRMED_MAX + 100 {
            assert!(outbox.publication("p".into(), vec![0]));
        }
        let (messages, marks) = drain(&mut outbox, NOW);
        assert_eq!(messages, UNCONFIRMED_MAX);
        assert_eq!(outbox.confirmed(marks[0]), MARK_EVERY as u64);
        assert_eq!(drain(&mut outbox, NOW).0, 100);
        assert!(!outbox.is_empty());
        let (_, late) = drain(&mut outbox, NOW + MARK_DELAY);
        assert_eq!(outbox.confirmed(late[0]), (UNCONFIRMED_MAX + 100 - MARK_EVERY) as u64);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_window_has_a_bound_in_bytes() {
        let mut outbox = outbox(128 << 20);
        for _ in 0..64 {
            assert!(outbox.publication("p".into(), vec![0; 1 << 20]));
        }
        assert_eq!(drain(&mut outbox, NOW).0, 4);
    }

    #[test]
    fn what_was_not_confirmed_is_lost_with_the_connection_and_the_rest_is_kept() {
        let mut outbox = outbox(1 << 20);
        for _ in 0..UNCONFIRMED_MAX + 7 {
            assert!(outbox.publication("p".into(), vec![0]));
        }
        outbox.control("c".into(), vec![]);
        let (_, marks) = drain(&mut outbox, NOW);
        // The control message was the first one of the first mark.
        assert_eq!(outbox.confirmed(marks[0]), MARK_EVERY as u64 - 1);
        assert_eq!(outbox.disconnected(), (UNCONFIRMED_MAX - MARK_EVERY) as u64);
        assert_eq!(outbox.next(NOW), None);
        outbox.control("c".into(), vec![]);
        outbox.connected();
        assert_eq!(drain(&mut outbox, NOW + MARK_DELAY).0, 8);
        // A mark of the connection before confirms nothing of this one.
        assert_eq!(outbox.confirmed(marks[1]), 0);
    }
}
