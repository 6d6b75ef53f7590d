//! What waits for NATS, and what NATS has not confirmed.
//!
//! What servers say about themselves goes first, because a server that is not heard is gone. Tunnels and
//! publications share what is left by bytes, so that neither holds up the other one. Each of the three has an
//! order of its own.
//!
//! What was handed over is unconfirmed until a mark behind it comes back, and only so much may be: NATS' client
//! takes any amount and loses it with its connection, without a word.

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
    since: Duration,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.subject.len() + self.payload.len()
    }
}

/// Messages of one kind, in their order.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.bytes();
        Some(waiting)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What was handed over between two marks.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    mark: u64,
    messages: usize,
    bytes: usize,
    publications: u64,
    /// When the first of its publications came here.
    since: Option<Duration>,
}

/// The queue to NATS.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes_max: usize,
    presence: Queue,
    tunnels: Queue,
    publications: Queue,
    /// The bytes that tunnels are ahead of publications, or behind if it is negative.
    tunnels_ahead: isize,
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
            presence: Queue::default(),
            tunnels: Queue::default(),
            publications: Queue::default(),
            tunnels_ahead: 0,
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
    pub(crate) fn publication(&mut self, subject: String, payload: Vec<u8>, now: Duration) -> bool {
        let waiting = Waiting { subject, payload, since: now };
        let has_room = self.publications.bytes + waiting.bytes() <= self.bytes_max;
        if has_room {
            self.publications.push(waiting);
        }
        has_room
    }

    /// Drops the publications whose payloads are larger, and returns how many.
    pub(crate) fn drop_larger(&mut self, payload_bytes_max: usize) -> u64 {
        let Queue { waiting, bytes } = &mut self.publications;
        let before = waiting.len();
        waiting.retain(|waiting| waiting.payload.len() <= payload_bytes_max);
        *bytes = waiting.iter().map(Waiting::bytes).sum();
        (before - waiting.len()) as u64
    }

    /// The bytes of tunnels that wait.
    pub(crate) fn tunnel_bytes(&self) -> usize {
        self.tunnels.bytes
    }

    /// Takes what this server says about itself. Its rate is bounded. Without a connection it is dropped, since it
    /// would be out of date.
    pub(crate) fn presence(&mut self, subject: String, payload: Vec<u8>, now: Duration) {
        if self.is_connected {
            self.presence.push(Waiting { subject, payload, since: now });
        }
    }

    /// Takes a piece of a tunnel, or what must not overtake one. Credit bounds them. Without a connection there are
    /// no tunnels.
    pub(crate) fn tunnel(&mut self, subject: String, payload: Vec<u8>, now: Duration) {
        if self.is_connected {
            self.tunnels.push(Waiting { subject, payload, since: now });
        }
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self) {
        self.is_connected = true;
    }

    /// The connection is gone. Returns how many publications nobody will confirm.
    pub(crate) fn disconnected(&mut self) -> u64 {
        self.is_connected = false;
        self.presence = Queue::default();
        self.tunnels = Queue::default();
        self.tunnels_ahead = 0;
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
        let (waiting, is_publication) = self.pop()?;
        let bytes = waiting.bytes();
        self.open.messages += 1;
        self.open.bytes += bytes;
        if is_publication {
            self.open.publications += 1;
            self.open.since.get_or_insert(waiting.since);
        }
        self.unconfirmed += 1;
        self.unconfirmed_bytes += bytes;
        self.mark_at.get_or_insert(now + MARK_DELAY);
        Some(Command::Publish { subject: waiting.subject, payload: waiting.payload })
    }

    /// Returns what goes next, and whether it is a publication.
    fn pop(&mut self) -> Option<(Waiting, bool)> {
        if let Some(waiting) = self.presence.pop() {
            return Some((waiting, false));
        }
        let [has_tunnels, has_publications] =
            [&self.tunnels, &self.publications].map(|queue| !queue.is_empty());
        let is_publication = has_publications && (!has_tunnels || self.tunnels_ahead > 0);
        let queue = if is_publication { &mut self.publications } else { &mut self.tunnels };
        let waiting = queue.pop()?;
        let bytes = waiting.bytes().cast_signed();
        self.tunnels_ahead += if is_publication { -bytes } else { bytes };
        // Who has nothing to send saves nothing up for later.
        if !has_tunnels {
            self.tunnels_ahead = self.tunnels_ahead.max(0);
        }
        if !has_publications {
            self.tunnels_ahead = self.tunnels_ahead.min(0);
        }
        Some((waiting, is_publication))
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
        self.presence.bytes + self.tunnels.bytes + self.publications.bytes
    }

    /// For how long the oldest publication that NATS has not confirmed has been here; zero if there is none.
    pub(crate) fn lag(&self, now: Duration) -> Duration {
        let handed_over = self.marked.iter().chain([&self.open]).find_map(|span| span.since);
        let since = handed_over.or_else(|| self.publications.waiting.front().map(|it| it.since));
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Returns whether everything was handed over and confirmed.
    pub(crate) fn is_empty(&self) -> bool {
        let queues = [&self.presence, &self.tunnels, &self.publications];
        queues.into_iter().all(Queue::is_empty) && self.unconfirmed == 0
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

    /// Returns the first bytes of the payloads that go next.
    fn order(outbox: &mut Outbox, count: usize) -> Vec<u8> {
        let commands = std::iter::from_fn(|| outbox.next(NOW));
        let published = commands.filter_map(|command| match command {
            Command::Publish { payload, .. } => Some(payload[0]),
            _ => None,
        });
        published.take(count).collect()
    }

    #[test]
    fn presence_goes_first_and_each_kind_in_its_order() {
        let mut outbox = outbox(100);
        assert!(outbox.publication("p".into(), vec![1], NOW));
        assert!(outbox.publication("p".into(), vec![2], NOW));
        outbox.tunnel("t".into(), vec![3], NOW);
        outbox.tunnel("t".into(), vec![4], NOW);
        outbox.presence("c".into(), vec![5], NOW);
        outbox.presence("c".into(), vec![6], NOW);
        assert_eq!(order(&mut outbox, 6), [5, 6, 3, 1, 4, 2]);
    }

    /// Large chunks do not make small publications wait longer than for one of them, and have the same share.
    #[test]
    fn tunnels_and_publications_share_by_bytes() {
        let mut outbox = outbox(1 << 30);
        for _ in 0..100 {
            outbox.tunnel("t".into(), vec![b't'; 999], NOW);
        }
        for _ in 0..1_000 {
            assert!(outbox.publication("p".into(), vec![b'p'; 99], NOW));
        }
        let first = order(&mut outbox, 220);
        assert_eq!(first.split(|kind| *kind == b't').count(), 21);
        let runs = first.split(|kind| *kind == b't').map(<[u8]>::len);
        assert!(runs.skip(1).all(|run| run == 10), "{first:?}");
        let mut other = Outbox::new(1 << 30);
        other.connected();
        for _ in 0..100 {
            assert!(other.publication("p".into(), vec![b'p'; 999], NOW));
        }
        for _ in 0..1_000 {
            other.tunnel("t".into(), vec![b't'; 99], NOW);
        }
        let first = order(&mut other, 220);
        assert_eq!(first.split(|kind| *kind == b'p').count(), 21);
    }

    /// Who floods while the other one is idle owes it nothing, but who has had its turn does, also if it has
    /// nothing more to send at that moment.
    #[test]
    fn what_was_idle_saves_nothing_up_and_debts_are_paid() {
        let mut outbox = outbox(1 << 30);
        for _ in 0..50 {
            outbox.tunnel("t".into(), vec![b't'; 999], NOW);
        }
        assert_eq!(order(&mut outbox, 50), [b't'; 50]);
        for _ in 0..100 {
            assert!(outbox.publication("p".into(), vec![b'p'; 99], NOW));
        }
        outbox.tunnel("t".into(), vec![b't'; 999], NOW);
        assert_eq!(order(&mut outbox, 3), *b"tpp");
        outbox.tunnel("t".into(), vec![b't'; 999], NOW);
        outbox.tunnel("t".into(), vec![b't'; 999], NOW);
        assert_eq!(order(&mut outbox, 12), *b"pppppppptppp");
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_publication_that_is_not_confirmed() {
        let seconds = Duration::from_secs;
        let mut outbox = Outbox::new(100);
        assert_eq!(outbox.lag(seconds(9)), Duration::ZERO);
        assert!(outbox.publication("p".into(), vec![1], seconds(1)));
        assert!(outbox.publication("p".into(), vec![2], seconds(3)));
        assert_eq!(outbox.lag(seconds(4)), seconds(3));
        outbox.connected();
        outbox.presence("c".into(), vec![0], seconds(0));
        let (_, marks) = drain(&mut outbox, seconds(5));
        assert_eq!((marks.len(), outbox.lag(seconds(5))), (0, seconds(4)));
        let (_, marks) = drain(&mut outbox, seconds(6));
        assert_eq!((marks.len(), outbox.lag(seconds(6))), (1, seconds(5)));
        outbox.confirmed(marks[0]);
        assert_eq!(outbox.lag(seconds(7)), Duration::ZERO);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let mut outbox = Outbox::new(10);
        assert!(outbox.publication("p".into(), vec![0; 9], NOW));
        assert!(!outbox.publication("p".into(), vec![], NOW));
        outbox.connected();
        assert_eq!(drain(&mut outbox, NOW).0, 1);
        assert!(outbox.publication("p".into(), vec![], NOW));
    }

    #[test]
    fn what_is_over_a_smaller_limit_goes() {
        let mut outbox = outbox(100);
        for bytes in [1, 9, 5] {
            assert!(outbox.publication("p".into(), vec![0; bytes], NOW));
        }
        assert_eq!(outbox.drop_larger(5), 1);
        assert_eq!(outbox.queued_bytes(), 8);
        assert_eq!(drain(&mut outbox, NOW).0, 2);
    }

    #[test]
    fn no_more_than_the_window_is_unconfirmed_and_marks_open_it_again() {
        let mut outbox = outbox(1 << 20);
        for _ in 0..UNCONFIRMED_MAX + 100 {
            assert!(outbox.publication("p".into(), vec![0], NOW));
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
            assert!(outbox.publication("p".into(), vec![0; 1 << 20], NOW));
        }
        assert_eq!(drain(&mut outbox, NOW).0, 4);
    }

    #[test]
    fn what_was_not_confirmed_is_lost_with_the_connection_and_the_rest_is_kept() {
        let mut outbox = outbox(1 << 20);
        for _ in 0..UNCONFIRMED_MAX + 7 {
            assert!(outbox.publication("p".into(), vec![0], NOW));
        }
        outbox.presence("c".into(), vec![], NOW);
        let (_, marks) = drain(&mut outbox, NOW);
        // The presence was the first one of the first mark.
        assert_eq!(outbox.confirmed(marks[0]), MARK_EVERY as u64 - 1);
        assert_eq!(outbox.disconnected(), (UNCONFIRMED_MAX - MARK_EVERY) as u64);
        assert_eq!(outbox.next(NOW), None);
        outbox.presence("c".into(), vec![], NOW);
        outbox.connected();
        assert_eq!(drain(&mut outbox, NOW + MARK_DELAY).0, 8);
        // A mark of the connection before confirms nothing of this one.
        assert_eq!(outbox.confirmed(marks[1]), 0);
    }
}
