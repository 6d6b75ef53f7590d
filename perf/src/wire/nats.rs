//! NATS: publications to other clients or to the sender itself, and requests.
//!
//! NATS does not answer requests itself; that would take a second client. A client that publishes
//! to a subject to which it has subscribed gets its own payload back after one hop, which is the
//! work that the other peers do. Requests to a worker are what its clients make of them: a publication that
//! names the subject for the answer.

use super::fixed_frame::FixedFrame;
use super::message::{
    Exchange, PATTERN_CHANNEL, Role, Scan, Template, Until, Wire, Work, excerpt, held_patterns,
    matching_pattern, payload,
};

#[derive(Debug)]
pub(crate) struct Nats {
    work: Work,
    payload_bytes: usize,
    received: FixedFrame,
    /// A worker answers.
    is_forwarded: bool,
}

/// The subject that a worker answers.
const WORKED: &str = "worked";
const PING: &[u8] = b"PING\r\n";

impl Nats {
    pub(crate) fn new(work: Work, payload_bytes: usize) -> Self {
        let subject = subject(work, 0);
        let prefix = format!("MSG {subject} 1 {payload_bytes}\r\n").into_bytes();
        let mut received = FixedFrame::new(prefix, payload_bytes, b"\r\n");
        if work == Work::Echo {
            received.varying = 4..4 + subject.len();
        }
        Self { work, payload_bytes, received, is_forwarded: false }
    }

    /// Makes requests that a worker answers.
    pub(crate) fn forwarded(payload_bytes: usize) -> Self {
        Self { is_forwarded: true, ..Self::new(Work::Echo, payload_bytes) }
    }
}

/// Returns the subject that connection number `index` publishes to.
fn subject(work: Work, index: usize) -> String {
    match work {
        Work::Echo => format!("echo-{index:06}"),
        Work::Fanout | Work::History => "news".to_owned(),
        Work::Patterns => PATTERN_CHANNEL.to_owned(),
    }
}

impl Wire for Nats {
    fn join(&self, role: Role, index: usize) -> Vec<Exchange> {
        let mut send = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_vec();
        let subject = match (role, self.work) {
            (Role::Subscriber, Work::Patterns) => Some(matching_pattern(index)),
            (Role::Sender, Work::Echo) | (Role::Subscriber, _) => Some(subject(self.work, index)),
            (Role::IdleSubscriber, _) => Some(format!("idle-{index:06}")),
            (Role::Worker, _) => Some(WORKED.to_owned()),
            (Role::Sender | Role::Idle | Role::PatternHolder, _) => None,
        };
        if role == Role::PatternHolder {
            for (at, pattern) in held_patterns(index).enumerate() {
                send.extend_from_slice(format!("SUB {pattern} {}\r\n", at + 1).as_bytes());
            }
        }
        if let Some(subject) = subject {
            send.extend_from_slice(format!("SUB {subject} 1\r\n").as_bytes());
        }
        send.extend_from_slice(b"PING\r\n");
        vec![Exchange { send, until: Until::Text(b"PONG\r\n") }]
    }

    fn message(&self, index: usize) -> Template {
        let subject = subject(self.work, index);
        let subject = if self.is_forwarded { format!("{WORKED} {subject}") } else { subject };
        let mut bytes = format!("PUB {subject} {}\r\n", self.payload_bytes).into_bytes();
        bytes.extend_from_slice(&payload(self.payload_bytes));
        bytes.extend_from_slice(b"\r\n");
        Template::new(bytes)
    }

    fn answer(&self, received: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
        if let Some(rest) = received.strip_prefix(PING) {
            let answered = self.answer(rest)?;
            return Ok(answered.map(|(bytes, answer)| (PING.len() + bytes, answer)));
        }
        let line = memchr::memmem::find(received, b"\r\n");
        let Some(line) = line else { return Ok(None) };
        let head = std::str::from_utf8(&received[..line]).unwrap_or_default();
        let mut words = head.split(' ');
        let (Some("MSG"), Some(inbox)) = (words.next(), words.nth(2)) else {
            return Err(format!("a worker was sent {}", excerpt(received)));
        };
        let bytes = line + 2 + self.payload_bytes + 2;
        let Some(payload) = received.get(line + 2..bytes) else { return Ok(None) };
        let mut answer = format!("PUB {inbox} {}\r\n", self.payload_bytes).into_bytes();
        answer.extend_from_slice(payload);
        Ok(Some((bytes, answer)))
    }

    fn scan(&self, received: &[u8]) -> Result<Scan, String> {
        // The server pings once, soon after the connection begins, and does not need the answer
        // soon.
        if received.starts_with(PING) {
            return Ok(Scan::Aside { bytes: PING.len() });
        }
        if PING.starts_with(received) {
            return Ok(Scan::Partial);
        }
        self.received.scan(received)
    }
}
